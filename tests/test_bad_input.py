"Bad input: one clear line for each file, the others of the batch done, and the status tells. Thousands of damaged files more: `python tests/fuzz.py`"
import json, os, struct, subprocess, sys, time, warnings, zlib
from pathlib import Path
import numpy as np
import pytest, torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from safetensors.torch import save
from fuzz import fuzz, tiny
from sisr import cli
from sisr.saving import load_model, save_model
from sisr.images import Deep, SisrError, SisrWarning, open_image, save_image
from sisr.shell import FORMATS
from sisr.upscaler import Upscaler

@pytest.fixture(scope='session')
def model(tmp_path_factory): return save_model(tiny(), tmp_path_factory.mktemp('net')/'tiny.safetensors')

@pytest.fixture
def sisr(capsys, monkeypatch):
    "`sisr upscale`: (status, lines of stdout, lines of stderr)"
    monkeypatch.delenv('SISR_DEBUG', raising=False)
    def run(*argv):
        capsys.readouterr()
        status, out = cli.main(['upscale', *map(str, argv)]), capsys.readouterr()
        assert 'Traceback' not in out.err and 'unexpected' not in out.err
        return status, out.out.splitlines(), out.err.splitlines()
    return run

def chunk(name, data): return struct.pack('>I', len(data))+name+data+struct.pack('>I', zlib.crc32(name+data))

def png(w, h, *more, data=b''): return b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 2, 0, 0, 0))+b''.join(more)+chunk(b'IDAT', zlib.compress(data))+chunk(b'IEND', b'')

def bad_pictures(folder):
    "Files that are no pictures, though they are called so"
    folder.mkdir()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8))
    noise.save(folder/'good.png'); noise.save(folder/'good.jpg'); noise.save(folder/'good.tif')
    data = {n: (folder/f'good.{n}').read_bytes() for n in ('png', 'jpg', 'tif')}
    (folder/'good.jpg').unlink(); (folder/'good.tif').unlink()
    bad = {'empty.png': b'', 'text.png': b'hello', 'html.jpg': b'<!doctype html><p>404</p>', 'zeros.tif': bytes(5000), 'pdf.png': b'%PDF-1.4\n',
           'nothing.png': png(0, 0), 'flat.png': png(0, 7), 'bomb.png': png(60000, 60000), 'bomb.gif': b'GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2\x44\1\0;',
           'bomb.bmp': b'BM'+struct.pack('<IHHIIiiHHIIiiII', 60, 0, 0, 54, 40, 50000, 50000, 1, 24, 0, 0, 0, 0, 0, 0), 'bomb.ppm': b'P6 90000 90000 255\n...',
           'program.eps': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n', 'zip.webp': b'PK\3\4'+bytes(90), 'long.png': png(8, 8)[:40],
           **{f'cut.{n}': d[:len(d)//2] for n, d in data.items()}, **{f'head.{n}': d[:20] for n, d in data.items()}}
    for n, d in bad.items(): (folder/n).write_bytes(d)
    return [folder/n for n in bad]

def test_a_batch_of_bad_pictures(sisr, model, tmp_path):
    bad = bad_pictures(tmp_path/'in')
    (tmp_path/'in/folder.png').mkdir()
    missing = [tmp_path/'in/gone.png', tmp_path/'in/folder.png']
    status, out, err = sisr(*bad, *missing, tmp_path/'in/good.png', '-o', tmp_path/'out', '--model', model)
    assert status == 1 and len(out) == 1 and 'good.png' in out[0] and Image.open(tmp_path/'out/good.png').size == (80, 80)
    assert len(err) == len(bad)+len(missing) and all(line.startswith('sisr: ') for line in err)
    for f in [*bad, *missing]: assert sum(str(f) in line for line in err) == 1, f
    assert sum('pixels' in line for line in err) >= 4 and sum('not an image' in line for line in err) >= 7

def test_the_suffix_may_be_wrong(sisr, model, tmp_path):
    Image.new('RGB', (5, 4), 'teal').save(tmp_path/'really.jpg', format='PNG')
    assert sisr(tmp_path/'really.jpg', '-o', tmp_path/'out', '--model', model)[::2] == (0, [])

def test_more_memory_than_there_is_is_told_before(sisr, model, tmp_path, monkeypatch):
    monkeypatch.setattr('sisr.upscaler.memory', lambda: 1000)
    Image.new('RGB', (50, 40)).save(tmp_path/'a.png')
    status, out, err = sisr(tmp_path/'a.png', '-o', tmp_path/'b.jpg', '--model', model)
    assert status == 1 and len(err) == 1 and 'more than there is: write it to a .png or .tif file' in err[0]
    assert sisr(tmp_path/'a.png', '-o', tmp_path/'b.png', '--model', model)[::2] == (0, [])     # which grows on disk

# --- networks

def bad_networks(folder):
    "Files that are no networks, or lie"
    net = tiny(4)
    weights = {k: v.contiguous() for k, v in net.state_dict().items()}
    def made(arch={}, weights=weights, head={}, **tensors): return save({**weights, **tensors}, dict(sisr=json.dumps(dict(network='SRResNet', arch={**net.arch, **arch}, info={}) | head)))
    good = made()
    n = int.from_bytes(good[:8], 'little')
    torch.save(net.state_dict(), folder/'pickle.safetensors')
    class Evil:
        def __reduce__(self): return (Path.touch, (folder/'ran',))
    torch.save(Evil(), folder/'evil.pth')
    bad = {'empty': b'', 'text': b'hello', 'cut': good[:500], 'half': good[:-100], 'longer': good+b'x', 'header': (10**12).to_bytes(8, 'little')+good[8:],
           'header100MB': (99*10**6).to_bytes(8, 'little')+good[8:], 'nested': save(weights, dict(sisr='['*100_000)), 'no arch': made(head=dict(arch=None)), 'info': made(head=dict(info=[1])),
           'network': made(head=dict(network=['SRResNet'])), 'no scale': made(head=dict(arch=dict(width=4))), 'offsets': good[:8]+good[8:8+n].replace(b'"data_offsets":[0,', b'"data_offsets":[9,')+good[8+n:],
           'scale 8': made(dict(scale=8)), 'scale 2': made(dict(scale=2)), 'scale 3': made(dict(scale=3)), 'scale text': made(dict(scale='4')), 'wide': made(dict(width=10**6)),
           'wider': made(dict(width=4096, tail=4096)), 'deep': made(dict(blocks=10**9)), 'channels': made(dict(channels=2)), 'heads': made(dict(heads=[64])), 'no heads': made(dict(heads=5)),
           'huge': made(dict(width=10**30)), 'true': made(dict(width=True)), 'odd': made(dict(evil=1)), 'nan': made(weights={k: v*float('nan') for k, v in weights.items()}),
           'ints': made(weights={k: v.to(torch.int8) for k, v in weights.items()}), 'small': made(weights={k.replace('heads.2', 'heads.4'): v.contiguous() for k, v in tiny(2).state_dict().items()}), 'one more': made(more=torch.zeros(2)), 'one less': made(weights=dict(list(weights.items())[1:])),
           'shape': made(**{'stem.0.weight': torch.zeros(4, 3, 5, 5)})}
    for k, d in bad.items(): (folder/f'{k}.safetensors').write_bytes(d)
    return [folder/f'{k}.safetensors' for k in bad]+[folder/'pickle.safetensors', folder/'evil.pth']

def test_bad_networks(sisr, tmp_path):
    (tmp_path/'nets').mkdir()
    Image.new('RGB', (5, 4)).save(tmp_path/'a.png')
    for f in bad_networks(tmp_path/'nets'):
        start = time.perf_counter()
        status, out, err = sisr(tmp_path/'a.png', '-o', tmp_path/'b.png', '--model', f)
        assert (status, len(err)) == (1, 1) and f.name in err[0], f
        assert time.perf_counter()-start < 5, f
    assert not (tmp_path/'nets/ran').exists()                          # nothing from a pickle ever runs

def test_what_a_lying_header_says_is_told(tmp_path):
    (tmp_path/'nets').mkdir()
    bad = {f.stem: f for f in bad_networks(tmp_path/'nets')}
    for name, words in {'scale 8': 'stages.2.0.weight is missing', 'scale 2': 'heads cannot be', 'small': 'stages.1.0.weight is missing', 'wide': 'width cannot be 1000000', 'deep': 'blocks cannot be', 'nan': 'no numbers',
                        'shape': r'stem.0.weight is \[4, 3, 5, 5\]'}.items():
        with pytest.raises(SisrError, match=words): load_model(bad[name])

@pytest.mark.parametrize('what', [5, 'x', [1], None, {}])
def test_what_a_network_tells_of_its_degradation_may_be_nonsense(what):
    g = tiny()
    g.info = {'degradation': what}
    assert Upscaler(g, 'cpu').consistent is True

def test_no_pixels_and_no_tiles():
    with pytest.raises(SisrError, match='without pixels'): Upscaler(tiny(), 'cpu')(Image.new('RGB', (0, 0)))
    for kw in (dict(tile=-5), dict(tile=7.5), dict(overlap=-3)):
        with pytest.raises(SisrError, match='whole number of pixels'): Upscaler(tiny(), 'cpu', **kw)

def test_the_most_pixels_are_a_setting(tmp_path):
    Image.new('L', (60, 50)).save(tmp_path/'a.png')
    run = lambda most: subprocess.run([sys.executable, '-W', 'ignore', '-c', f"import sisr.images; print(sisr.images.open_image({str(tmp_path/'a.png')!r}).size)"],
                                      capture_output=True, text=True, env={**os.environ, 'SISR_MAX_PIXELS': most})
    assert run('3000').stdout.strip() == '(60, 50)'
    assert 'over 2,998 pixels; if you trust it, set SISR_MAX_PIXELS' in run('2998').stderr

def test_a_network_whose_numbers_overflow_is_told():
    g = tiny()
    g.stem[0].weight.data.fill_(6e4); g.stem[0].bias.data.fill_(6e4)
    for p in g.trunk.parameters(): p.data.fill_(6e4)
    for p in g.stages.parameters(): p.data.fill_(6e4)
    for h in g.heads.values(): h.weight.data.fill_(6e4)
    for c in g.modules():
        if isinstance(c, torch.nn.Conv2d): c.weight.data.mul_(1e30)
    with pytest.raises(SisrError, match='no numbers'): Upscaler(g, 'cpu')(Image.new('RGB', (4, 4), 'red'))

# --- properties

@pytest.fixture(scope='module')
def up(): return Upscaler(tiny(), 'cpu')

SIXTEEN = {'I;16': 1, 'LA 16': 2, 'RGB 16': 3, 'RGBA 16': 4}

@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mode=st.sampled_from(['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', *SIXTEEN]), w=st.integers(1, 9), h=st.integers(1, 9),
       first=st.sampled_from(['.png', '.tif', '.webp', '.jpg', '.bmp', '.gif', '.jp2', '.avif']), last=st.sampled_from(FORMATS), seed=st.integers(0, 99))
def test_any_mode_size_and_format(up, tmp_path, mode, w, h, first, last, seed):
    "A picture twice as large, or a line; nothing else"
    rng = np.random.default_rng(seed)
    if mode in SIXTEEN:
        u = rng.integers(0, 65536, (h, w, SIXTEEN[mode])).astype(np.uint16)
        img = Deep(u) if SIXTEEN[mode] > 1 else Image.fromarray(u[..., 0])
    else: img = Image.fromarray(rng.integers(0, 256, (h, w, 4)).astype(np.uint8)).convert('RGB' if mode in ('1', 'P', 'CMYK') else 'RGBA').convert(mode)
    try: img.save(tmp_path/f'a{first}', **({'lossless': True} if first == '.webp' else {}))
    except (OSError, ValueError, KeyError): return                     # Pillow cannot make such a file
    with warnings.catch_warnings():
        warnings.simplefilter('error')                                 # nobody else may warn
        warnings.simplefilter('ignore', SisrWarning)
        out = open_image(save_image(up(tmp_path/f'a{first}'), tmp_path/f'b{last}'))
    assert out.size == (2*w, 2*h)
    if first == '.png' and last in ('.png', '.tif') and mode != 'LA 16':
        assert isinstance(out, Deep) == mode.endswith(' 16') and out.mode == {'1': 'L', 'P': 'RGB'}.get(mode, mode.removesuffix(' 16'))

def test_damaged_files_give_a_picture_or_a_line():
    "A few of what `python tests/fuzz.py` does by the thousand"
    counts, bad = fuzz(500, seed=7)
    assert not bad and sum(counts.values()) == 500 and {'picture', 'SisrError'} <= {what for _, what in counts}
