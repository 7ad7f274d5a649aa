"On a CUDA GPU the same numbers come out; without one these tests skip."
import pytest, torch
from sisr.generators import SRResNet
from sisr.images import from_uint8, sample, to_tensor
from sisr.metrics import Protocol, psnr_y, ssim_y
from sisr.resize import consistent, downscale, pinv, upscale
from sisr.upscaler import Upscaler

pytestmark = pytest.mark.gpu
DEVICE = 'cuda'

@pytest.fixture
def hr(): return to_tensor(sample())[..., :128, :192]

@pytest.mark.parametrize('s', (2, 4, 8))
def test_resize(hr, s):
    "A, its twin, A+ and the projection, to float32"
    for f in (downscale, upscale, pinv): torch.testing.assert_close(f(hr.to(DEVICE), s).cpu(), f(hr, s), atol=1e-5, rtol=0)
    lr = downscale(hr, s)
    sr = consistent(upscale(lr, s).to(DEVICE)+.1, lr.to(DEVICE))
    assert (downscale(sr, s).cpu()-lr).abs().max() < 1e-4

def test_metrics(hr):
    other = hr.roll(1, -1)
    for f in (psnr_y, ssim_y): torch.testing.assert_close(f(other.to(DEVICE), hr.to(DEVICE), 4).cpu(), f(other, hr, 4), atol=1e-3, rtol=0)

@pytest.mark.parametrize('tile', (0, 24))
def test_upscaler(hr, tile):
    "The same picture, whole or in tiles, to one level of 255"
    torch.manual_seed(0)
    net = SRResNet(4, width=16, blocks=2, faithful=False).eval()
    lr = Protocol().lr(hr, 4)
    cpu, gpu = (Upscaler(net, device, tile=tile).tensor(lr).cpu() for device in ('cpu', DEVICE))
    assert (gpu-cpu).abs().max() < 2/127.5

def test_a_training_with_an_adversary_repeats(tmp_path):
    "Bit for bit, with the switches set: G, D and the average"
    from sisr.adversary import Adversary
    from sisr.data import ImageSet, Patches
    from sisr.degradations import Bicubic
    from sisr.determinism import deterministic, digest, seed_everything
    from sisr.images import samples
    from sisr.stages import Stage
    from sisr.trainer import Trainer
    def go(out):
        with deterministic():
            seed_everything(0)
            g = SRResNet(4, width=16, blocks=2, faithful=False)
            t = Trainer(g, Patches(ImageSet(samples()[:4]), 48, 4), Bicubic(4), out, hard=True, ema=.9, show=False,
                        adversary=Adversary('srgan', dict(size=48, width=8, sn=True), replay=32, every=1))
            t.fit([Stage('pixels', 5), Stage('both', 5, 3e-4, losses=dict(l1=1.,vgg=.1), rate_d=3e-4, adversary=.02)])
        return [digest(net) for net in (t.net, t.adversary.d, t.ema.net)]
    assert go(tmp_path/'a') == go(tmp_path/'b')

def test_patches_are_cut_where_they_are_used():
    "The same bytes as on the CPU, with channels last, and the feed hands them out in order"
    from sisr.data import Feed, ImageSet, Patches
    from sisr.images import samples
    here,there = (Patches(ImageSet(samples()), 64, 8, seed=3) for _ in range(2))
    feed = Feed(there, 5, 2, DEVICE)
    for k in (5,7,9):
        u = next(feed)
        assert u.is_cuda and u.is_contiguous(memory_format=torch.channels_last) and torch.equal(u.cpu(), here[k])
    feed.close()

def go_on(out, steps, adversary, resume=False, **kw):
    "A trainer that did so many steps"
    from sisr.adversary import Adversary
    from sisr.data import ImageSet, Patches
    from sisr.degradations import Bicubic
    from sisr.images import samples
    from sisr.stages import Stage
    from sisr.trainer import Trainer
    torch.manual_seed(0)
    d = Adversary('srgan', dict(size=48, width=8), replay=16, every=1) if adversary else None
    t = Trainer(SRResNet(4, width=16, blocks=2, faithful=False), Patches(ImageSet(samples()[:4]), 48, 4), Bicubic(4), out, hard=adversary, adversary=d, show=False, save=4, **kw)
    more = dict(losses=dict(l1=1., vgg=.1), rate_d=3e-4, adversary=.02, artifacts=300.) if adversary else dict(ensemble=.5)
    t.stages = [Stage('both', steps, 3e-4, shape='flat', warmup=0, **more)]
    t.fit(t.stages, resume)
    return t

@pytest.mark.parametrize('adversary', (False, True))
def test_a_step_waits_for_nothing(tmp_path, adversary):
    "No operation of a step makes the host wait for the device, old images among D's fakes and all"
    t = go_on(tmp_path, 12, adversary)
    batches = [t.patches[k] for k in range(12, 20)]               # they lie on the device by now
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('error')
    try:
        for hr in batches: t.tally.add(t.step(hr, t.stages[0]), t.k)
    finally: torch.cuda.set_sync_debug_mode('default')

def test_a_resumed_run_repeats_the_bits(tmp_path):
    "Eight steps, and four and four, with the switches set"
    from sisr.determinism import deterministic, digest
    with deterministic():
        whole = go_on(tmp_path/'whole', 8, True)
        go_on(tmp_path/'parts', 4, True)
        parts = go_on(tmp_path/'parts', 8, True, resume=True)
    assert [digest(n) for n in (whole.net, whole.adversary.d, whole.ema.net)] == [digest(n) for n in (parts.net, parts.adversary.d, parts.ema.net)]

def test_compiled(tmp_path):
    "A compiled network learns what it would have learnt"
    plain,fast = (go_on(tmp_path/str(c), 8, False, precision='no', compiled=c) for c in (False,True))
    for a,b in zip(plain.net.parameters(), fast.net.parameters()): torch.testing.assert_close(a, b, atol=2e-3, rtol=0)
