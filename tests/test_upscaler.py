"The upscaler on everything a user may hand it"
import copy, hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from sisr.generators import SRResNet, receptive_radius

from sisr.folding import plain_state

from sisr.saving import find_model, load_model, models, save_model
from sisr.images import Picture, SisrError, from_uint8, to_tensor
from sisr.metrics import lr_psnr
from sisr.recipes import recipe
from sisr.resize import downscale
from sisr.networks import interpolate, load_network, sisters
from sisr.upscaler import Upscaler, pick_device


def net(scale=4, **kw):
    "A small random network that does something: its heads do not start at zero"
    torch.manual_seed(0)
    res = SRResNet(**{**dict(scale=scale, width=16, blocks=2, faithful=False), **kw}).eval()
    for h in res.heads.values(): torch.nn.init.normal_(h.weight, std=.02)
    return res

@pytest.fixture(scope='module')
def up(): return Upscaler(net(), device='cpu')

def noise(h, w, c=3, seed=0):
    x = torch.rand(1, c, h, w, generator=torch.Generator().manual_seed(seed))
    return x*2-1

@pytest.mark.parametrize('scale', [2, 4, 8])
@pytest.mark.parametrize('faithful', [False, True])
def test_tiles_equal_the_whole(scale, faithful):
    lr, n = noise(70, 83), net(scale, faithful=faithful)
    whole = Upscaler(n, 'cpu', tile=0).tensor(lr)
    tiled = Upscaler(n, 'cpu', tile=23).tensor(lr)
    assert whole.shape == (1, 3, 70*scale, 83*scale)
    assert (whole-tiled).abs().max() < 1e-5

def test_no_overlap_shows_seams(up):
    lr = noise(60, 60)
    cut = Upscaler(net(), 'cpu', tile=20, overlap=0).tensor(lr)
    assert (cut-up.tensor(lr)).abs().max() > 1e-2

def test_folding_changes_nothing():
    n = net(faithful=True)
    for m in n.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .1); m.running_var.uniform_(.5, 2)
    lr = noise(20, 24)
    with torch.no_grad(): want = n(lr).clamp(-1, 1)
    assert (Upscaler(n, 'cpu', consistent=False).tensor(lr)-want).abs().max() < 1e-5

@pytest.mark.parametrize('h,w', [(1, 1), (1, 9), (7, 1), (2, 3), (5, 40)])
def test_any_size(up, h, w):
    sr = up.tensor(noise(h, w))
    assert sr.shape == (1, 3, 4*h, 4*w) and sr.isfinite().all() and sr.abs().max() <= 1
    assert up(Image.new('RGB', (w, h), 'teal')).size == (4*w, 4*h)

def test_batches_and_channels(up):
    lr = torch.cat([noise(9, 11, seed=i) for i in range(3)])
    assert torch.allclose(up.tensor(lr)[1:2], up.tensor(lr[1:2]), atol=1e-5)
    assert up.tensor(lr[:, :1]).shape == (3, 1, 36, 44)
    with pytest.raises(SisrError, match='C 1 or 3, not'): up.tensor(torch.zeros(1, 4, 8, 8))
    gray = Upscaler(net(2, channels=1), 'cpu')
    assert torch.allclose(gray.tensor(lr)[:, 1:2], gray.tensor(lr[:, 1:2]), atol=1e-5)

def test_consistent(up):
    lr = noise(40, 50)*.3                               # far from the clamp
    assert lr_psnr(up.tensor(lr), from_uint8(((lr+1)*127.5).round())).item() > 45
    assert (downscale(up.tensor(lr), 4)-lr).abs().max() < 2e-2

def test_results_can_be_trained_on(up):
    sr = up.tensor(noise(8, 8))
    assert not sr.is_inference() and not sr.requires_grad

def gradient(mode, size=(20, 12)):
    "A smooth picture of that mode"
    w, h = size
    y, x = np.mgrid[:h, :w]
    u = np.stack([x*255/(w-1), y*255/(h-1), 255-x*255/(w-1)], -1).astype(np.uint8)
    return Image.fromarray(u).convert(mode)

@pytest.mark.parametrize('mode,out', [('RGB', 'RGB'), ('L', 'L'), ('1', 'L'), ('P', 'RGB'), ('CMYK', 'RGB'), ('YCbCr', 'RGB'),
                                      ('RGBA', 'RGBA'), ('LA', 'LA'), ('HSV', 'RGB')])
def test_modes(up, mode, out):
    img = up(gradient(mode))
    assert img.mode == out and img.size == (80, 48)
    if mode in ('RGB', 'L', 'CMYK', 'RGBA'):            # and the right way round, in the right colours
        small = np.asarray(gradient(mode).convert('RGB'), float)
        back = np.asarray(img.convert('RGB').resize((20, 12), Image.Resampling.BOX), float)
        assert abs(small-back).mean() < 4

def test_sixteen_bits_stay(up):
    u = np.linspace(0, 65535, 30*30).reshape(30, 30).astype(np.uint16)
    img = up(Image.fromarray(u))
    assert img.mode.startswith('I;16') and img.size == (120, 120)
    v = np.asarray(img)
    assert len(np.unique(v)) > 2000                     # finer than 8 bits
    assert abs(v.astype(float).reshape(30, 4, 30, 4).mean((1, 3))-u).mean() < 300

def test_exif_rotation(up, tmp_path):
    img = gradient('RGB'); exif = Image.Exif(); exif[0x112] = 6     # lies on its side
    img.save(tmp_path/'side.jpg', exif=exif, quality=95)
    out = up(tmp_path/'side.jpg')
    assert out.size == (48, 80)                         # upright
    assert out.getexif().get(0x112, 1) == 1             # and not turned once more by the next program
    out.save(tmp_path/'again.png')
    assert Image.open(tmp_path/'again.png').getexif().get(0x112, 1) == 1

def test_profile_is_kept(up, tmp_path):
    from PIL import ImageCms
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    gradient('RGB').save(tmp_path/'a.png', icc_profile=icc)
    assert up(tmp_path/'a.png').info['icc_profile'] == icc

def test_palette_with_transparency(up, tmp_path):
    img = gradient('P'); img.info['transparency'] = 0
    img.save(tmp_path/'a.png', transparency=0)
    assert up(tmp_path/'a.png').mode == 'RGBA'

def test_no_fringe_at_clear_edges(up):
    "What lies hidden under clear pixels must not colour the edge"
    y, x = np.mgrid[:24, :24]
    inside = (x-12)**2+(y-12)**2 < 64
    u = np.zeros((24, 24, 4), np.uint8); u[...] = (0, 255, 0, 0); u[inside] = (255, 0, 0, 255)
    v = np.asarray(up(Image.fromarray(u))).astype(float)
    seen = v[..., 3] > 8
    assert v[seen][:, 1].max() < 32 and v[seen][:, 0].min() > 200
    assert v[48, 48, 3] > 250 and v[2, 2, 3] < 5

def test_opaque_alpha_stays_opaque(up):
    img = gradient('RGB'); img.putalpha(255)
    assert np.asarray(up(img))[..., 3].min() == 255

def test_inputs_of_all_kinds_agree(up, tmp_path):
    img = gradient('RGB'); img.save(tmp_path/'a.png')
    want = np.asarray(up(img))
    for x in (tmp_path/'a.png', str(tmp_path/'a.png'), np.asarray(img), to_tensor(img), Picture.of(img)):
        assert np.array_equal(np.asarray(up(x)), want)

def test_bad_files(up, tmp_path):
    (tmp_path/'bad.png').write_bytes(b'not an image')
    for f in (tmp_path/'bad.png', tmp_path/'missing.png', tmp_path):
        with pytest.raises(SisrError, match=str(f)): up(f)

def test_from_pretrained_errors(tmp_path):
    with pytest.raises(SisrError): Upscaler.from_pretrained('no-such-model')
    with pytest.raises(SisrError): Upscaler.from_pretrained(str(tmp_path/'none.safetensors'))

# between a network and its GAN sister

def sister(a, seed=1):
    "A network that began as `a` and went on a little"
    torch.manual_seed(seed)
    res = copy.deepcopy(a)
    with torch.no_grad():
        for p in res.parameters(): p.add_(torch.randn_like(p), alpha=.02)
    return res.eval()

@pytest.fixture
def pair(tmp_path):
    "Files of a network and of its sister, which lies beside it"
    return [save_model(n, tmp_path/f'{name}.safetensors', note=name) for n, name in ((net(), 'x'), (sister(net()), 'x-gan'))]

@pytest.mark.parametrize('kw', [{}, dict(scale=2, channels=1), dict(scale=8, heads=(2, 8)), dict(faithful=True)])
def test_interpolate_has_exact_ends(kw):
    a = net(**kw); b = sister(a); x = noise(9, 8, a.channels)
    before = [{k: v.clone() for k, v in n.state_dict().items()} for n in (a, b)]
    with torch.no_grad():
        for t, same in ((0, a), (0., a), (1, b), (1., b)): assert torch.equal(interpolate(a, b, t)(x), same(x))
        assert not torch.equal(interpolate(a, b, .5)(x), a(x))
    mid = interpolate(a, b, .25).state_dict()
    for k, v in before[0].items():
        w = before[1][k]
        if v.is_floating_point(): assert torch.allclose(mid[k], .75*v+.25*w, atol=1e-6)
    for n, state in zip((a, b), before): assert all(torch.equal(v, state[k]) for k, v in n.state_dict().items())

@pytest.mark.parametrize('which', [(True, True), (True, False), (False, True)])
def test_interpolate_with_spectral_norm(which):
    "What is mixed are the weights that the convolutions use, in whatever mode the networks are handed over"
    a, b = (net(sn=sn, faithful=True) for sn in which); b = sister(b)
    x, ends = noise(9, 8), [plain_state(n) for n in (a, b)]
    with torch.no_grad(): want = [n(x) for n in (a, b)]
    for n in (a, b): n.train()
    state = {k: v.clone() for n in (a, b) for k, v in n.state_dict().items()}
    mid = interpolate(a, b, .5)
    assert not mid.arch['sn'] and not mid.training and a.training and b.training
    assert all(torch.equal(v, state[k]) for k, v in b.state_dict().items())   # power iteration did not go on
    for k, v in mid.state_dict().items():
        if v.is_floating_point(): assert torch.allclose(v, (ends[0][k]+ends[1][k])/2, atol=1e-6)
    with torch.no_grad():
        for t in (0, 1): assert torch.allclose(interpolate(a, b, t)(x), want[t], atol=1e-6)

def test_interpolate_takes_counters_from_the_second():
    a = net(faithful=True); b = sister(a)
    for m in b.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.num_batches_tracked += 7
    mid = [v for k, v in interpolate(a, b, .5).state_dict().items() if 'num_batches' in k]
    assert mid and all(v == 7 and v.dtype == torch.int64 for v in mid)

@pytest.mark.parametrize('t', [-.01, 1.01, 2, float('nan'), float('inf')])
def test_interpolate_stays_between(t):
    with pytest.raises(SisrError, match='from 0 to 1'): interpolate(net(), net(), t)

@pytest.mark.parametrize('kw,words', [(dict(width=8, blocks=3), 'width 16 and 8, blocks 2 and 3'), (dict(width=8, sn=True), 'width 16 and 8'), (dict(scale=2), 'scale 4 and 2'),
                                      (dict(faithful=True), 'faithful False and True'), (dict(channels=1), 'channels 3 and 1')])
def test_interpolate_tells_what_differs(kw, words):
    with pytest.raises(SisrError, match=words): interpolate(net(), net(**kw), .5)

def test_interpolate_tells_both_ancestors(pair, tmp_path):
    mid = load_network(pair[0], .5)
    assert [i['note'] for i in mid.info['ancestors']] == ['x', 'x-gan'] and mid.info['style'] == .5
    saved = load_model(save_model(mid, tmp_path/'mid.safetensors'))              # it is a network like others
    assert saved.info == mid.info

@pytest.mark.parametrize('name', sorted(k for k in models() if f'{k}-gan' in models()))
def test_a_shipped_gan_began_as_its_sister(name):
    "Between networks that did not begin as one there is nothing but noise"
    began = models()[f'{name}-gan']['info']['init']
    assert began['sha256'] == hashlib.sha256(find_model(name).read_bytes()).hexdigest()

@pytest.mark.parametrize('name', ['photos-x4','photos-x4-real','photos-x8'])
def test_what_ships_began_as_its_recipe_says(name):
    "To the byte: `photos-x4-light` is the network that all of them began as, under the name it had then"
    assert recipe(name).init == 'photos-x4-light'
    assert models()[name]['info']['init']['sha256'] == hashlib.sha256(find_model(recipe(name).init).read_bytes()).hexdigest()

def test_style_ends_are_the_networks(pair):
    x = noise(12, 10)
    def sr(name, **kw): return Upscaler.from_pretrained(name, 'cpu', **kw).tensor(x)
    ends = [sr(p) for p in pair]
    for name in (pair[0], str(pair[0]), pair[1], tuple(pair), list(map(str, pair))):
        for t in (0, 1): assert torch.equal(sr(name, style=t), ends[t])
        far = [(sr(name, style=t)-ends[0]).abs().mean() for t in (.25, .5, .75, 1)]
        assert 0 < far[0] < far[1] < far[2] < far[3]
    assert torch.equal(sr(pair[::-1], style=0), ends[1])                         # two names: as one says

def test_style_needs_a_sister(pair, tmp_path):
    lone = save_model(net(), tmp_path/'y.safetensors')
    with pytest.raises(SisrError, match='y.safetensors has no style: there is no y-gan beside it; shipped with a sister: ') as e: sisters(lone)
    assert '\n' not in str(e.value)
    gan = save_model(net(), tmp_path/'z-gan.safetensors')
    with pytest.raises(SisrError, match='there is no z beside it'): sisters(gan)
    with pytest.raises(SisrError, match='not 3'): sisters([lone]*3)
    with pytest.raises(SisrError, match='a style from 0 to 1'): Upscaler.from_pretrained(tuple(pair))
    with pytest.raises(SisrError, match='from 0 to 1'): Upscaler.from_pretrained(pair[0], style=1.5)
    with pytest.raises(SisrError, match='no-such'): Upscaler.from_pretrained('no-such-model', style=.5)
    save_model(net(channels=1), tmp_path/'y-gan.safetensors')
    with pytest.raises(SisrError, match='channels 3 and 1'): Upscaler.from_pretrained(lone, style=.5)

@pytest.mark.parametrize('name', list(models()))
def test_style_of_what_is_shipped(name):
    "Each shipped pair can be mixed; each network without a sister says so"
    base = name.removesuffix('-gan')
    if {base, f'{base}-gan'} <= set(models()):
        assert [p.stem for p in sisters(name)] == [base, f'{base}-gan']
        x = noise(6, 5)
        for t, end in ((0, base), (1, f'{base}-gan')):
            assert torch.equal(Upscaler.from_pretrained(name, 'cpu', style=t).tensor(x), Upscaler.from_pretrained(end, 'cpu').tensor(x))
    else:
        with pytest.raises(SisrError, match=f'{name} has no style'): Upscaler.from_pretrained(name, style=.5)

def test_devices():
    assert pick_device('cpu').type == 'cpu'
    with pytest.raises(SisrError, match='choose auto'): pick_device('gpu9')
    for missing in [d for d, ok in dict(cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available()).items() if not ok]:
        with pytest.raises(SisrError, match='not there'): pick_device(missing)

def test_the_reach_is_true():
    for n in (net(), net(2, blocks=4), net(8)):
        r = receptive_radius(n); lr = noise(2*r+5, 2*r+5).requires_grad_()
        sr = n(lr); s = n.scale; m = lr.shape[-1]//2
        sr[..., m*s:(m+1)*s, m*s:(m+1)*s].sum().backward()
        g = lr.grad.abs().amax((0, 1)); g[m-r:m+r+1, m-r:m+r+1] = 0
        assert g.max() == 0

@pytest.mark.gpu
def test_cuda_agrees(up):
    lr = noise(60, 70)
    full = Upscaler(net(), 'cuda', half=False, tile=30).tensor(lr)
    assert full.device.type == 'cpu' and (full-up.tensor(lr)).abs().max() < 1e-3
    assert (Upscaler(net(), 'cuda').tensor(lr)-up.tensor(lr)).abs().max() < .1

def test_half_precision_is_close_and_knows_its_memory():
    from sisr.images import sample, to_tensor
    from sisr.metrics import Protocol
    from sisr.tiled import Tiled
    lr = Protocol.named('standard').lr(to_tensor(sample('kitten'))[..., :256, :320], 4)
    net = load_model('photos-x4')
    a, b = (Tiled(net, 'cpu', half=h) for h in (False, True))
    assert a.footprint() == b.footprint()
    assert 0 < (a.tensor(lr)-b.tensor(lr)).abs().max() < 1e-2
    assert torch.equal(b.tensor(lr), b.tensor(lr))
