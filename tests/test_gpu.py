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
