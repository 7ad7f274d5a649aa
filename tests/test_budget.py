"A training by the clock: never more steps than fit, the clock decides nothing else, and a run that was killed keeps the number it began with"
import subprocess, sys
import pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file
from conftest import CPU
from test_trainer import TWO
from sisr import cli
from sisr.budget import Cost, lasting, within
from sisr.files import SisrError
from sisr.images import samples
from sisr.runs import load_checkpoint
from sisr.saving import read_header
from sisr.stages import Ramp, Stage, stretched
from sisr.training import train

SET = '--quick --set patch=32 batch=2 width=8 blocks=1'.split()

def words(out, *more): return ['train', '--recipe', 'photos-x4', '--data', str(samples()[0].parent), '--out', str(out), *SET, *map(str, more)]

def run(out, *more, how=(sys.executable,)):
    r = subprocess.run([*how, '-m', 'sisr.cli', *words(out, *more)], capture_output=True, text=True, timeout=200, env=CPU)
    assert r.returncode==0, r.stderr[-3000:]
    return r

def same(a, b):
    x,y = (load_file(f/'model.safetensors') for f in (a,b))
    return x.keys()==y.keys() and all(torch.equal(x[k],y[k]) for k in x)

PARTS = st.lists(st.tuples(st.integers(1, 20_000), st.floats(1e-3, 5), st.booleans()), min_size=1, max_size=5)

@settings(deadline=None, max_examples=60)
@given(PARTS, st.floats(0, 30), st.floats(0, 60), st.floats(1, 40_000))
def test_as_many_steps_as_fit(parts, look, start, seconds):
    "No more than fit; of small numbers the largest that does; each stage keeps its share; and the number alone makes the same stages"
    stages = tuple(Stage(f'{i}', n, ramp=Ramp() if r else None) for i,(n,_,r) in enumerate(parts))
    cost,every = Cost(tuple(c for _,c,_ in parts), look, start),lambda n: max(1, min(500, n//10))
    total = lambda made: sum(s.steps for s in made)
    fits = lambda n: lasting(stretched(stages, n), cost, every(n))<=seconds
    small = range(len(stages), 100)
    try: made = within(seconds, stages, cost, every)
    except SisrError as e:
        assert 'minutes more' in str(e) and not any(map(fits, small))
        return
    n = total(made)
    assert fits(n) and stretched(stages, n)==made
    assert n>=100 or not any(fits(m) for m in small if m>n)
    assert all(abs(s.steps-n*o.steps/total(stages))<=len(stages) for s,o in zip(made, stages))

def test_killed_then_resumed_it_keeps_its_number(tmp_path):
    "With whatever minutes it is resumed; and it is the run of as many steps, to the bit"
    out = tmp_path/'run'
    p = subprocess.Popen([sys.executable, '-m', 'sisr.cli', *words(out, '--minutes', .5)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=CPU)
    said = []
    for line in p.stderr:
        said.append(line)
        if line.startswith('step') and list(out.glob('*.pt')): p.kill(); break
    p.wait(); p.stderr.close()
    assert any(' steps in 0.5 minutes; one takes ' in line for line in said)
    n = load_checkpoint(out)['recipe']['stages'][0]['steps']
    run(out, '--minutes', 9, '--resume')
    info = read_header(out/'model.safetensors')['info']
    assert (info['steps'],info['minutes'])==(n,.5)
    run(tmp_path/'counted', f'steps={n}')
    assert same(out, tmp_path/'counted')

def tiny(name, out, **kw):
    return train(name, list(samples()[:3]), out, quick=True, patch=32, batch=2, width=8, blocks=1, show=False, **kw)

def test_with_an_adversary_the_clock_decides_nothing_else(tmp_path, monkeypatch):
    "D, its images of earlier days and the ramp too: to the bit the run of as many steps"
    monkeypatch.setattr('sisr.training.within', lambda seconds, stages, cost, every: stretched(stages, 13))
    a,b = tiny('supervised-x4', tmp_path/'a', minutes=1),tiny('supervised-x4', tmp_path/'b', steps=13)
    assert read_header(a)['info']['minutes']==1 and 'minutes' not in read_header(b)['info']
    assert same(a.parent, b.parent)

def test_two_processes_end_together(tmp_path):
    "Did they not agree how many steps there are, one would wait for the other"
    run(tmp_path/'run', '--minutes', .6, how=TWO)
    info = read_header(tmp_path/'run'/'model.safetensors')['info']
    assert info['steps']==info['recipe']['stages'][0]['steps']>0 and info['minutes']==.6

def test_what_people_get_wrong(tmp_path, capsys):
    "Each is one line"
    for more,status,told in ((['--minutes','0'], 2, 'no number of minutes'), (['--minutes','soon'], 2, 'no number of minutes'),
                             (['steps=9','--minutes','1'], 2, 'not both'), (['--minutes','0.0001'], 1, 'minutes more')):
        assert cli.main(words(tmp_path/'run', *more))==status
        err = capsys.readouterr().err
        assert told in err and len(err.splitlines())==1, err
    assert cli.main(words(tmp_path/'used', 'steps=2'))==0
    (tmp_path/'file').write_text('')
    capsys.readouterr()
    for out,told in (('used','resume it, or choose another folder'), ('file','could not be written')):
        assert cli.main(words(tmp_path/out, '--minutes', '60'))==1
        err = capsys.readouterr().err
        assert told in err and len(err.splitlines())==1, err

def test_what_python_is_given_wrong(tmp_path):
    for bad in (0, -1, float('nan'), float('inf'), 'five', True):
        with pytest.raises(SisrError, match='a number above 0 is wanted'): tiny('photos-x4', tmp_path/'run', minutes=bad)
    with pytest.raises(SisrError, match='not both'): tiny('photos-x4', tmp_path/'run', minutes=1, steps=3)
