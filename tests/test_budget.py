"A training by the clock: never more steps than fit, the clock decides nothing else, and a run that was killed keeps the number it began with"
import signal, subprocess, sys
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
    "No more than fit; with a good deal more they would not; and each stage keeps its share"
    stages = [Stage(f'{i}', n, ramp=Ramp() if r else None) for i,(n,_,r) in enumerate(parts)]
    cost,every = Cost(tuple(c for _,c,_ in parts), look, start),lambda n: max(1, min(500, n//10))
    try: made = within(seconds, stages, cost, every)
    except SisrError: return
    n = sum(s.steps for s in made)
    assert lasting(made, cost, every(n))<=seconds+look*len(stages)*3       # rounding may move a look
    assert lasting(stretched(stages, 2*n+20), cost, every(2*n+20))>seconds
    whole = sum(s.steps for s in stages)
    assert all(abs(s.steps-n*o.steps/whole)<=len(stages) for s,o in zip(made, stages))

def test_killed_then_resumed_it_keeps_its_number(tmp_path):
    "With whatever minutes it is resumed; and it is the run of as many steps, to the bit"
    out = tmp_path/'run'
    p = subprocess.Popen([sys.executable, '-m', 'sisr.cli', *words(out, '--minutes', .15)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=CPU)
    said = [line for line in iter(p.stderr.readline, '') if not (line.startswith('step') and list(out.glob('*.pt')) and not p.send_signal(signal.SIGKILL))]
    p.wait(); p.stderr.close()
    assert any(' steps in 0.15 minutes; one takes ' in s for s in said)
    n = load_checkpoint(out)['recipe']['stages'][0]['steps']
    run(out, '--minutes', 9, '--resume')
    assert read_header(out/'model.safetensors')['info']['steps']==n
    run(tmp_path/'counted', f'steps={n}')
    assert same(out, tmp_path/'counted')

def test_two_processes_agree_how_many(tmp_path):
    run(tmp_path/'run', '--minutes', .25, how=TWO)
    info = read_header(tmp_path/'run'/'model.safetensors')['info']
    assert info['steps']==info['recipe']['stages'][0]['steps']>0 and info['minutes']==.25

def test_what_people_get_wrong(tmp_path, capsys):
    "Each is one line, before anything is tried"
    for more,status,told in ((['--minutes','0'], 2, 'no number of minutes'), (['--minutes','soon'], 2, 'no number of minutes'),
                             (['steps=9','--minutes','1'], 2, 'not both'), (['--minutes','0.0001'], 1, 'too few')):
        assert cli.main(words(tmp_path/'run', *more))==status
        err = capsys.readouterr().err
        assert told in err and len(err.splitlines())==1, err
    assert cli.main(words(tmp_path/'used', 'steps=2'))==0
    capsys.readouterr()
    assert cli.main(words(tmp_path/'used', '--minutes', '60'))==1
    assert 'resume it, or choose another folder' in capsys.readouterr().err
