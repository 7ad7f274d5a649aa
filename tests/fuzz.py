"""Thousands of damaged files through the library, in one process: `python tests/fuzz.py --n 5000 --seed 0`.

Each file is a picture of some format or a network, mutated: bits flipped, cut, spliced, bytes put in or taken out, fields of the
header overwritten. What may come of it: a picture, or a `SisrError` of one line. What may not: any other exception, a crash, more
than `LIMIT` seconds, more than `GROWTH` bytes, a word on stderr. Exit status 1 if any of that was seen; the files are then kept."""
import argparse, faulthandler, io, json, os, resource, shutil, signal, sys, tempfile, time, traceback, warnings
from collections import Counter
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from sisr.generators import RRDBNet, SRResNet
from sisr.saving import load_model, save_model
from sisr.images import Deep, Picture, SisrError, frames, sample, save_image
from sisr.upscaler import Upscaler

LIMIT, GROWTH = 10, 2**31                            # seconds and bytes that one file may take
LARGE = 100_000                                      # pixels: what a header claims and a decoder confirms is not enlarged here

class TooLong(BaseException): "No `except Exception` may swallow it"

def tiny(scale=2):
    torch.manual_seed(0)
    g = SRResNet(scale=scale, width=4, blocks=1, faithful=False)
    for h in g.heads.values(): torch.nn.init.normal_(h.weight, std=.02)
    return g

def pictures(folder):
    "Good files of every format, mode and compression: name -> bytes"
    small = Image.open(sample()).crop((240, 200, 264, 218))
    exif = Image.Exif(); exif[274], exif[271] = 6, 'a camera'; exif[0x8769] = {0x829A: (1, 60)}
    from PIL import ImageCms
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    res = {}
    def add(name, img, **kw):
        f = io.BytesIO()
        try: img.save(f, format=kw.pop('format', None) or Image.registered_extensions()[Path(name).suffix], **kw)
        except (OSError, ValueError, KeyError): return
        res[name] = f.getvalue()
    Image.init()
    u16 = {m: np.asarray(small.convert(m)).astype(np.uint16)*257 for m in ('L', 'LA', 'RGB', 'RGBA')}
    for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16'):
        img = Image.fromarray(u16['L']) if mode == 'I;16' else small.convert(mode)
        for s in '.png .jpg .webp .tif .bmp .gif .jp2 .avif .ppm'.split(): add(f'{mode}{s}'.replace(';', ''), img)
    for m in ('LA', 'RGB', 'RGBA'):
        for s in ('.png', '.tif'): add(f'{m}16{s}', Deep(u16[m]))
    for c in ('tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg'): add(f'{c}.tif', small, compression=c)
    add('group4.tif', small.convert('1'), compression='group4')
    for s in ('.jpg', '.png', '.webp', '.tif'): add(f'said{s}', small, exif=exif.tobytes(), icc_profile=icc, dpi=(300, 300))
    add('ink.tif', small.convert('CMYK'), icc_profile=icc)
    add('progressive.jpg', small, progressive=True)
    add('phone.jpg', small, format='MPO', save_all=True, append_images=[small.resize((9, 9))])
    turned = [small.rotate(a) for a in (0, 90, 180)]
    for s in ('.gif', '.webp', '.png', '.tif', '.avif'): add(f'moving{s}', turned[0], save_all=True, append_images=turned[1:], **({} if s == '.tif' else dict(duration=40, loop=0)))
    add('clear.png', small.quantize(9), transparency=3)
    return res

def networks(folder):
    "Good networks: name -> bytes"
    made = dict(lean=tiny(), faithful=SRResNet(scale=2, width=4, blocks=1, sn=True), gray=SRResNet(scale=4, width=4, blocks=1, channels=1, faithful=False),
                dense=RRDBNet(scale=2, width=4, blocks=1, growth=2))
    return {f'{k}.safetensors': save_model(g, Path(folder)/f'{k}.safetensors', note='x').read_bytes() for k, g in made.items()}

NASTY = [-1, 0, 1, 2, 3, 4, 8, 10**6, 2**31, 2**63, 10**30, .5, float('nan'), True, False, None, '', '4', 'SRResNet', [], [1], [[]], {}, {'a': 1}]

def field(data, rng):
    "A network file with another value somewhere in its header"
    n = int.from_bytes(data[:8], 'little')
    try: head = json.loads(data[8:8+n]); said = json.loads(head['__metadata__']['sisr'])
    except (ValueError, KeyError, TypeError): return data
    pick = lambda xs: xs[rng.integers(len(xs))]
    kind = rng.integers(4)
    if kind == 0: said['arch'][pick([*said['arch'], 'evil'])] = pick(NASTY)
    if kind == 1: said[pick([*said, 'evil'])] = pick(NASTY)
    if kind == 2: said.pop(pick(list(said)))
    if kind == 3:
        t = head[pick([k for k in head if k != '__metadata__'])]
        t[pick(list(t))] = pick([*NASTY, 'F32', 'I8', 'BOOL', 'BF16', [1, 2], [0, 10**12]])
    head['__metadata__']['sisr'] = json.dumps(said)
    h = json.dumps(head).encode()
    return len(h).to_bytes(8, 'little')+h+data[8+n:]

def mutated(data, others, rng):
    "`data`, damaged in one way, or in two or three"
    b = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        n = max(1, len(b)); i = int(rng.integers(n)) if rng.random() < .6 else int(rng.integers(min(n, 200)))   # headers matter most
        how = rng.integers(8)
        if how == 0 and b: b[i % len(b)] ^= 1 << rng.integers(8)
        if how == 1: b = b[:i]
        if how == 2: b[i:i] = rng.bytes(rng.integers(1, 20))
        if how == 3: del b[i:i+int(rng.integers(1, 20))]
        if how == 4: o = others[rng.integers(len(others))]; j = int(rng.integers(len(o))); b = b[:i]+o[j:]
        if how == 5: b[i:i+4] = [b'\0'*4, b'\xff'*4, b'\x7f\xff\xff\xff', b'\0\0\xff\xff', b'\xff\xff\0\0', b'\0\1\0\0'][rng.integers(6)]
        if how == 6: b[i:i+8] = rng.bytes(8)
        if how == 7: j = int(rng.integers(n)); b[i:i] = b[j:j+int(rng.integers(1, 200))]
    return bytes(b)

def whole_png(data):
    "With checksums that hold: else no damage would get beyond them"
    import zlib
    out, at = data[:8], 8
    while at+12 <= len(data):
        n = int.from_bytes(data[at:at+4], 'big'); body = data[at+4:at+8+n]
        out += data[at:at+4]+body+zlib.crc32(body).to_bytes(4, 'big'); at += 12+n
    return out+data[at:]

def try_picture(path, up):
    "'picture', or 'large'"
    lrs = frames(path)
    if sum(i.width*i.height for i in lrs) > LARGE: return 'large'
    srs = [up(i) for i in lrs]
    save_image(srs, path.with_name('out.png' if len(srs) == 1 else 'out.tif'))
    assert all(s.size == (2*i.width, 2*i.height) for i, s in zip(lrs, srs))
    return 'picture'

def try_network(path, up):
    net = load_model(path)
    img = Upscaler(net, 'cpu')(Image.new('RGB', (5, 4), 'teal'))
    assert img.size == (5*net.scale, 4*net.scale)
    return 'picture'

def fuzz(n, seed=0, keep=None, say=lambda *_: None):
    "Counts of what became of `n` files, and the bad ones: (Counter, list of (name, why))"
    rng, counts, bad = np.random.default_rng(seed), Counter(), []
    def late(*_): raise TooLong
    old = signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        folder, up = Path(tmp), Upscaler(tiny(), 'cpu')
        kinds = [(pictures(folder), try_picture, .75), (networks(folder), try_network, .25)]
        for k in range(n):
            files, f, _ = kinds[int(rng.random() > kinds[0][2])]
            name = sorted(files)[rng.integers(len(files))]; others = [files[o] for o in sorted(files)]
            data = files[name]
            if f is try_network and rng.random() < .5: data = field(data, rng)
            else:
                data = mutated(data, others, rng)
                if name.endswith('.png') and rng.random() < .7: data = whole_png(data)
            path = folder/f'file{Path(name).suffix}'; path.write_bytes(data)
            err, before, why, t = io.StringIO(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None, time.perf_counter()
            with Quiet(folder/'stderr') as heard:
                signal.setitimer(signal.ITIMER_REAL, LIMIT)
                try: what = f(path, up)
                except SisrError as e:
                    what = 'SisrError'
                    if len(str(e).splitlines()) != 1 or str(path) not in str(e) and 'numbers' not in str(e): why = f'not one line about the file: {e}'
                except TooLong: what, why = 'too long', f'more than {LIMIT} s'
                except BaseException as e: what, why = 'exception', ''.join(traceback.format_exception(e))
                finally: signal.setitimer(signal.ITIMER_REAL, 0)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)*1024
            if not why and grown > GROWTH: what, why = 'memory', f'{grown/2**20:.0f} MB more'
            if not why and heard.text: what, why = 'noise', f'on stderr: {heard.text[:300]}'
            counts['network' if f is try_network else Path(name).suffix[1:], what] += 1
            if why:
                bad.append((f'{k} {name}', why)); say(k, name, why)
                if keep: Path(keep).mkdir(parents=True, exist_ok=True); shutil.copy(path, Path(keep)/f'{seed}-{k}-{name}')
    signal.signal(signal.SIGALRM, old)
    return counts, bad

class Quiet:
    "What anybody, C libraries too, writes to stderr in this block: `.text`"
    def __init__(self, path): self.path = path
    def __enter__(self):
        sys.stderr.flush()
        self.old, self.file = os.dup(2), open(self.path, 'w+b')
        os.dup2(self.file.fileno(), 2)
        return self
    def __exit__(self, *_):
        sys.stderr.flush(); os.dup2(self.old, 2); os.close(self.old)
        self.file.seek(0); self.text = self.file.read().decode(errors='replace'); self.file.close()

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--n', type=int, default=5000); p.add_argument('--seed', type=int, default=0); p.add_argument('--keep', default='fuzz-bad')
    a = p.parse_args()
    faulthandler.enable()
    start = time.time()
    counts, bad = fuzz(a.n, a.seed, a.keep, lambda k, name, why: print(f'{k} {name}: {why}', flush=True))
    kinds, whats = sorted({k for k, _ in counts}), sorted({w for _, w in counts})
    print(f'{"":10}'+''.join(f'{w:>12}' for w in whats))
    for k in kinds: print(f'{k:10}'+''.join(f'{counts[k, w]:12}' for w in whats))
    print(f'{"all":10}'+''.join(f'{sum(counts[k, w] for k in kinds):12}' for w in whats))
    print(f'{a.n} files, seed {a.seed}, {time.time()-start:.0f} s, {len(bad)} bad, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024} MB')
    sys.exit(bool(bad))
