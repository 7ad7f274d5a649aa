"A network that grows: nothing it knew is lost, wherever it is killed, and what it has become is a network like any other"
import json, random, signal, subprocess, sys, time
from dataclasses import replace
import pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file
from conftest import CPU
from sisr.cli import main
from sisr.discriminators import GrownDiscriminator, SRGANDiscriminator, UNetDiscriminator, discriminator
from sisr.generators import generator
from sisr.folding import fuse
from sisr.saving import load_model, read_header, save_model
from sisr.growth import carry_, carry_optimizer, freeze, grow, larger, level
from sisr.images import SisrError, samples, to_tensor
from sisr.recipes import checked, recipe
from sisr.resize import consistent, downscale, upscale
from sisr.stages import Stage
from sisr.training import train
from sisr.networks import interpolate
from sisr.upscaler import Upscaler

def stirred(net, seed=0):
    "As if it had learnt something: no number is what it was made with"
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters(): p.add_(.05*torch.randn_like(p))
    for _ in range(2): net(torch.randn(2, net.arch['channels'], 32, 32) if isinstance(net, (SRGANDiscriminator,UNetDiscriminator)) else torch.randn(2,net.channels,6,6))
    return net.eval()

nets = st.fixed_dictionaries(dict(scale=st.sampled_from((1,2,4)), channels=st.sampled_from((1,3)), width=st.sampled_from((4,6)), blocks=st.integers(1,2), sn=st.booleans(),
                                  bn=st.sampled_from((None,True,False)), faithful=st.booleans()))

@settings(max_examples=25, deadline=None)
@given(nets, st.integers(1,9), st.integers(1,9))
def test_a_grown_generator_starts_as_the_old_one_enlarged(arch, h, w):
    if arch['scale']==1: arch['faithful'] = False                  # a x1 network has no stage, only its head
    net = stirred(generator(**arch)); grown = grow(net)
    x = torch.rand(2, arch['channels'], h, w)*2-1
    with torch.no_grad():
        assert (grown(x)-upscale(net(x),2)).abs().max()<1e-5
        assert (fuse(grown)(x)-grown(x)).abs().max()<1e-4          # and it folds like any other
    old,new = net.state_dict(),grown.state_dict()
    assert all(torch.equal(new[k], v) for k,v in old.items())
    assert {k.split('.')[0] for k in new.keys()-old.keys()}<={'stages','heads'}

@settings(max_examples=25, deadline=None)
@given(nets, st.integers(0,3), st.integers(0,2), st.integers(0,3), st.integers(1,9), st.integers(1,9))
def test_a_larger_generator_is_the_same_function(arch, width, blocks, tail, h, w):
    "Whatever of it is larger; in use, and in training too, where norms look at the batch"
    if arch['scale']==1: arch['faithful'] = False
    net = stirred(generator(**{**arch, 'sn':False})); x = torch.rand(2, arch['channels'], h+1, w)*2-1
    more = dict(width=net.arch['width']+width, blocks=net.arch['blocks']+blocks, tail=net.arch['tail']+tail)
    new = larger(net, **more)
    assert {k:new.arch[k] for k in more}==more and not new.training and {k:v for k,v in new.arch.items() if k not in more}=={k:v for k,v in net.arch.items() if k not in more}
    with torch.no_grad():
        assert (new(x)-net(x)).abs().max()<1e-5
        assert (fuse(new)(x)-net(x)).abs().max()<1e-4
        assert (new.train()(x)-net.train()(x)).abs().max()<1e-4

@settings(max_examples=25, deadline=None)
@given(nets, st.integers(0,3), st.integers(0,2), st.integers(0,3), st.sampled_from((0,.3,1)), st.booleans())
def test_networks_that_parted_in_size_are_mixed(arch, width, blocks, tail, t, swap):
    "The larger one has learnt since. Each end is the function of that network; what did not change is the same all the way; neither is touched"
    if arch['scale']==1: arch['faithful'] = False
    old = stirred(generator(**{**arch, 'sn':False})); x = torch.rand(2, arch['channels'], 6, 5)*2-1
    new = larger(old, width=old.arch['width']+width, blocks=old.arch['blocks']+blocks, tail=old.arch['tail']+tail)
    with torch.no_grad(): assert (interpolate(old, new, t)(x)-old(x)).abs().max()<1e-5
    stirred(new, 1)
    pair = (new,old) if swap else (old,new)
    before = [{k:v.clone() for k,v in n.state_dict().items()} for n in pair]
    a,b = level(*pair)
    assert a.arch==b.arch==new.arch and new in (a,b)
    with torch.no_grad():
        for n,m in zip(pair, (a,b)): assert (m(x)-n(x)).abs().max()<1e-5
        for end in (0,1): assert (interpolate(*pair, end)(x)-pair[end](x)).abs().max()<1e-5
    assert all(torch.equal(v, s[k]) for n,s in zip(pair, before) for k,v in n.state_dict().items())

def test_what_cannot_be_larger():
    with pytest.raises(SisrError, match='fused'): larger(fuse(stirred(generator(2, width=4, blocks=1))), width=6)
    small,big = (stirred(generator(2, width=w, blocks=1, bn=True)) for w in (4,6))
    for pair in ((small,fuse(big)), (fuse(small),big)):
        with pytest.raises(SisrError, match='fused'): interpolate(*pair, .5)
    for bad in (dict(width='64'), dict(width=None), dict(depth=3), 5):
        with pytest.raises(SisrError, match='larger'): checked(replace(recipe('faces-x8'), larger=bad))

@pytest.mark.parametrize('make', [lambda: SRGANDiscriminator(16, width=4), lambda: SRGANDiscriminator(16, width=4, sn=True, bn=False),
                                  lambda: UNetDiscriminator(width=4), lambda: UNetDiscriminator(width=4, channels=1, sn=False)])
def test_a_grown_discriminator_says_what_it_said(make):
    d = stirred(make()); d_state = {k:v.clone() for k,v in d.state_dict().items()}
    x = torch.rand(2, d.arch['channels'], 64, 64)*2-1
    with torch.no_grad(): was = d(downscale(x,2)); grown = GrownDiscriminator(d).eval(); now = grown(x)
    if grown.per_pixel: now = torch.nn.functional.avg_pool2d(now, 2)
    assert (now-was).abs().max()<1e-5
    assert all(torch.equal(grown.state_dict()[f'below.{k}'], v) for k,v in d_state.items())
    twin = discriminator('grown', **grown.arch).eval(); twin.load_state_dict(grown.state_dict())
    with torch.no_grad(): assert torch.equal(twin(x), grown(x))

def test_momentum_goes_along():
    "One more step of the old weights is the same step, grown or not"
    torch.manual_seed(0)
    net = generator(2, faithful=False, width=6, blocks=1)
    opt,x,y = torch.optim.Adam(net.parameters(), 1e-2),torch.rand(2,3,8,8),torch.rand(2,3,16,16)
    def step(n, o, f=lambda n: n(x)): o.zero_grad(); (f(n)-y).square().mean().backward(); o.step()
    for _ in range(3): step(net, opt)
    grown = grow(net); fresh = carry_optimizer(opt, net, grown)
    def at_x2(n): f = n.stem(x); return n._paint(n._paint(x, f, 1), n.stages[0](f+n.trunk(f)), 2)
    step(net, opt); step(grown, fresh, at_x2)
    for k,v in net.named_parameters(): assert (dict(grown.named_parameters())[k]-v).abs().max()<1e-5, k     # a step is 1e-2

def test_what_has_no_place_is_said():
    with pytest.raises(SisrError, match='no place'): carry_(generator(4, width=4, blocks=1), generator(2, width=6, blocks=1))
    with pytest.raises(SisrError, match='no place'): carry_(generator(4, width=4, blocks=1), generator(2, width=4, blocks=2))
    with pytest.raises(SisrError, match='grows no further'): grow(generator(8, width=4, blocks=1))

SET = 'steps=24 patch=48 batch=4 width=8 blocks=1'.split()         # 10 at x2, 1 of the new part, 13 at x4

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    to = tmp_path_factory.mktemp('small')
    for f in samples()[:11]:
        with Image.open(f) as img: img.convert('RGB').crop((200,100,264,164)).save(to/f'{f.stem}.png')
    return to

def words(small, out, *more): return ['train','--recipe','progressive-x4','--quick','--data',str(small),'--out',str(out),'--set',*SET,*more]

@pytest.fixture(scope='module')
def whole(small, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole')/'run'
    assert main(words(small, out))==0
    return out

def test_kill_9_before_and_after_it_grows_then_resume_is_bit_equal(small, whole, tmp_path):
    out,more = tmp_path/'run',[]
    for first,last in ((2,8),(10,11),(13,20)):
        p = subprocess.Popen([sys.executable,'-m','sisr.cli',*words(small,out,*more)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=CPU)
        at = random.randint(first,last)
        for line in p.stderr:
            if line.startswith('step ') and int(line.split()[1].split('/')[0].rstrip(':'))>=at: break
        time.sleep(random.random()/3)
        p.send_signal(signal.SIGKILL); p.wait(); p.stderr.close()
        more = ['--resume']
    assert main(words(small, out, '--resume'))==0
    a,b = (load_file(f/'model.safetensors') for f in (whole,out))
    assert a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    steps = lambda out: [(r['step'],r['stage'],r['l1']) for r in map(json.loads, open(out/'history.jsonl')) if 'l1' in r]
    assert steps(out)==steps(whole) and [k for k,*_ in steps(out)]==list(range(1,25))

def test_a_grown_network_is_a_network_like_any_other(whole, small, tmp_path, capsys):
    net = load_model(whole/'model.safetensors')
    assert (net.scale, net.arch['heads'])==(4,[2,4])
    lr = downscale(to_tensor(samples()[0])[...,:96,:128], 4)
    a,b = (Upscaler(net, 'cpu', tile=t).tensor(lr) for t in (0,8))
    assert (a-b).abs().max()<1e-5                                  # tiled or not
    assert main(['upscale',str(next(small.iterdir())),'-o',str(tmp_path/'big.png'),'--model',str(whole/'model.safetensors')])==0
    with Image.open(tmp_path/'big.png') as big: assert big.size==(256,256)

def test_any_recipe_lets_a_smaller_network_grow(small, whole, tmp_path):
    "--init with a x2 network for a x4 recipe, and with a x4 one for progressive-x8, which begins at x8"
    first = save_model(generator(2, faithful=False, width=8, blocks=1), tmp_path/'two.safetensors')
    go = lambda name,init,out: main(['train','--recipe',name,'--init',str(init),'--data',str(small),'--out',str(tmp_path/out),'--set','steps=6','patch=48','batch=2'])
    assert go('photos-x4', first, 'a')==0
    head = read_header(tmp_path/'a'/'model.safetensors')
    assert head['arch']['heads']==[2,4] and head['info']['init']['name']=='two'
    assert go('progressive-x8', whole/'model.safetensors', 'b')==0
    head = read_header(tmp_path/'b'/'model.safetensors')
    assert head['arch']['heads']==[2,4,8] and {s['scale'] for s in head['info']['recipe']['stages']}=={4,8}

def test_a_recipe_may_want_it_larger(small, whole, tmp_path):
    "It begins as the same function, all of it learns, and where it stopped it goes on"
    r = replace(recipe('faces-x8'), larger=dict(width=10, blocks=2), protocol='standard', versions=1, patch=48, batch=2, stages=(Stage(steps=4, rate=1e-3),))
    go = lambda out,**kw: load_model(train(kw.pop('r', r), small, tmp_path/out, init=whole/'model.safetensors', show=False, save=2, **kw))
    net = go('a')
    assert (net.scale,net.arch['width'],net.arch['blocks'],net.arch['heads'])==(8,10,2,[2,4,8]) and net.info['recipe']['larger']==r.larger
    assert {'recipe','steps','seed'}<=net.info['init'].keys()      # what it began as is told
    go('b', r=replace(r, larger={}))
    with pytest.raises(SisrError, match='larger'): go('b', resume=True)
    assert all(p.abs().max()>0 for p in net.parameters())

def test_a_network_does_not_shrink(small, whole, tmp_path, capsys):
    assert main(['train','--recipe','photos-x2','--init',str(whole/'model.safetensors'),'--data',str(small),'--out',str(tmp_path/'r')])==1
    said = capsys.readouterr().err
    assert 'does not shrink' in said and 'Traceback' not in said

@pytest.mark.parametrize('arch', [dict(faithful=True), dict(faithful=False, bn=True, sn=True), dict(faithful=True, sn=True)])
def test_a_trainer_that_grows_changes_no_number_of_what_was(arch, tmp_path):
    "Spectral vectors, batch statistics, the average, Adam's memory; also when the network was given in eval mode"
    from sisr.data import ImageSet, Patches
    from sisr.degradations import Bicubic
    from sisr.stages import Stage
    from sisr.trainer import Trainer
    t = Trainer(generator(2, width=8, blocks=1, **arch).eval(), Patches(ImageSet(samples()[:4]), 48, 2), Bicubic(4), tmp_path, ema=.5, show=False)
    x2 = Stage('x2', 3, 1e-3, scale=2)
    t.prepare(x2)
    for k in range(3): t.step(t.patches[k], x2)
    copy = lambda net: {k:v.clone() for k,v in net.state_dict().items()}
    g,e,names = copy(t.net),copy(t.ema.net),{p:k for k,p in t.net.named_parameters()}
    memory = {names[p]:s['exp_avg'].clone() for p,s in t.opt.optimizer.state.items()}
    t.prepare(new := Stage('new', 3, 1e-3, frozen=True))
    assert all(torch.equal(t.net.state_dict()[k], v) for k,v in g.items()) and all(torch.equal(t.ema.net.state_dict()[k], v) for k,v in e.items())
    now = {k:t.opt.optimizer.state[p]['exp_avg'] for k,p in t.net.named_parameters() if p in t.opt.optimizer.state}
    assert now.keys()==memory.keys() and all(torch.equal(now[k], v) for k,v in memory.items())
    for k in range(3): t.step(t.patches[k], new)
    moved = {k.split('.')[0]+k.split('.')[1] for k,v in t.net.state_dict().items() if k in g and not torch.equal(v, g[k])}
    assert not moved                                               # the old part rests, to the last number
    t.prepare(all_ := Stage('all', 3, 1e-3)); t.step(t.patches[0], all_)
    assert any(not torch.equal(t.net.state_dict()[k], v) for k,v in g.items())

def test_what_rested_learns_again_when_compiled(tmp_path):
    "A compiled network must notice that its trunk may learn"
    from sisr.recipes import recipe
    from sisr.stages import Stage
    from sisr.training import trainer
    r = replace(recipe('photos-x8'), net=dict(faithful=False, width=8, blocks=1), batch=2, patch=64, compiled=True)
    t = trainer(r, generator(4, 3, **r.net), samples()[:4], tmp_path, show=False)
    alone,both = Stage('new', 4, 1e-3, frozen=True),Stage('both', 3, 1e-3)
    stem = lambda: t.net.stem[0].weight.detach().clone()
    was = stem()
    t.prepare(alone)
    for k in range(4): t.step(t.patches[k], alone)
    assert torch.equal(stem(), was)
    t.prepare(both)
    for k in range(3): t.step(t.patches[k], both)
    assert not torch.equal(stem(), was)

def test_what_has_not_learnt_may_not_rest(small, tmp_path, capsys):
    two = save_model(generator(2, faithful=False, width=8, blocks=1), tmp_path/'two.safetensors')
    assert main(['train','--recipe','photos-x8','--init',str(two),'--data',str(small),'--out',str(tmp_path/'r'),'--set','steps=4','patch=48','batch=2'])==1
    said = capsys.readouterr().err
    assert 'begin with a x4 network' in said and len([l for l in said.splitlines() if l.startswith('sisr')])==1

@pytest.mark.parametrize('argv,words', [(['--recipe','mnist-x2','--init','photos-x2'],'3 channels'), (['--recipe','photos-x8','--set','width=8'],'progressive-x8'),
                                        (['--recipe','unsupervised-x4','--lr','LR','--set','patch=72'],'multiple of 16')])
def test_wrong_uses_have_one_line(small, tmp_path, capsys, argv, words):
    data = ['--hr' if '--lr' in argv else '--data',str(small)]
    argv = [str(small) if a=='LR' else a for a in argv]
    assert main(['train',*data,'--out',str(tmp_path/'r'),*argv]) in (1,2)
    said = capsys.readouterr().err
    assert words in said and 'unexpected' not in said
