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
