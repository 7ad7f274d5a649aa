"Networks on disk, and networks of any shape"
import json
import pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save_file
from sisr.generators import ARCHITECTURES, RRDBNet, SRResNet, generator
from sisr.folding import fuse, plain_state, ready
from sisr.growth import freeze, grow
from sisr.saving import find_model, load_model, models, read_header, save_model
from sisr.images import SisrError
from sisr.stages import EMA
from sisr.upscaler import Upscaler

def net(**kw): torch.manual_seed(0); return SRResNet(**{**dict(scale=2, width=8, blocks=2), **kw})

def test_stages_begin_as_nearest_neighbour():
    "ICNR: at its start each stage gives the four pixels that one becomes the same value"
    for s in (2,4):
        for stage in net(scale=s, faithful=False).stages:
            y = stage(torch.randn(2, stage[0].in_channels, 5, 6))
            assert y.std()>0 and torch.equal(y, y[..., ::2,::2].repeat_interleave(2,-1).repeat_interleave(2,-2))

@settings(max_examples=30, deadline=None)
@given(st.integers(1,20), st.integers(1,20), st.sampled_from([2,4,8]), st.booleans(), st.booleans(), st.sampled_from([1,3]))
def test_any_size_any_kind_folds_exactly(h, w, s, faithful, sn, c):
    g = net(scale=s, faithful=faithful, sn=sn, channels=c)
    for p in g.heads.values(): torch.nn.init.normal_(p.parametrizations.weight.original if sn and faithful else p.weight, std=.1)
    with torch.no_grad():
        for _ in range(2): g(torch.randn(2,c,6,6))
        x = torch.randn(1,c,h,w); y = g.eval()(x)
        assert y.shape==(1,c,h*s,w*s)
        for twin in (fuse(g),ready(g)): assert (twin(x)-y).abs().max()<1e-5

def test_fuse_leaves_the_network_alone():
    g = net(sn=True).train(); before = {k:v.clone() for k,v in g.state_dict().items()}
    fuse(g)
    assert g.training and all(torch.equal(v,before[k]) for k,v in g.state_dict().items())
    grown = freeze(grow(net(sn=True, faithful=False))); modes = [m.training for m in grown.modules()]
    fuse(grown)
    assert len(set(modes))==2 and modes==[m.training for m in grown.modules()]      # what learns still does

def test_round_trip(tmp_path):
    g = net(faithful=False, scale=4, heads=(2,4)); f = save_model(g, tmp_path/'ünï.safetensors', licence='x')
    h = load_model(f)
    assert h.arch==g.arch and h.info=={'licence':'x'} and not h.training
    assert read_header(f)['network']=='SRResNet'
    assert all(torch.equal(v, g.state_dict()[k].half().float()) for k,v in h.state_dict().items())

def dense(**kw):
    "A small `RRDBNet` that does something: its heads do not start at zero"
    torch.manual_seed(0)
    g = RRDBNet(**{**dict(scale=4, width=8, blocks=1, growth=4), **kw})
    for h in g.heads.values(): torch.nn.init.normal_(h.weight, std=.1)
    return g

def test_dense_round_trip(tmp_path):
    g = dense(heads=(2,4), sn=True, channels=1); h = load_model(save_model(g, tmp_path/'d.safetensors', licence='x'))
    assert type(h) is RRDBNet and h.arch==g.arch and h.info=={'licence':'x'}
    assert all(torch.equal(v, g.state_dict()[k].half().float()) for k,v in h.state_dict().items())

@pytest.mark.parametrize('sn', [False,True])
def test_dense_folds_and_averages_exactly(sn):
    g = dense(sn=sn).train(); x = torch.randn(2,3,7,9)
    with torch.no_grad():
        for _ in range(3): g(x)
        y = g.eval()(x)
        assert (fuse(g)(x)-y).abs().max()<1e-5
        assert (EMA(g).net(x)-y).abs().max()<1e-5

@pytest.mark.parametrize('scale', [2,4])
def test_dense_tiles_equal_the_whole(scale):
    g,lr = dense(scale=scale),torch.rand(1,3,52,61)*2-1
    whole,tiled = (Upscaler(g, 'cpu', tile=t).tensor(lr) for t in (0,19))
    assert (whole-tiled).abs().max()<1e-5

def test_dense_learns_everywhere():
    g = dense(); g(torch.randn(1,3,8,8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum()>0 for p in g.parameters())

@pytest.mark.parametrize('name', list(ARCHITECTURES))
def test_built_by_name(name):
    g = generator(2, 1, name, width=8, blocks=1)
    assert type(g).__name__==name and generator(**g.arch, network=name).arch==g.arch
    with pytest.raises(SisrError, match=f'{name} has no evil'): generator(2, network=name, evil=1)

@pytest.mark.parametrize('name', ['', 'srresnet', None])
def test_unknown_names_get_the_known(name):
    with pytest.raises(SisrError, match='SRResNet or RRDBNet'): generator(2, network=name)

def test_shared_parts_leave_the_first_network_as_it_was():
    want = {'stem.0.weight','stem.0.bias','trunk.0.body.0.weight','trunk.2.bias','stages.0.0.weight','heads.2.weight'}
    assert want<=set(net(faithful=False).state_dict()) and plain_state(net(faithful=False)).keys()==net(faithful=False).state_dict().keys()

def bad(tmp_path, kind):
    f = tmp_path/'bad.safetensors'
    head = dict(network='SRResNet', arch=net().arch, info={})
    weights = {k:v.contiguous() for k,v in net().state_dict().items()}
    if kind=='pickle': torch.save(net().state_dict(), f)
    if kind=='empty': f.write_bytes(b'')
    if kind=='text': f.write_text('hello')
    if kind=='cut': save_file(weights, f, dict(sisr=json.dumps(head))); f.write_bytes(f.read_bytes()[:500])
    if kind=='no header': save_file(weights, f)
    if kind=='unknown network': save_file(weights, f, dict(sisr=json.dumps({**head,'network':'Evil'})))
    if kind=='wrong shapes': save_file(weights, f, dict(sisr=json.dumps({**head,'arch':{**head['arch'],'width':9}})))
    if kind=='scale lies': save_file(weights, f, dict(sisr=json.dumps({**head,'arch':{**head['arch'],'scale':4}})))
    if kind=='unknown setting': save_file(weights, f, dict(sisr=json.dumps({**head,'arch':{**head['arch'],'evil':1}})))
    if kind=='header is a list': save_file(weights, f, dict(sisr='[1]'))
    if kind=='folder': f.mkdir()
    return f

@pytest.mark.parametrize('kind', ['pickle','empty','text','cut','no header','unknown network','wrong shapes','scale lies','unknown setting','header is a list','folder'])
def test_bad_files_get_one_line(tmp_path, kind):
    with pytest.raises(SisrError) as e: load_model(bad(tmp_path,kind))
    assert '\n' not in str(e.value) and 'bad.safetensors' in str(e.value)

def test_shipped_networks_are_complete():
    for name,head in models().items():
        g = load_model(name)
        assert find_model(name).stat().st_size<8_000_000
        assert g(torch.zeros(1,g.channels,5,4)).shape==(1,g.channels,5*g.scale,4*g.scale)
        info = head['info']
        assert {'recipe','seconds','device','seed','protocol','licence','numbers','note'} <= info.keys(), name
