"A run that is killed, interrupted, or shared by processes ends where an undisturbed one does"
import json, shutil, signal, subprocess, sys, time
import psutil, pytest, torch
from safetensors.torch import load_file
from conftest import CPU, chance
from sisr.images import samples
from sisr.runs import load_checkpoint

SET = 'steps=60 patch=48 batch=4 width=8 blocks=1'.split()

def command(out, *more): return [sys.executable,'-m','sisr.cli','train','--recipe','photos-x4','--data',str(samples()[0].parent),'--out',str(out),'--quick','--set',*SET,*more]

def run(out, *more, **kw): return subprocess.run(command(out,*more), capture_output=True, text=True, timeout=300, **{'env':CPU, **kw})

def steps(out): return [r['step'] for r in map(json.loads, open(out/'history.jsonl')) if 'l1' in r]

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'run'
    r = run(out)
    assert r.returncode==0, r.stderr
    return out

def same(a, b):
    x,y = load_file(a/'model.safetensors'),load_file(b/'model.safetensors')
    return x.keys()==y.keys() and all(torch.equal(x[k],y[k]) for k in x)

def test_kill_9_then_resume_is_bit_equal(whole, tmp_path):
    "Killed at two random moments, with no chance to say goodbye"
    out,rng = tmp_path/'run',chance()
    for i in range(2):
        p = subprocess.Popen(command(out, *(['--resume'] if i else [])), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=CPU)
        for line in p.stderr:                                     # wait until it works, then for a random while
            if line.startswith('step'): break
        time.sleep(rng.random())
        p.send_signal(signal.SIGKILL); p.wait(); p.stderr.close()
    r = run(out, '--resume')
    assert r.returncode==0, r.stderr
    assert same(whole, out)
    assert steps(out)==steps(whole)                               # no gap, no double line

def test_interrupt_saves_and_says_so(whole, tmp_path):
    out = tmp_path/'run'
    p = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=CPU)
    for line in p.stderr:
        if line.startswith('step'): break
    p.send_signal(signal.SIGINT)
    said = p.stderr.read(); p.wait()
    assert p.returncode==130 and 'resume' in said and 'Traceback' not in said
    at = load_checkpoint(out)['step']
    assert 0<at<60
    assert run(out, '--resume').returncode==0 and same(whole, out)

TWO = [sys.executable,'-m','accelerate.commands.launch','--multi_gpu','--num_processes','2','--num_machines','1','--mixed_precision','no','--dynamo_backend','no','--num_cpu_threads_per_process','1']

def two(words): # on the CPU, even where there are GPUs
    r = subprocess.run([*TWO,*words], capture_output=True, text=True, timeout=300, env=CPU)
    assert r.returncode==0, r.stderr[-3000:]
    return r

def test_two_processes_share_a_batch(whole, tmp_path):
    "By accelerate launch, gloo on the CPU: the same patches, the same global batch, the same network; what is told is of the whole batch, once"
    out = tmp_path/'run'
    r = two(command(out)[1:])
    a,b = load_checkpoint(whole),load_checkpoint(out)
    assert (a['processes'],b['processes'])==(1,2)
    assert max((a['g'][k]-b['g'][k]).abs().max().item() for k in a['g'])<1e-4
    lines = lambda run: [json.loads(l) for l in open(run/'history.jsonl')]
    assert all(abs(x['l1']-y['l1'])<1e-4 for x,y in zip(lines(whole), lines(out)) if 'l1' in x)
    assert r.stdout.split()==[str(out/'model.safetensors')]

def test_two_processes_stop_together(tmp_path):
    "Only the second is told: both finish the step, what is saved goes on"
    words = [*command(tmp_path/'run')[1:],'steps=200']
    p = subprocess.Popen([*TWO,*words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=CPU)
    for line in p.stderr:
        if line.startswith('step'): break
    ranks = {c.environ().get('RANK'):c for c in psutil.Process(p.pid).children(recursive=True) if 'sisr.cli' in c.cmdline()}
    ranks['1'].send_signal(signal.SIGTERM)
    said = p.stderr.read(); p.wait()
    assert p.returncode and '--resume goes on' in said, said[-3000:]
    assert 0<load_checkpoint(tmp_path/'run')['step']<200
    two([*words,'--resume'])
    assert load_checkpoint(tmp_path/'run')['step']==200

def test_a_run_is_not_overwritten(whole):
    r = run(whole)
    assert r.returncode==1 and 'holds a run' in r.stderr and 'Traceback' not in r.stderr

def test_a_cut_checkpoint_is_passed_over(whole, tmp_path):
    import shutil
    out = tmp_path/'run'; shutil.copytree(whole, out); (out/'model.safetensors').unlink()
    last = sorted(out.glob('checkpoint-*.pt'))[-1]
    last.write_bytes(last.read_bytes()[:1000])
    r = run(out, '--resume')
    assert r.returncode==0 and 'damaged' in r.stderr and same(whole, out)

def test_a_file_tells_how_its_network_came_to_be(tmp_path):
    "recipe, cost, note and licence; and the same of the network it began as"
    from sisr.saving import read_header
    from sisr.images import samples
    from sisr.training import train
    small = dict(quick=True, steps=4, batch=2, patch=32, show=False)
    first = train('photos-x2', samples()[:3], tmp_path/'a', width=8, blocks=1, note='three photographs', licence='CC0-1.0', **small)
    second = train('photos-x2', samples()[:3], tmp_path/'b', init=first, **small)
    a,b = (read_header(f)['info'] for f in (first,second))
    assert a['note']=='three photographs' and a['licence']=='CC0-1.0' and a['steps']==4 and a['precision'] in ('no','bf16') and 'init' not in a
    assert b['init']['recipe']==a['recipe'] and b['init']['steps']==4 and len(b['init']['sha256'])==64
    assert b['recipe']['net']['width']==8                          # of the network, not of the recipe's name

def test_time_waited_goes_on_after_a_resume(tmp_path):
    from sisr.runs import load_checkpoint
    from sisr.stages import Stage
    from sisr.trainer import Trainer
    from sisr.generators import SRResNet
    from sisr.data import ImageSet, Patches
    from sisr.degradations import Bicubic
    from sisr.images import samples
    patches = Patches(ImageSet(samples()[:2], memory=0), 64, 4)    # nothing kept: every patch is decoded
    make = lambda: Trainer(SRResNet(4, faithful=False, width=8, blocks=1), patches, Bicubic(4), tmp_path, log=2, save=4, show=False)
    make().fit(Stage(steps=4))
    before = load_checkpoint(tmp_path)['waited']
    t = make(); t.fit(Stage(steps=8), resume=True)
    assert 0<before<=t.waited and [r['step'] for r in t.history]==[2,4,6,8]

def test_two_processes_rest_and_grow_together(tmp_path):
    "x2, then a new part alone, then all of x4: what rests has no gradient to share"
    words = ['-m','sisr.cli','train','--recipe','progressive-x4','--data',str(samples()[0].parent),'--out',str(tmp_path/'two'),'--quick','--set','steps=12','patch=32','batch=4','width=8','blocks=1']
    two(words)
    assert load_checkpoint(tmp_path/'two')['processes']==2
    words[words.index(str(tmp_path/'two'))] = str(tmp_path/'one')
    assert subprocess.run([sys.executable,*words], capture_output=True, timeout=300).returncode==0
    a,b = (load_file(tmp_path/k/'model.safetensors') for k in ('one','two'))
    assert a.keys()==b.keys() and all((a[k].float()-b[k].float()).abs().max()<2e-3 for k in a)

@pytest.mark.skipif(not (shutil.which('g++') or shutil.which('clang++')), reason='no C++ compiler')
def test_compiled_learns_the_same(whole, tmp_path):
    "On the CPU to the last bits; where nothing can be compiled, a line says so"
    r = run(tmp_path/'compiled', 'compiled=true')
    assert r.returncode==0, r.stderr
    a,b = (load_file(out/'model.safetensors') for out in (whole,tmp_path/'compiled'))
    assert max((a[k].float()-b[k].float()).abs().max().item() for k in a)<1e-4
    r = run(tmp_path/'none', 'compiled=true', env={**CPU,'CXX':str(tmp_path/'no compiler'),'TORCHINDUCTOR_CACHE_DIR':str(tmp_path/'cache')})
    assert r.returncode==1 and 'train without compiled=true' in r.stderr and 'Traceback' not in r.stderr
