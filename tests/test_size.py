"Pictures of any size: memory that does not grow with them, files that grow band by band"
import os, signal, subprocess, sys, time

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from sisr.generators import SRResNet

from sisr.saving import save_model
from sisr.images import Deep, SisrError, open_image
from sisr.strips import strips
from sisr.upscaler import Upscaler


def net(scale=2, **kw):
    "A small network that does something: its heads do not start at zero"
    torch.manual_seed(0)
    res = SRResNet(**{**dict(scale=scale, width=8, blocks=1, faithful=False), **kw}).eval()
    for h in res.heads.values(): torch.nn.init.normal_(h.weight, std=.02)
    return res

def noise(h, w, c=3, top=256, kind=np.uint8): return np.random.default_rng(0).integers(0, top, (h, w, c)[:2 if c == 1 else 3], dtype=kind)

# --- memory

FLAT = """
import resource, sys, tempfile, torch
import numpy as np
from PIL import Image
from sisr.saving import load_model
from sisr.upscaler import Upscaler
from sisr.images import Deep
w, h, suffix, tile, mode = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]) or None, sys.argv[6]
a = np.random.default_rng(0).integers(0, 256, (250, w, 4 if mode == 'RGBA' else 3), dtype=np.uint8)
if mode == 'RGB 16': big, held = Deep(np.tile(a.astype(np.uint16)*257, (h//250, 1, 1))), 10     # bytes a pixel: the array, and what Pillow holds
else:
    big, held = Image.new(mode, (w, h)), 4
    for y in range(0, h, 250): big.paste(Image.fromarray(a), (0, y))
with tempfile.TemporaryDirectory() as tmp: assert Upscaler(load_model(sys.argv[1]), 'cpu', tile=tile).to_file(big, f'{tmp}/x.{suffix}') == (2*w, 2*h)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024-w*h*held/2**20)      # less the input, which Pillow holds in four bytes a pixel
"""

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='peak memory is counted in KB on Linux')
@pytest.mark.parametrize('suffix, tile, more, mode', [('png', 400, 100, 'RGB'), ('tif', 400, 100, 'RGB'), ('png', 0, 220, 'RGB'), ('tif', 400, 130, 'RGBA'), ('tif', 400, 130, 'RGB 16')])
def test_peak_memory_is_flat(tmp_path, suffix, tile, more, mode):
    "Six times the pixels: what is needed above the picture itself follows the tile, which is smaller where all is small"
    model = save_model(net(), tmp_path/'light.safetensors')
    peak = lambda w, h: float(subprocess.check_output([sys.executable, '-c', FLAT, model, str(w), str(h), suffix, str(tile), mode], text=True))
    small, large = peak(1000, 1000), peak(3000, 2000)
    assert large < small+more                                      # MB; SR as floats would take 240 more, and its work as much again

# --- no seams, whatever the bands

@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('channels', [1, 2, 3, 4])
@pytest.mark.parametrize('tile', [16, 23, None])
def test_bands_are_the_whole(tmp_path, suffix, channels, tile):
    a = noise(75, 61, channels)
    if channels in (2, 4): a[20:50, 10:40, -1] = 0
    img, whole = Image.fromarray(a), Upscaler(net(), 'cpu', tile=0)
    assert Upscaler(net(), 'cpu', tile=tile).to_file(img, tmp_path/f'x.{suffix}') == (122, 150)
    far = np.asarray(open_image(tmp_path/f'x.{suffix}')).astype(int)-np.asarray(whole(img))
    assert abs(far).max() <= 1 and (far != 0).mean() < 1e-3        # 1e-5 apart, rounded: rarely to two sides

@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_bands_of_sixteen_bits(tmp_path, suffix, channels):
    u = noise(40, 33, channels, 65536, np.uint16)
    img = Image.fromarray(u) if channels == 1 else Deep(u)
    up, whole = Upscaler(net(), 'cpu', tile=16), Upscaler(net(), 'cpu', tile=0)
    up.to_file(img, tmp_path/f'x.{suffix}')
    got, want = open_image(tmp_path/f'x.{suffix}'), whole(img)
    got, want = (np.asarray(x) if channels == 1 else x.levels for x in (got, want))
    assert abs(got.astype(int)-want).max() <= 2

@given(h=st.integers(1, 40), w=st.integers(1, 40), c=st.integers(1, 4), bits=st.sampled_from([8, 16]), rows=st.integers(1, 45),
       fmt=st.sampled_from(['PNG', 'TIFF']), big=st.booleans())
@settings(max_examples=60, deadline=None)
def test_strips_hold_any_picture(tmp_path_factory, h, w, c, bits, rows, fmt, big):
    "What is written band by band, Pillow reads"
    a = noise(h, w, c, 2**bits, np.uint8 if bits == 8 else np.uint16).reshape(h, w, c)
    path = tmp_path_factory.mktemp('s')/f'x.{fmt.lower()}'
    with open(path, 'w+b') as f:
        s = strips(fmt, f, a.shape, rows, bits)
        for i in range(0, h, rows): s.write(a[i:i+rows])
        s.close()
    img = open_image(path)
    got = img.levels if isinstance(img, Deep) else np.asarray(img)
    if (c, bits, fmt) == (2, 16, 'TIFF'): got = got[..., [0, 3]]   # gray and alpha of 16 bits is colour and alpha there
    assert np.array_equal(got.reshape(a.shape).astype(int), a)

# --- what ends a run early

def test_nothing_half_written(tmp_path):
    "Stopped in the middle, no file is left, and what was there is what it was"
    up, to = Upscaler(net(), 'cpu', tile=16), tmp_path/'x.png'
    to.write_bytes(b'as it was')
    def stop(parts):
        for i, p in enumerate(parts):
            if i == 3: raise KeyboardInterrupt
            yield p
    with pytest.raises(KeyboardInterrupt): up.to_file(Image.fromarray(noise(64, 64)), to, stop)
    assert to.read_bytes() == b'as it was' and os.listdir(tmp_path) == ['x.png']

@pytest.mark.skipif(os.name == 'nt', reason='signals')
@pytest.mark.parametrize('how', ['SIGINT', 'SIGTERM', 'SIGHUP'])
def test_stopped_on_a_large_picture(tmp_path, how):
    model = save_model(net(), tmp_path/'light.safetensors')
    Image.fromarray(noise(3000, 3000)).save(tmp_path/'large.png')
    (out := tmp_path/'out').mkdir()
    run = subprocess.Popen([sys.executable, '-m', 'sisr.cli', 'upscale', str(tmp_path/'large.png'), '-o', str(out/'x.tif'), '--model', str(model), '--tile', '32'],
                           stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(getattr(signal, how), signal.SIG_DFL))
    for _ in range(600):
        if list(out.glob('.sisr-*')): break
        time.sleep(.1)
    assert list(out.glob('.sisr-*')), 'nothing was begun'
    run.send_signal(getattr(signal, how))
    _, err = run.communicate(timeout=60)
    assert run.returncode == 128+getattr(signal, how) and len(err.strip().splitlines()) == 1
    assert os.listdir(out) == []

# --- memory that runs out

class Poor(torch.nn.Module):
    "A device that holds so many pixels"
    def __init__(self, net, most): super().__init__(); self.net, self.channels, self.most, self.tried = net, net.channels, most, []
    def forward(self, x):
        self.tried.append(x.shape[-2]*x.shape[-1])
        if self.tried[-1] > self.most: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')
        return self.net(x)

def test_tiles_are_halved_where_memory_runs_out(tmp_path):
    up, img = Upscaler(net(), 'cpu', tile=128), Image.fromarray(noise(256, 256))
    want = np.asarray(up(img)).astype(int)
    up.net = Poor(up.net, 9000)
    assert abs(np.asarray(up(img))-want).max() <= 1
    assert sum(n > 9000 for n in up.net.tried) <= 3                # learnt once, not at each tile

def test_no_memory_at_all_is_told(tmp_path):
    up = Upscaler(net(), 'cpu')
    up.net = Poor(up.net, 0)
    with pytest.raises(SisrError, match='close other programs'): up.to_file(Image.fromarray(noise(60, 60)), tmp_path/'x.png')
    assert os.listdir(tmp_path) == []

def test_tiles_follow_the_free_memory(monkeypatch):
    up = Upscaler(net(4), 'cpu')
    roomy = up.side()
    monkeypatch.setattr('sisr.tiled.free_memory', lambda device: 30_000_000)
    assert up.side() < roomy
    assert len(up.parts(300, 300)) > 1                            # which is one piece where there is room
