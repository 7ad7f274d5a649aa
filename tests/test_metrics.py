"The metrics against independent code, published numbers, and what users hand us"
import json, socket, subprocess, sys, types
from pathlib import Path
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sisr import metrics, perceptual
from sisr.images import SisrError, sample, samples, to_pil, to_tensor
from sisr.metrics import (NETWORKS, PROTOCOLS, Pairs, Protocol, batches, evaluate, lpips, lr_psnr, measure,
                          perceptual_networks, psnr, psnr_y, ssim, ssim_y, weights_of)
from sisr.resize import consistent, downscale, pinv, upscale

quick = Protocol.named('standard', perceptual=None)

def noise(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))*2-1
def bic(s): return lambda lr: upscale(lr, s)

@pytest.fixture(scope='module')
def pair():
    "The kitten's middle and its enlargement"
    hr = to_tensor(sample('kitten'))[..., 150:310, 180:380]
    return upscale(downscale(hr, 4), 4), hr

def y_of(x):
    "Luma in float64, written from the formula, of the 8-bit image"
    u = np.array(to_pil(x)).astype(np.float64)/255
    return 16 + u @ np.array([65.481, 128.553, 24.966])

def test_psnr_and_ssim_agree_with_scikit_image(pair):
    sr, hr = pair
    a, b = (y_of(x)[4:-4, 4:-4] for x in pair)
    assert psnr_y(sr, hr, 4).item() == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-4)
    kw = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, full=True)
    full = structural_similarity(a, b, **kw)[1]
    assert ssim_y(sr, hr, 4).item() == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-5)
    rgb = [np.array(to_pil(x)).astype(np.float64) for x in pair]
    assert psnr(sr, hr, y=False).item() == pytest.approx(peak_signal_noise_ratio(*rgb[::-1], data_range=255), abs=1e-4)
    full = structural_similarity(*rgb, channel_axis=2, **kw)[1]
    assert ssim(sr, hr, y=False).item() == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-5)

def test_full_range_luma_reads_lower(pair):
    sr, hr = ((x.clamp(-1, 1)*torch.tensor([.299, .587, .114]).view(1, 3, 1, 1)).sum(1, keepdim=True) for x in pair)
    full = 10*torch.log10(4/(sr-hr).square().mean())
    assert (psnr_y(*pair)-full).item() == pytest.approx(1.32, abs=.02)

def test_a_batch_is_its_images(pair):
    sr, hr = (torch.cat([x, x.flip(-1), x*.5]) for x in pair)
    lr = downscale(hr, 4)
    for f in (lambda i: psnr_y(sr[i], hr[i], 4), lambda i: ssim_y(sr[i], hr[i], 4), lambda i: lr_psnr(sr[i], lr[i])):
        whole = f(slice(None))
        assert whole.shape == (3,)
        assert torch.allclose(whole, torch.cat([f(slice(i, i+1)) for i in range(3)]), atol=1e-4)

def test_equal_images_are_capped():
    x = noise(2, 3, 24, 24)
    assert psnr_y(x, x).tolist() == [99, 99] and torch.allclose(ssim_y(x, x), torch.ones(2))
    flat = torch.zeros(1, 3, 32, 32)
    assert lr_psnr(flat, downscale(flat, 4)).item() == 99

def test_gray_and_its_three_channel_twin_read_the_same():
    a, b = noise(1, 1, 40, 40), noise(1, 1, 40, 40, seed=1)
    rgb = lambda x: x.expand(-1, 3, -1, -1)
    assert psnr_y(a, b, 4).item() == pytest.approx(psnr_y(rgb(a), rgb(b), 4).item(), abs=1e-4)
    assert ssim_y(a, b, 4).item() == pytest.approx(ssim_y(rgb(a), rgb(b), 4).item(), abs=1e-5)

def test_numbers_do_not_change_under_autocast(pair):
    sr, hr = pair
    lr = downscale(hr, 4)
    f = lambda: [psnr_y(sr, hr, 4).item(), ssim_y(sr, hr, 4).item(), lr_psnr(sr, lr).item()]
    plain = f()
    with torch.autocast('cpu', torch.bfloat16): assert f() == pytest.approx(plain, abs=1e-6)

def test_lr_psnr_tells_what_explains_its_input(pair):
    sr, hr = pair
    lr = quick.lr(hr, 4)
    good = consistent(sr, lr)
    assert lr_psnr(sr, lr) < 45 < lr_psnr(good, lr)
    red = good + torch.tensor([6*2/255, 0, 0]).view(1, 3, 1, 1)
    assert lr_psnr(red, lr) < 40 and psnr_y(good, hr, 4)-psnr_y(red, hr, 4) < .5

# --- protocols and pairs

@pytest.mark.parametrize('name', PROTOCOLS)
def test_protocol_survives_a_file(name):
    p = Protocol.named(name, perceptual=None, round_lr=False)
    assert Protocol.from_dict(json.loads(json.dumps(p.to_dict()))) == p
    assert Protocol.of(p.to_dict()) == p == Protocol.of(p) and Protocol.of(name) == PROTOCOLS[name]

def test_protocol_errors_are_clear():
    with pytest.raises(SisrError, match='standard, faces128, ntire'): Protocol.named('face')
    with pytest.raises(SisrError, match='unknown fields .crops.'): Protocol.of({'name': 'x', 'crops': 3})

def test_faces128_is_crop_then_resize():
    img = Image.open(sample('osprey')).resize((178, 218))
    want = to_tensor(img.crop((0, 20, 178, 198)).resize((128, 128), Image.BICUBIC))
    got = Protocol.named('faces128').hr(img, 4)
    assert got.shape == (1, 3, 128, 128)
    assert (got-want).abs().max()*127.5 < 1.01                  # Pillow computes in integers
    assert torch.allclose((got+1)*127.5, ((got+1)*127.5).round(), atol=1e-4)

def test_lr_is_a_clamped_8_bit_image():
    x = torch.where(noise(1, 3, 64, 64) > 0, 1., -1.)
    lr = quick.lr(x, 4)
    assert lr.abs().max() <= 1 and torch.allclose((lr+1)*127.5, ((lr+1)*127.5).round(), atol=1e-4)
    raw = Protocol.named('standard', round_lr=False).lr(x, 4)
    assert raw.abs().max() <= 1 and (raw-lr).abs().max() <= 1.01/255

def test_channels_follow_the_protocol():
    gray, color = Image.new('L', (40, 40), 99), Image.new('RGB', (40, 40), (9, 99, 200))
    three, one = quick, Protocol.named('standard', channels=1)
    assert three.hr(gray, 4).shape[1] == three.hr(color, 4).shape[1] == 3
    assert one.hr(gray, 4).shape[1] == one.hr(color, 4).shape[1] == 1
    r = evaluate(bic(4), [gray, np.array(color)], 4, Protocol.named('standard', channels=1, perceptual='auto'))
    assert r['n'] == 2

def test_ntire_shaves_scale_and_six_on_rgb():
    r = evaluate(bic(4), [sample('kitten')], 4, Protocol.named('ntire', perceptual=None))
    hr = quick.hr(sample('kitten'), 4)
    assert r['mean']['psnr_rgb'] == pytest.approx(psnr(upscale(quick.lr(hr, 4), 4), hr, 10, y=False).item(), abs=1e-3)
    assert 'psnr_y' not in r['mean']

def test_pairs_kept_are_pairs_made_anew():
    files = samples()[:3]
    for p in (quick, Protocol.named('standard', round_lr=False)):
        for a, b in zip(Pairs(files, 4, p), Pairs(files, 4, p, keep=False), strict=True):
            assert a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])

def test_pairs_of_anything():
    u = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    pairs = Pairs([u, Image.fromarray(u), torch.zeros(1, 1, 28, 28)], 2, Protocol.named('standard', channels=1, perceptual=None))
    assert [n for n, _, _ in pairs] == ['0000', '0001', '0002']
    r = evaluate(bic(2), pairs)
    assert r['n'] == 3 and r['images'][0]['psnr_y'] == r['images'][1]['psnr_y'] and r['scale'] == 2

def test_batches_keep_order_and_size():
    sizes = [16, 16, 24, 16, 16, 16]
    got = list(batches([(str(i), torch.zeros(1, 3, n//2, n//2), torch.full((1, 3, n, n), i)) for i, n in enumerate(sizes)], pixels=512))
    assert [n for b in got for n in b[0]] == list('012345')
    assert [len(b[0]) for b in got] == [2, 1, 2, 1]
    assert all(hr[i, 0, 0, 0] == int(n) for ns, _, hr in got for i, n in enumerate(ns))

# --- evaluate

@pytest.fixture
def folder(tmp_path):
    "Good, bad and small files"
    for n in ('kitten', 'lake'): Image.open(sample(n)).resize((96, 64)).save(tmp_path/f'{n}.png')
    (tmp_path/'more').mkdir()
    Image.open(sample('budgie')).resize((60, 80)).convert('L').save(tmp_path/'more'/'kitten.png')
    (tmp_path/'broken.png').write_bytes(b'not an image')
    (tmp_path/'empty.jpg').write_bytes(b'')
    whole = (tmp_path/'lake.png').read_bytes()
    (tmp_path/'cut.png').write_bytes(whole[:len(whole)//2])
    Image.new('RGB', (9, 9)).save(tmp_path/'tiny.png')
    return tmp_path

def test_evaluate_a_folder(folder):
    r = evaluate(bic(4), folder, 4, quick, model={'name': 'bicubic'})
    assert [i['file'] for i in r['images']] == ['kitten.png', 'lake.png', 'more/kitten.png']
    assert {s['file'] for s in r['skipped']} == {'broken.png', 'empty.jpg', 'cut.png', 'tiny.png'}
    assert all(s['why'] and str(folder) not in s['why'] for s in r['skipped'])
    assert set(r) == {'mean', 'images', 'skipped', 'absent', 'n', 'scale', 'protocol', 'model', 'versions'}
    assert set(r['mean']) == {'psnr_y', 'ssim_y', 'lr_psnr'} and r['n'] == 3 and r['model'] == {'name': 'bicubic'}
    assert Protocol.of(r['protocol']) == quick
    assert json.loads(json.dumps(r, allow_nan=False)) == r
    assert r['mean']['psnr_y'] == pytest.approx(np.mean([i['psnr_y'] for i in r['images']]), abs=1e-4)

def test_evaluate_says_what_is_wrong(folder, tmp_path):
    (tmp_path/'none').mkdir()
    for files, word in ((tmp_path/'none', 'no images in this folder'), (tmp_path/'nowhere', 'no such'), ([], 'the list is empty'),
                        ([folder/'broken.png', folder/'tiny.png'], 'none of the 2 files')):
        with pytest.raises(SisrError, match=word): evaluate(bic(4), files, 4, quick)
    with pytest.raises(SisrError, match='say which scale'): evaluate(bic(4), folder)
    with pytest.raises(SisrError, match='is this a x4 network'): evaluate(bic(2), folder, 4, quick)
    with pytest.raises(SisrError, match='not finite'): evaluate(lambda lr: upscale(lr, 4)/0, folder, 4, quick)
    with pytest.raises(SisrError, match='no protocol'): evaluate(bic(4), folder, 4, 'set5')

def test_evaluate_leaves_the_network_as_it_was():
    class Net(torch.nn.Module):
        scale, info = 2, {'name': 'small'}
        def __init__(self):
            super().__init__()
            self.bn = torch.nn.BatchNorm2d(3)
        def forward(self, lr):
            assert not self.training and not torch.is_grad_enabled()
            return upscale(self.bn(lr), 2)
    net = Net().train()
    r = evaluate(net, [noise(1, 3, 40, 40)], protocol=quick)
    assert net.training and net.bn.running_mean.abs().max() == 0
    assert r['model'] == net.info and r['scale'] == 2

def test_evaluate_shows_a_bar_only_if_asked(folder, capfd):
    evaluate(bic(4), folder, 4, quick)
    assert capfd.readouterr().out == ''
    evaluate(bic(4), folder, 4, quick, progress=True)

@pytest.mark.gpu
def test_the_device_changes_no_number(pair):
    sr, hr = pair
    lr, nets = quick.lr(hr, 4), {n: lpips(n) for n in perceptual_networks()}
    a, b = (measure(*(x.to(d) for x in (sr, lr, hr)), quick, nets) for d in ('cpu', 'cuda'))
    for k in a: assert b[k].item() == pytest.approx(a[k].item(), abs=2e-3), k

def test_import_is_light():
    heavy = "torchvision matplotlib torchmetrics accelerate fastprogress stlpips_pytorch scipy".split()
    code = f"import sys; from sisr.metrics import evaluate, perceptual_networks; perceptual_networks(); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'

# --- perceptual networks

def test_metrics_has_all_that_measures():
    "The perceptual networks have a room of their own and are found in metrics too, by name and by *"
    names = 'NETWORKS ALEXNET ShiftTolerant weights_of perceptual_networks lpips'.split()
    assert set(names) == set(perceptual.__all__) <= set(metrics.__all__)
    assert all(getattr(metrics, n) is getattr(perceptual, n) for n in names)

@pytest.fixture
def offline(monkeypatch, tmp_path):
    "An empty torch hub, and a network card that complains"
    tried = []
    def connect(*a, **kw):
        tried.append(a)
        raise OSError('no network')
    for f in ('connect', 'connect_ex'): monkeypatch.setattr(socket.socket, f, connect)
    monkeypatch.setattr(socket, 'getaddrinfo', connect)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'hub'))
    lpips.cache_clear()
    yield tried
    lpips.cache_clear()

def test_evaluate_never_touches_the_network(offline, folder):
    r = evaluate(bic(4), folder, 4)
    assert not offline
    assert 'lpips_alex' not in r['mean'] and 'download=True' in r['absent']['lpips_alex']
    assert 'lpips_alex' not in perceptual_networks()
    assert None not in r['mean'].values()

def test_a_network_asked_for_by_name_must_be_there(offline, folder):
    with pytest.raises(SisrError, match='AlexNet are not here'): evaluate(bic(4), folder, 4, Protocol.named('standard', perceptual='lpips_alex'))
    with pytest.raises(SisrError, match='no perceptual network'): evaluate(bic(4), folder, 4, Protocol.named('standard', perceptual='vgg'))

def test_a_failed_download_is_one_line(offline, monkeypatch):
    for k in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(k, raising=False)
    with pytest.raises(SisrError, match='could not be downloaded') as e: lpips('lpips_alex', download=True)
    assert offline and '\n' not in str(e.value) and metrics.ALEXNET in str(e.value)
    assert weights_of('lpips_alex') is None

def test_damaged_weights_are_named(offline, tmp_path):
    path = tmp_path/'hub'/'hub'/'checkpoints'/'alexnet-owt-7be5be79.pth'
    path.parent.mkdir(parents=True)
    path.write_bytes(b'half a file')
    with pytest.raises(SisrError, match='damaged'): lpips('lpips_alex')

def test_lpips_alex_reads_torchvisions_file(offline, tmp_path):
    "Random weights in the true file's place, against the formula written out"
    path = tmp_path/'hub'/'hub'/'checkpoints'/'alexnet-owt-7be5be79.pth'
    path.parent.mkdir(parents=True)
    g = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    w = {i: torch.randn(o, c, k, k, generator=g)*(2/(c*k*k))**.5 for i, (o, c, k) in shapes.items()}
    torch.save({f'features.{i}.{k}': v for i in w for k, v in (('weight', w[i]), ('bias', torch.zeros(len(w[i]))))}, path)
    assert 'lpips_alex' in perceptual_networks()
    import torchmetrics
    lin = torch.load(Path(torchmetrics.__file__).parent/'functional/image/lpips_models/alex.pth', weights_only=True, map_location='cpu')
    def features(x):
        x = (x-torch.tensor([-.030, -.088, -.188]).view(1, 3, 1, 1))/torch.tensor([.458, .448, .450]).view(1, 3, 1, 1)
        for i, v in w.items():
            if i in (3, 6): x = F.max_pool2d(x, 3, 2)
            x = F.conv2d(x, v, stride=4 if i == 0 else 1, padding=v.shape[-1]//2 if i else 2).relu()
            yield F.normalize(x, dim=1)
    a, b = noise(2, 3, 64, 80), noise(2, 3, 64, 80, seed=1)
    want = sum((lin[f'lin{i}.model.1.weight']*(p-q)**2).sum(1).mean((1, 2)) for i, (p, q) in enumerate(zip(features(a), features(b))))
    got = lpips('lpips_alex')(a, b)
    assert got.shape == (2,) and torch.allclose(got, want, rtol=1e-3)
    assert lpips('lpips_alex')(a, a).abs().max() < 1e-6
    r = evaluate(bic(4), [sample('kitten')], 4, Protocol.named('standard', perceptual='lpips_alex'))
    assert 'lpips_alex' in r['mean'] and 'st_lpips_alex' not in r['mean'] and not r['absent']

def test_lpips_alex_is_torchmetrics_own(offline, tmp_path):
    "One file of torchvision's layout, random weights: the number of torchmetrics' class, which loads it by torchvision"
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import alexnet
    path = tmp_path/'hub'/'hub'/'checkpoints'/Path(metrics.ALEXNET).name
    path.parent.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = alexnet(weights=None).state_dict()
    small = {k: v if k.startswith('features.') else torch.zeros(()).expand(v.shape) for k, v in made.items()}
    torch.save(small, path)                                     # the classifier is not asked: 10 MB instead of 233
    theirs, ours = LearnedPerceptualImagePatchSimilarity(net_type='alex'), lpips('lpips_alex')
    assert not offline and torch.equal(theirs.net.net.slice1[0].weight, made['features.0.weight'])
    a, b = noise(3, 3, 64, 80), noise(3, 3, 64, 80, seed=1)
    got, want = ours(a, b), torch.stack([theirs(a[i:i+1], b[i:i+1]) for i in range(3)])
    assert got.unique().numel() == 3 and torch.allclose(got, want, rtol=1e-5, atol=0)
    for c, d in ((a, .9*a), (pinv(downscale(a, 4), 4).clamp(-1, 1), a)):
        assert ours(c, d).mean().item() == pytest.approx(theirs(c, d).item(), rel=1e-5)

STORED = .39967                                      # what the package gives for the kitten's middle, bicubic x4
needs_st = pytest.mark.skipif('st_lpips_alex' not in perceptual_networks(), reason='stlpips-pytorch is not installed')

@needs_st
def test_st_lpips_is_the_packages_own(monkeypatch):
    "The package's class, its unused imports replaced by nothing"
    for n, f in (('torchsummary', 'summary'), ('IPython', 'embed')):
        monkeypatch.setitem(sys.modules, n, types.SimpleNamespace(**{f: None}))
    stlpips = pytest.importorskip('stlpips_pytorch.stlpips')
    theirs, ours = stlpips.LPIPS(net='alex', variant='shift_tolerant', verbose=False), lpips('st_lpips_alex')
    for shape in ((2, 3, 96, 64), (1, 3, 33, 47)):
        a, b = noise(*shape), noise(*shape, seed=1)
        with torch.no_grad(): want = theirs(a, b).flatten()
        assert torch.allclose(ours(a, b), want, atol=1e-6)

@needs_st
def test_st_lpips_of_a_photograph(pair):
    sr, hr = pair
    d = lpips('st_lpips_alex')
    assert d(hr, hr).item() == pytest.approx(0, abs=1e-6)
    assert 0 < d(pinv(downscale(hr, 4), 4), hr).item() < d(sr, hr).item()
    assert d(sr, hr).item() == pytest.approx(STORED, abs=2e-3)
    gray = lambda x: x.mean(1, keepdim=True)
    assert d(gray(sr), gray(hr)).shape == (1,)
    with torch.autocast('cpu', torch.bfloat16): assert d(sr, hr).item() == pytest.approx(STORED, abs=2e-3)

@needs_st
def test_images_too_small_for_a_network_lack_its_number():
    r = evaluate(bic(2), [noise(1, 3, 28, 28), noise(1, 3, 40, 40)], 2, Protocol.named('standard', perceptual='st_lpips_alex'))
    assert 'st_lpips_alex' not in r['images'][0] and r['mean']['st_lpips_alex'] == r['images'][1]['st_lpips_alex']


def test_one_image_or_many(tmp_path):
    "What a user has at hand: a picture, a stack, an array of names"
    u = np.random.default_rng(0).integers(0, 255, (5,40,44), np.uint8)
    for k in range(2): Image.fromarray(u[k]).save(tmp_path/f'{k}.png')
    names = np.array([str(tmp_path/f'{k}.png') for k in range(2)])
    for given, n in ((u[0], 1), (np.dstack(u[:3]), 1), (torch.zeros(3,40,44), 1), (u, 5), (torch.zeros(2,3,40,44), 2), (names, 2), (iter(names), 2)):
        assert len(Pairs(given, 4, quick).kept) == n

# --- published numbers

BICUBIC = {'benchmarks/Set5': (33.66, 28.42, 24.40), 'benchmarks/Set14': (30.24, 26.00, 23.10),       # papers: x2, x4 1707.02921, x8 1807.02758
           'benchmarks/BSD100': (29.56, 25.96, 23.67), 'faces/val': (33.54, 27.61, 23.48)}              # of the faces, what came with the cut
def near(name): return .1 if 'Set14' in name else .03               # of Set14 more than one edition is about
CASES = [pytest.param(n, s, v, marks=[pytest.mark.slow] if 'BSD' in n or (n, s) in (('faces/val', 2), ('faces/val', 8)) else []) 
         for n, vs in BICUBIC.items() for s, v in zip((2, 4, 8), vs)]

@pytest.mark.parametrize('name,scale,want', CASES)
def test_bicubic_as_published(data, name, scale, want):
    p = Protocol.named('faces128' if 'faces' in name else 'standard', perceptual=None)
    r = evaluate(lambda lr: p.bicubic(lr, scale), data/name, scale, p)
    assert r['mean']['psnr_y'] == pytest.approx(want, abs=near(name)) and not r['skipped']

def test_the_stored_table_is_the_published_one(root):
    rows = json.loads((root/'nbs/results/bicubic.json').read_text())['rows']
    got = {(r['set'].split('/')[-1], r['scale']): r['psnr_y'] for r in rows if r['model'] == 'bicubic'}
    for n, vs in BICUBIC.items():
        for s, v in zip((2, 4, 8), vs):
            assert got[n.split('/')[-1], s] == pytest.approx(v, abs=near(n))

@needs_st
@pytest.mark.slow
def test_faces_as_in_the_trials(data):
    "200 faces x4: bicubic .368 ST-LPIPS and 37.6 dB LR-PSNR, A+ y .212 and 53.6"
    p = Protocol.named('faces128', perceptual='st_lpips_alex')
    pairs = Pairs(sorted((data/'faces/val').iterdir())[:200], 4, p)
    for f, db, st, lr in ((lambda x: p.bicubic(x, 4), 27.63, .368, 37.6), (lambda x: pinv(x, 4), 28.19, .212, 53.6)):
        m = evaluate(f, pairs)['mean']
        assert m['psnr_y'] == pytest.approx(db, abs=.05)
        assert m['st_lpips_alex'] == pytest.approx(st, abs=.002)
        assert m['lr_psnr'] == pytest.approx(lr, abs=.1)
