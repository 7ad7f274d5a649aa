"The package as others get it: light to import, complete in a wheel, alone in an environment of its own."
import importlib.metadata as md, os, subprocess, sys, venv
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

def test_import_is_light():
    "`import sisr` brings no heavy library; the names it promises are there"
    code = ('import sys, sisr; heavy = {"torch", "torchvision", "matplotlib", "IPython", "accelerate", "PIL", "torchmetrics"} & set(sys.modules); '
            'assert not heavy, heavy; assert set(sisr.__all__) <= set(dir(sisr)); [getattr(sisr, n) for n in sisr.__all__]')
    subprocess.run([sys.executable, '-c', code], check=True)

def test_modules_are_light():
    "No room brings torchvision, matplotlib, notebooks or accelerate before it is asked to"
    rooms = [f'sisr.{f.stem}' for f in (ROOT/'sisr').glob('[a-z]*.py')]
    code = (f'import sys, importlib; [importlib.import_module(m) for m in {rooms}]; '
            'heavy = {"torchvision", "matplotlib", "IPython", "accelerate", "torchmetrics", "nbdev"} & set(sys.modules); assert not heavy, heavy')
    subprocess.run([sys.executable, '-c', code], check=True)

@pytest.mark.parametrize('file', sorted((ROOT/'sisr').glob('*.py')), ids=lambda f: f.stem)
def test_no_name_is_missing(file):
    "A module has all names that it uses: what only its notebook has imported is not there for users"
    import builtins, importlib, symtable
    there = {*vars(importlib.import_module(f'sisr.{file.stem}' if file.stem != '__init__' else 'sisr')), *vars(builtins)}
    def used(table):
        "Global names in a scope and those within"
        yield from (s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global())
        for t in table.get_children(): yield from used(t)
    top = symtable.symtable(file.read_text(), str(file), 'exec')
    assert not {*used(top)} - there - {s.get_name() for s in top.get_symbols() if s.is_assigned()}

def requirements(name, seen=None):
    "The distributions that `name` needs to run, and what those need: name -> distribution"
    from packaging.requirements import Requirement
    seen = {} if seen is None else seen
    for r in map(Requirement, md.distribution(name).requires or []):
        extras = [{'extra': e} for e in r.extras] or [{'extra': ''}]
        if r.name in seen or not (r.marker is None or r.marker.evaluate({'extra': ''})): continue
        try: seen[r.name] = md.distribution(r.name)
        except md.PackageNotFoundError: continue
        requirements(r.name, seen)
        for e in r.extras:
            for x in map(Requirement, seen[r.name].requires or []):
                if x.marker and x.marker.evaluate({'extra': e}) and not x.marker.evaluate({'extra': ''}) and x.name not in seen:
                    try: seen[x.name] = md.distribution(x.name)
                    except md.PackageNotFoundError: continue
                    requirements(x.name, seen)
    return seen

def layered(folder):
    "A new environment that sees, by links, only what sisr requires to run: no second PyTorch, and nothing of the dev extra"
    venv.create(folder, with_pip=False, symlinks=os.name != 'nt')
    python = folder/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    site = Path(subprocess.run([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], capture_output=True, text=True, check=True).stdout.strip())
    for d in requirements('sisr').values():
        for top in {f.parts[0] for f in d.files or [] if f.parts[0] not in ('..', '__pycache__')}:
            if not (site/top).exists(): (site/top).symlink_to(Path(d.locate_file(top)).resolve())
    return python

@pytest.mark.slow
def test_wheel(checkout, tmp_path):
    "sdist -> wheel -> clean environment -> `sisr upscale`, far from the checkout"
    env = {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'SISR'))}
    def run(*cmd):
        "What a command of the new environment (or another, by its path) prints"
        res = subprocess.run([python.parent/cmd[0], *cmd[1:]], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert res.returncode == 0, f'{cmd}\n{res.stdout}{res.stderr}'
        return res.stdout
    python = layered(tmp_path/'env')
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', tmp_path/'dist', checkout)
    wheel, = (tmp_path/'dist').glob('*.whl')
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--quiet', '--no-deps', '--no-index', wheel)
    run(sys.executable, '-m', 'pip', '--python', python, 'check')
    where, n = run('python', '-c', 'import sisr, sisr.images as i; print(i.__file__, len(i.samples()))').split()
    assert Path(where).is_relative_to(tmp_path/'env') and int(n) == len(list((ROOT/'sisr'/'samples').glob('*.jpg')))
    assert (run('python', '-c', 'import importlib.util as u; print(u.find_spec("nbdev"), u.find_spec("IPython"))').split()) == ['None', 'None']
    assert 'photos-x4' in run('sisr', 'models')
    run('python', '-c', 'from sisr.images import sample; from PIL import Image; Image.open(sample()).resize((96, 64)).save("small.png")')
    run('sisr', 'upscale', 'small.png', '-o', 'out')
    from PIL import Image
    done, = (tmp_path/'out').iterdir()
    assert Image.open(done).size == (384, 256)
