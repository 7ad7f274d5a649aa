"The notebooks are the one source: modules, README and pages are what they say, and each is furnished like the others."
import ast, json, re, subprocess, sys
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
import nbformat
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
BIN = Path(sys.executable).parent

def texts(folder): return {str(f.relative_to(folder)): f.read_bytes() for p in ('nbs/**/*.ipynb', 'sisr/**/*.py', 'pyproject.toml') for f in folder.glob(p)}

def changed(a, b): return sorted(f for f in a.keys() | b.keys() if a.get(f) != b.get(f))

def test_modules_are_exported_and_notebooks_clean(checkout):
    before = texts(checkout)
    for cmd in 'nbdev_export', 'nbdev_clean': subprocess.run([BIN/cmd], cwd=checkout, check=True)
    assert not changed(before, texts(checkout)), 'run `make docs` and commit what changed'

def test_readme_is_the_index(site):
    assert (ROOT/'README.md').read_text() == site.readme(), 'run `make docs` and commit README.md'

def test_pages_links_and_docs(site, tmp_path):
    "All pages can be made, all their links lead somewhere, nothing comes from elsewhere, and docs/ reads the same"
    out = tmp_path/'docs'
    subprocess.run([sys.executable, '-W', 'ignore', ROOT/'.ci'/'site.py', '--docs', out, '--readme', tmp_path/'README.md'], cwd=ROOT, check=True)
    assert not site.broken(out)
    if sys.version_info[:2] != (3, 11): pytest.skip('docs/ is made with Python 3.11; others print signatures differently')
    read = lambda folder: {str(f.relative_to(folder)): site.Page(f.read_text()).reading() for f in folder.rglob('*.html')}
    assert not changed(read(ROOT/'docs'), read(out)), 'run `make docs` and commit docs/'
    assert not site.broken(ROOT/'docs')

def test_charts_are_stored_in_few_colours(runner):
    "A chart loses most of its bytes and nothing that an eye could see; a photograph, and what is seen through, stay as they are"
    def png(img): img.save(f := BytesIO(), 'PNG'); return b64encode(f.getvalue()).decode()
    def read(text): return np.asarray(Image.open(BytesIO(b64decode(text))).convert('RGB'), int)
    fig = Figure(figsize=(6, 3), layout='constrained'); ax = fig.subplots()
    for k in range(4): ax.plot(np.sin(np.arange(60)/9+k), label=f'run {k}')
    ax.legend(); fig.savefig(f := BytesIO(), format='png')
    chart = b64encode(f.getvalue()).decode(); few = runner.light(chart)
    assert len(few) < .6*len(chart) and np.abs(read(few)-read(chart)).max() <= 16
    assert runner.light(few) == few, 'a second run changes nothing'
    photo = Image.open(ROOT/'sisr'/'samples'/'budgie.jpg').crop((0, 0, 200, 200))
    for as_it_was in png(photo), png(Image.new('RGBA', (40, 40), (200, 0, 0, 90))): assert runner.light(as_it_was) == as_it_was

def test_photographs_are_stored_as_jpeg(runner):
    "At most .8 of the bytes, and hardly another picture; charts, and what is seen through, stay PNG"
    def png(img): img.save(f := BytesIO(), 'PNG'); return b64encode(f.getvalue()).decode()
    def kept(png): return runner.tidy([nbformat.v4.new_output('display_data', {'image/png': png, 'text/plain': 'x'})])[0]['data']
    img = Image.open(ROOT/'sisr'/'samples'/'budgie.jpg').crop((0, 0, 200, 200)); whole = png(img); data = kept(whole)
    assert set(data) == {'image/jpeg', 'text/plain'} and len(data["image/jpeg"]) <= .8*len(whole)
    assert np.abs(np.asarray(Image.open(BytesIO(b64decode(data['image/jpeg']))), int)-np.asarray(img, int)).mean() < 1.5
    paper = Image.new('RGB', (200, 200), 'white'); paper.paste((0, 0, 0), (50, 50, 150, 51))
    for other in png(paper), png(Image.new('RGBA', (40, 40), (200, 0, 0, 90))): assert 'image/png' in kept(other)

def source(cell): return ''.join(cell['source'])

def test_notebooks_name_each_other_rightly():
    "Where no site is made, in Jupyter and on GitHub, a link is the name of a file"
    links = [(p, link) for p in NOTEBOOKS for c in json.loads(p.read_text())['cells'] for link in re.findall(r'\]\(([\w./-]+\.ipynb)', source(c))]
    assert len(links) > 200 and not [f'{p.name}: {link}' for p, link in links if not (p.parent/link).is_file()]

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_furnished(path):
    "Title and promise; results kept, none of them an error or a warning; imports in cells of their own; nothing of this machine"
    cells = json.loads(path.read_text())['cells']
    assert re.match(r'# \S', source(cells[0])) and re.search(r'^> \S', source(cells[0]), re.M), 'first cell: # Title and > promise'
    code = [c for c in cells if c['cell_type'] == 'code']
    outputs = [o for c in code for o in c.get('outputs', [])]
    assert outputs, 'no output is kept: run .ci/notebooks.py on it'
    assert not [o for o in outputs if o['output_type'] == 'error']
    assert not [o for o in outputs if o.get('name') == 'stderr'], 'stderr changes on every run: silence it'
    text = json.dumps([o for o in outputs], ensure_ascii=False)
    assert not re.search(r'/(home|root|tmp|Users|work)/\w', re.sub(r'"image/\w+": "[^"]*"', '', text)), 'a path of some machine in an output'
    for s in map(source, code):
        if re.search(r'^\s*#\|\s*(export|exec_doc|eval: *false)', s, re.M) or re.match(r'\s*[!%]', s): continue
        tree = ast.parse(s)
        imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert not imports or all(n in imports for n in tree.body), f'imports go into a cell of their own (docs run it alone):\n{s}'
