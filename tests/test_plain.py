"The plain loop that ours is compared with is no straw man: it learns, its networks are ours, and nobody changes it"
import hashlib, inspect, itertools
import pytest, torch
import torch.nn.functional as F
from sisr import plain
from sisr.plain import Discriminator, Generator, PlainSRGAN, VGGFeatures
from sisr.discriminators import SRGANDiscriminator
from sisr.generators import SRResNet
from sisr.losses import CONVS, VGG19, vgg19_weights

@pytest.fixture(scope='module')
def vgg():
    "Weights and biases up to conv4_4"
    state,names = vgg19_weights(),list(CONVS)
    return [tuple(state[f'features.{CONVS[n]}.{k}'] for k in ('weight','bias')) for n in names[:names.index('conv4_4')+1]]

def count(net): return sum(p.numel() for p in net.parameters())

def twins(mine, theirs):
    "The same weights in both, matched by order"
    a,b = mine.state_dict(),theirs.state_dict()
    assert [v.shape for v in a.values()]==[v.shape for v in b.values()]
    theirs.load_state_dict(dict(zip(b, a.values())))

def test_learns(vgg):
    torch.manual_seed(0)
    hr = F.interpolate(torch.randint(0, 256, (2,3,2,2)).float(), size=(16,16), mode='bilinear').to(torch.uint8) # smooth: G has a chance
    loop = PlainSRGAN(itertools.repeat(hr), vgg, size=16, width=16, blocks=1, d_width=8)
    g,d = ([p.detach().clone() for p in net.parameters()] for net in (loop.G,loop.D))
    rows = loop.run(8)
    assert all(torch.tensor(list(r.values())).isfinite().all() for r in rows)
    assert all(not torch.equal(a,b) for a,b in zip(g, loop.G.parameters()) if b.ndim>1)
    assert all(not torch.equal(a,b) for a,b in zip(d, loop.D.parameters()) if b.ndim>1)
    assert rows[-1]['mse']<.9*rows[0]['mse']

def test_its_generator_is_ours():
    torch.manual_seed(0)
    mine,theirs,lr = SRResNet(4, sn=True),Generator(4),torch.rand(2,3,6,6)*2-1
    assert count(mine)==count(theirs)
    twins(mine, theirs)
    for train in (False, True):
        with torch.no_grad(): a,b = (net.train(train)(lr) for net in (mine,theirs))
        assert a.shape==b.shape==(2,3,24,24)
        assert torch.allclose(a, b, atol=1e-5)

@pytest.mark.parametrize('size', (32,40))
def test_its_discriminator_is_ours(size):
    torch.manual_seed(0)
    mine,theirs,x = SRGANDiscriminator(size, 16, sn=True),Discriminator(size, 16),torch.rand(2,3,size,size)*2-1
    assert count(mine)==count(theirs)
    twins(mine, theirs)
    with torch.no_grad(): a,b = mine.eval()(x).sigmoid(),theirs.eval()(x)
    assert b.shape==(2,1) and torch.allclose(a, b[:,0], atol=1e-5)

def test_discriminators_of_full_width_have_as_many_parameters():
    assert count(SRGANDiscriminator(sn=True))==count(Discriminator())

def test_its_features_are_ours(vgg):
    x = torch.rand(1,3,32,32)*2-1
    with torch.no_grad(): a,b = VGG19(('conv4_4',), raw=True)(x)['conv4_4'],VGGFeatures(vgg)(x)
    assert torch.allclose(a, b, atol=1e-4*a.abs().max().item())

def test_it_is_frozen():
    "Its speed is what ours is a multiple of: who changes it on purpose measures again, and changes this"
    parts = plain.conv, plain.Residual, Generator, Discriminator, VGGFeatures, PlainSRGAN
    assert hashlib.sha256(''.join(map(inspect.getsource, parts)).encode()).hexdigest()[:16] == '424551e4e898cf55'
