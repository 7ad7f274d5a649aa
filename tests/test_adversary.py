"A run with an adversary: killed anywhere it ends as if undisturbed; what goes wrong is one line, and costs nothing that was saved"
import json, os, shutil, signal, subprocess, sys, time
import pytest, torch
from dataclasses import asdict, replace
from PIL import Image
from safetensors.torch import load_file
from conftest import CPU, chance
from sisr.adversary import Adversary
from sisr.cli import main
from sisr.degradations import Bicubic
from sisr.generators import SRResNet
from sisr.saving import load_model
from sisr.images import Picture, SisrError, SisrWarning, from_uint8, samples, to_uint8
from sisr.losses import PerceptualLoss, VGG19
from sisr.metrics import Pairs, Protocol
from sisr.recipes import change, recipe
from sisr.training import train
from sisr.runs import load_checkpoint, save_checkpoint
from sisr.stages import Climb, Ramp, Stage
from sisr.trainer import Trainer

SET = 'steps=24 patch=48 batch=4 width=8 blocks=1'.split()       # 15 of pixels, 5 of D alone at most, 4 of both

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A folder of eleven photographs, 64x64; one is kept aside"
    to = tmp_path_factory.mktemp('small')
    for f in samples()[:11]:
        with Image.open(f) as img: img.convert('RGB').crop((200,100,264,164)).save(to/f'{f.stem}.png')
    return to


def words(small, out, *more): return ['train','--recipe','supervised-x4','--quick','--data',str(small),'--out',str(out),'--set',*SET,*more]

def begin(small, out, *more):
    return subprocess.Popen([sys.executable,'-m','sisr.cli',*words(small,out,*more)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=CPU)

def finish(small, out, *more):
    p = begin(small, out, *more)
    said = p.communicate(timeout=300)[1]
    assert p.returncode==0, said
    return said

@pytest.fixture(scope='module')
def whole(small, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'run'
    finish(small, out)
    return out

def same(a, b, but=('seconds','waited')):
    "Equal to the last bit, however deep; the time apart"
    if isinstance(a, torch.Tensor): return a.dtype==b.dtype and torch.equal(a, b)
    if isinstance(a, dict): return a.keys()==b.keys() and all(same(a[k], b[k], but) for k in a if k not in but)
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(same(x, y, but) for x,y in zip(a, b))
    return type(a)==type(b) and a==b

def rows(out): return [json.loads(l) for l in (out/'history.jsonl').read_text().splitlines()]

def same_run(a, b):
    "Network, history and last checkpoint: G, D, average, optimisers, replay, ramp, what was best"
    assert same(load_file(a/'model.safetensors'), load_file(b/'model.safetensors'))
    assert same(rows(a), rows(b))
    x,y = load_checkpoint(a),load_checkpoint(b)
    assert not [k for k in x if not same(x[k], y.get(k)) and k not in ('seconds','waited','rng')]
    return x

def test_kill_9_in_each_stage_then_resume_is_bit_equal(small, whole, tmp_path):
    "At a random moment of pixels, of D alone, of both"
    out,rng,more = tmp_path/'run',chance(),[]
    for first,last in ((2,13),(15,16),(19,22)):                     # the kill comes up to half a second after such a step
        p,at = begin(small, out, *more),rng.randint(first,last)
        for line in p.stderr:
            if line.startswith('step ') and int(line.split()[1].split('/')[0].rstrip(':'))>=at: break
        time.sleep(rng.random()/2)
        p.send_signal(signal.SIGKILL); p.wait(); p.stderr.close()
        more = ['--resume']
    finish(small, out, '--resume')
    state = same_run(whole, out)
    k,last = state['adversary']['k'],state['step']
    assert last==15+k<=24 and len(state['adversary']['replay']['items'])==4*-(-k//8)      # a batch of four in each eight steps
    assert [r['step'] for r in rows(out) if 'l1' in r or 'd' in r]==list(range(1,last+1))
    assert [r for r in rows(out) if r.get('decision')=='begun']

def test_a_cut_checkpoint_is_passed_over(small, whole, tmp_path):
    out = tmp_path/'run'; shutil.copytree(whole, out); (out/'model.safetensors').unlink()
    last = sorted(out.glob('checkpoint-*.pt'))[-1]
    last.write_bytes(last.read_bytes()[:-1000])
    said = finish(small, out, '--resume')
    assert 'damaged' in said and 'Traceback' not in said
    same_run(whole, out)

def test_a_resume_leaves_the_random_states_alone(small, tmp_path):
    t = trainer(Photos(small), tmp_path, save=2); t.fit(replace(BOTH, steps=4, losses=dict(vgg=1.)))
    whole = load_checkpoint(tmp_path)
    (tmp_path/'checkpoint-00000004.pt').unlink()
    t = trainer(Photos(small), tmp_path, save=2); t.fit(replace(BOTH, steps=4, losses=dict(vgg=1.)), resume=True)
    assert same(whole['rng'], load_checkpoint(tmp_path)['rng'])

# a full disk

@pytest.fixture
def tiny_disk(tmp_path):
    "A file system of 8 MB: two checkpoints fit, three do not"
    at = tmp_path/'disk'; at.mkdir()
    if not shutil.which('mount') or subprocess.run(['mount','-t','tmpfs','-o','size=8m','none',str(at)], capture_output=True).returncode: pytest.skip('no right to mount')
    yield at
    subprocess.run(['umount',str(at)], check=True)

def told(err):
    "What was said that is no line of progress"
    return [l for l in err.splitlines() if not l.startswith('step ')]

def test_a_full_disk_costs_no_checkpoint(small, tiny_disk, capsys):
    assert main(words(small, tiny_disk/'run'))==1
    said, = told(capsys.readouterr().err)
    assert 'could not be written' in said and 'intact' in said
    assert load_checkpoint(tiny_disk/'run')['step']==4 and not list((tiny_disk/'run').glob('*.part'))

def test_a_full_disk_is_called_full(tiny_disk):
    with pytest.raises(SisrError, match='No space left'): save_checkpoint(dict(x=torch.zeros(2**22)), tiny_disk, 1)

def test_no_room_for_the_history_is_one_clear_line(small, tiny_disk, capsys, monkeypatch):
    def filled(self, row, was=Trainer._write):
        with open(tiny_disk/'filler','ab', buffering=0) as f:
            for n in (2**16,1):
                try:
                    while f.write(b'x'*n)==n: pass
                except OSError: pass
        return was(self, row)
    monkeypatch.setattr(Trainer, '_write', filled)
    assert main(words(small, tiny_disk/'run'))==1
    said, = told(capsys.readouterr().err)
    assert 'history' in said and 'No space left' in said and 'report this' not in said

@pytest.mark.parametrize('what', ['frames','model.safetensors','curve.png'])
def test_whatever_else_cannot_be_written_is_named(small, tmp_path, monkeypatch, what):
    "The folder stands as a file in the way, or the disk is full"
    out = tmp_path/'run'; out.mkdir()
    if what=='frames': (out/what).write_text('in the way')
    else: (out/(what+'.part')).mkdir(); (out/what).mkdir()
    with pytest.raises(SisrError, match=f'{what}.* (could not|cannot) be written') as e:
        train('photos-x4', small, out, quick=True, show=False, steps=2, patch=32, batch=2, width=8, blocks=1, save=1)
    assert '\n' not in str(e.value) and (what=='frames' or load_checkpoint(out))

def test_a_run_where_no_folder_can_be(small, tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(SisrError, match='could not be written'):
        train('photos-x4', small, tmp_path/'file'/'run', quick=True, show=False, steps=2, patch=32, batch=2, width=8, blocks=1)

def test_a_disk_that_fills_up_at_the_last_moment(tmp_path, monkeypatch):
    "fsync says so: the one before stays, no half file does"
    state = dict(step=1, x=torch.arange(4.))
    save_checkpoint(state, tmp_path, 1)
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(SisrError, match='No space left') as e: save_checkpoint({**state,'step':2}, tmp_path, 2)
    assert '\n' not in str(e.value)
    assert same(load_checkpoint(tmp_path), state) and [f.name for f in tmp_path.iterdir()]==['checkpoint-00000001.pt']

# trainers of a second

class Photos:
    "Batches of 4 photographs, cut to 32x32"
    def __init__(self, small): self.x = torch.cat([to_uint8(Picture.open(f).color) for f in sorted(small.iterdir())[:4]])
    def __getitem__(self, k): return self.x[..., k%32:k%32+32, :32]

class Noise:
    "Batches that no enlargement can look like"
    def __getitem__(self, k): return torch.randint(256, (4,3,32,32), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))

def adversary(**kw): return Adversary('srgan', dict(size=16, width=8, bn=False), **{'replay':16, **kw})

def trainer(patches, out, **kw):
    torch.manual_seed(0)                                            # of the networks
    g = SRResNet(4, faithful=False, width=8, blocks=1)
    return Trainer(g, patches, Bicubic(4), out, **{'adversary':adversary(), 'log':1, 'save':2, 'show':False, **kw})

BOTH = Stage('both', 8, 1e-3, losses=dict(l1=1.), rate_d=1e-3, adversary=.01)

def finite(s):
    "Is every number in there one?"
    if isinstance(s, torch.Tensor): return bool(s.isfinite().all())
    return all(map(finite, s.values() if isinstance(s, dict) else s)) if isinstance(s, (dict,list,tuple)) else True

@pytest.mark.parametrize('name', ['l1','adv','d'])
def test_a_loss_that_is_no_number_is_named_and_nothing_broken_is_kept(small, tmp_path, name):
    "NaN from step 6 on, told at the next line, step 7"
    t = trainer(Photos(small), tmp_path, log=7)
    broken = lambda f: lambda *a: f(*a)*(torch.nan if t.k>=5 else 1.)
    kind = t.adversary.loss
    if name=='l1':  t.losses['l1'] = broken(lambda sr,hr: (sr-hr).abs().mean())
    if name=='d':   kind.d = broken(kind.d)
    if name=='adv': kind.g = broken(kind.g)
    with pytest.raises(SisrError, match=rf'loss {name} .* step 6\b'): t.fit(BOTH)
    state = load_checkpoint(tmp_path)
    assert state['step']==4 and finite([state[k] for k in ('g','ema','opt','adversary')])
    assert all(v==v for r in t.history for v in r.values())

def test_weights_that_broke_under_a_good_loss_are_not_kept(small, tmp_path):
    "The gradient of step 4 is no number, the loss is one"
    t = trainer(Photos(small), tmp_path)
    t.losses['l1'] = lambda sr,hr: (sr-hr).abs().mean() + ((sr*0).sum().sqrt() if t.k==3 else 0.)
    with pytest.raises(SisrError): t.fit(BOTH)
    assert finite([load_checkpoint(tmp_path)[k] for k in ('g','ema','opt')])

def test_the_advice_after_a_nan_can_be_followed(small, tmp_path):
    "Another run with a lower rate goes through"
    t,lower = trainer(Photos(small), tmp_path/'a'),replace(BOTH, rate=1e-4)
    t.losses['l1'] = lambda sr,hr: (sr-hr).abs().mean()*(torch.nan if t.k>=5 else 1.)
    with pytest.raises(SisrError, match='begin another run with a lower rate'): t.fit(BOTH)
    assert trainer(Photos(small), tmp_path/'b').fit(lower)[-1]['step']==8

def test_a_d_that_knows_every_fake_is_told(tmp_path):
    "HR is noise, which G cannot make"
    t = trainer(Noise(), tmp_path, adversary=adversary(replay=0), save=1000)
    with pytest.warns(SisrWarning, match='D calls every SR fake'): t.fit(replace(BOTH, steps=60, shape='flat', warmup=0.))
    assert any(r['d_right']>.99 and r['d_fake']<.01 for r in t.history)

# the ramp

@pytest.mark.parametrize('blind,scores,said,weight', [
    (False, [3,2,1],     'raised raised raised',            .08),
    (False, [3,3,4,2],   'raised held held raised',         .04),    # an equal score is none better; a better one wipes misses out
    (False, [3,4,4,4],   'raised held held stopped',        .02),
    (False, [5,4,3,2,1], 'raised raised raised raised best', .1),    # never above `most`
    (True,  [3,4,5,6],   'raised raised raised raised',     .1)])
def test_what_a_ramp_decides(blind, scores, said, weight):
    c = Climb(.01)
    assert [c.decide(Ramp(2., .1, 3, blind), s, k) for k,s in enumerate(scores)]==said.split()
    assert c.weight==pytest.approx(weight) and c.best==min(scores) and c.at==scores.index(min(scores))

@pytest.fixture
def pairs(small): return Pairs(sorted(small.iterdir())[:1], 4, Protocol.named('standard', perceptual=None))

def test_a_ramp_ends_at_its_best_state_to_the_last_bit(small, pairs, tmp_path):
    "The rate is so high that G gets worse and worse"
    t = trainer(Photos(small), tmp_path, val=pairs, ema=0.)
    t.fit(replace(BOTH, steps=40, rate=.3, warmup=0., ramp=Ramp(patience=2)))
    looks = [r for r in t.history if 'vgg_distance' in r]
    best = min(looks, key=lambda r: r['vgg_distance'])
    assert [r['decision'] for r in looks[-2:]]==['held','stopped'] and t.k<40
    assert t.history[-1]['decision']=='rolled back' and t.history[-1]['to']==best['step']<t.k
    assert t.validate()['vgg_distance']==pytest.approx(best['vgg_distance'], abs=1e-6)
    before,last = (torch.load(f, weights_only=True) for f in sorted(tmp_path.glob('checkpoint-*.pt')))
    kept = before['best']
    assert all(same(kept[k], last[k]) for k in ('g','ema','opt')) and all(same(kept['adversary'][k], last['adversary'][k]) for k in ('d','opt'))
    assert not same(before['g'], last['g']) and last['stage']==1

def test_a_file_tells_of_the_state_it_holds(small, tmp_path, monkeypatch):
    "After a roll-back, not of the last look"
    r = replace(recipe('supervised-x4'), net=dict(faithful=False, width=8, blocks=1), patch=32, batch=2, ema=0., look=2, adversary=dict(d='srgan', arch=dict(size=32, width=8)),
                stages=(Stage('pixels', 2), replace(BOTH, steps=20, rate=.3, warmup=0., ramp=Ramp(patience=2))))
    info = json.loads(json.dumps(load_model(train(r, small, tmp_path/'run', show=False)).info))
    rolled = rows(tmp_path/'run')[-1]
    assert rolled['decision']=='rolled back' and info['kept']==info['held_out']['step']==rolled['to']<info['steps']

@pytest.mark.parametrize('other', [dict(log=3), dict(save=4)])
def test_a_resume_with_other_looks_is_refused(small, tmp_path, other):
    trainer(Photos(small), tmp_path).fit(replace(BOTH, steps=4))
    with pytest.raises(SisrError, match='resume with the same'): trainer(Photos(small), tmp_path, **other).fit(replace(BOTH, steps=8), resume=True)

def test_a_history_shorter_than_its_checkpoint_is_told(small, tmp_path):
    trainer(Photos(small), tmp_path).fit(replace(BOTH, steps=4))
    book = tmp_path/'history.jsonl'; book.write_text(book.read_text().splitlines()[0]+'\n')
    with pytest.raises(SisrError, match='1 lines where the checkpoint knows of'): trainer(Photos(small), tmp_path).fit(replace(BOTH, steps=8), resume=True)

def test_a_ramp_without_images_to_look_at(small, tmp_path):
    with pytest.raises(SisrError, match='validation images'): trainer(Photos(small), tmp_path).fit(replace(BOTH, ramp=Ramp()))

# settings

def test_settings_of_a_gan_recipe():
    "A rate is G's: where G rests it goes on resting, and D's stays"
    was,r = recipe('supervised-x4'),change(recipe('supervised-x4'), rate='5e-4', steps='98', patch='32', seed=3)
    assert [s.rate for s in r.stages]==[5e-4,0,5e-4] and [s.rate_d for s in r.stages]==[s.rate_d for s in was.stages]
    assert [s.steps for s in r.stages]==[55,3,40] and (r.patch,r.seed,r.adversary,r.hard)==(32,3,was.adversary,was.hard)
    assert [(s.losses,s.adversary,s.ramp) for s in r.stages]==[(s.losses,s.adversary,s.ramp) for s in was.stages]

@pytest.mark.parametrize('stage', [replace(BOTH, rate_d=0.), replace(BOTH, adversary=0.)])
def test_a_stage_that_needs_an_adversary_says_so(small, tmp_path, stage):
    with pytest.raises(SisrError, match='stage both needs an adversary'): trainer(Photos(small), tmp_path, adversary=None).fit(stage)

def test_an_unknown_loss_is_answered_with_the_known(small, tmp_path):
    with pytest.raises(SisrError, match="'lpips'; there are l1, mse, vgg"): trainer(Photos(small), tmp_path).fit(replace(BOTH, losses=dict(lpips=1.)))

@pytest.mark.parametrize('wrong', [dict(losses=dict(lpips=1.)), dict(ramp=Ramp()), dict(adversary=.01)])
def test_what_a_later_stage_lacks_is_said_before_the_first_step(small, tmp_path, wrong):
    t = trainer(Photos(small), tmp_path, adversary=None)
    with pytest.raises(SisrError): t.fit([Stage(steps=2), Stage('later', 2, **wrong)])
    assert t.k==0

def test_an_unknown_discriminator_or_kind_is_answered_with_the_known():
    with pytest.raises(SisrError, match="'patchgan'; there are srgan, unet"): Adversary('patchgan')
    with pytest.raises(SisrError, match="wgan.* there are bce, hinge"): adversary(loss='wgan')

@pytest.mark.filterwarnings('ignore:.*D was to be right')
def test_a_run_is_its_seed(small, tmp_path):
    go = lambda name, seed: train('supervised-x4', small, tmp_path/name, quick=True, show=False, steps=8, patch=32, batch=2, width=8, blocks=1, seed=seed, save=4)
    a,b,c = (load_file(go(*x)) for x in (('a',0),('b',0),('c',1)))
    assert same(a, b) and not same(a, c)
    same_run(tmp_path/'a', tmp_path/'b')

# what VGG19 costs, and whose it is

def test_vgg_looks_once_at_each_and_keeps_no_gradients(small, tmp_path):
    "A batch: once HR, without gradients, and once SR, with"
    loss,seen = PerceptualLoss(),[]
    loss.vgg.convs['conv1_1'].register_forward_hook(lambda m,i,o: seen.append(o.requires_grad))
    trainer(Photos(small), tmp_path, losses=dict(vgg=loss)).fit(replace(BOTH, steps=2, losses=dict(vgg=1.)))
    assert seen==[False,True]*2
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())

def test_vgg_by_torchvision_agrees_with_torchvision(small, monkeypatch):
    "conv3_4 before its ReLU, of the same random weights: 1e-4 of its size"
    from torchvision.models import VGG19_Weights, vgg
    torch.manual_seed(0)
    features = vgg.make_layers(vgg.cfgs['E']).eval()
    monkeypatch.setattr(VGG19_Weights, 'get_state_dict', lambda self, **_: {f'features.{k}':v for k,v in features.state_dict().items()})
    x = from_uint8(Photos(small)[0])
    mean,std = (torch.tensor(v).view(1,3,1,1) for v in ((.485,.456,.406),(.229,.224,.225)))
    with torch.no_grad(): ours,theirs = VGG19(source='torchvision')(x)['conv3_4'],features[:17](((x+1)/2-mean)/std)
    assert ours.shape==theirs.shape and theirs.min()<0
    assert (ours-theirs).abs().max()<1e-4*theirs.abs().max()
