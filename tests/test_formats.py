"Formats: every mode that people have, from a file through a network to a file. Depth, mode, colours and what the file says are kept, or it is told"
import io, os, shutil, sys, tempfile, warnings
from pathlib import Path
import numpy as np
import pytest, torch
from PIL import Image, ImageCms
from sisr import cli
from sisr.generators import SRResNet
from sisr.saving import save_model
from sisr.images import Deep, Picture, SisrError, SisrWarning, frame_count, frames, open_image, sample, samples, save_image, to_tensor
from sisr.resize import downscale
from sisr.upscaler import Upscaler

rng = np.random.default_rng(0)
SUFFIXES = [s for s in '.png .tif .webp .jpg .bmp .gif .jp2 .avif'.split() if Image.registered_extensions().get(s) in Image.SAVE]

def photo(mode, size=(16, 12)):
    img = Image.open(sample('spices')).resize(size)
    if mode == '1': return img.convert('1')
    if mode == 'P': return img.quantize(20)
    if mode == 'I;16': return Image.fromarray(np.asarray(img.convert('L')).astype(np.uint16)*257)
    if mode.endswith(' 16'):
        u = np.asarray(img.convert(mode[:-3])).astype(np.uint16)*256 + rng.integers(0, 256, (*size[::-1], 1)).astype(np.uint16)
        return Deep(u)
    img = img.convert(mode)
    if mode in ('LA', 'RGBA'): img.putalpha(Image.linear_gradient('L').resize(size))
    return img

def kind(img): return f'{img.mode} 16' if isinstance(img, Deep) else 'I;16' if img.mode.startswith('I;16') else img.mode

@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    g = SRResNet(scale=2, width=8, blocks=1, faithful=False)
    torch.nn.init.normal_(g.heads['2'].weight, std=.02)
    return g

@pytest.fixture(scope='module')
def up(net): return Upscaler(net, 'cpu')

@pytest.fixture
def sisr(net, tmp_path, capsys):
    "`sisr upscale` with a tiny network: (status, lines of stderr)"
    model = save_model(net, tmp_path/'net'/'tiny.safetensors')
    def run(*argv):
        capsys.readouterr()
        status = cli.main(['upscale', *map(str, argv), '--model', str(model)])
        return status, capsys.readouterr().err.splitlines()
    return run

# --- mode by format

WANT = {'1': 'L', 'L': 'L', 'LA': 'LA', 'P': 'RGB', 'RGB': 'RGB', 'RGBA': 'RGBA', 'I;16': 'I;16', 'LA 16': 'LA 16', 'RGB 16': 'RGB 16', 'RGBA 16': 'RGBA 16'}
HELD = {'.png': set(WANT.values()), '.tif': set(WANT.values())-{'LA 16'}, '.webp': {'RGB', 'RGBA'}, '.jpg': {'L', 'RGB'}, '.bmp': {'L', 'RGB'}, '.gif': set(),
        '.jp2': {'L', 'LA', 'RGB', 'RGBA', 'I;16'}, '.avif': {'L', 'RGB', 'RGBA'}}

@pytest.mark.parametrize('mode', WANT)
@pytest.mark.parametrize('suffix', SUFFIXES)
def test_depth_and_mode_are_kept_or_it_is_told(up, tmp_path, mode, suffix):
    photo(mode).save(tmp_path/'a.png')
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        out = open_image(save_image(up(tmp_path/'a.png'), tmp_path/f'b{suffix}'))
    assert out.size == (32, 24)
    want = WANT[mode]
    told = ' '.join(str(w.message) for w in heard if w.category is SisrWarning)
    if want in HELD[suffix]: assert kind(out) == want and not told
    if '16' in want and '16' not in kind(out): assert '16 bits became 8' in told
    if 'A' in want and suffix in ('.jpg', '.bmp'): assert 'white' in told
    if 'A' not in want and mode != '1': assert (downscale(to_tensor(out, gray=False), 2)-to_tensor(tmp_path/'a.png', gray=False)).abs().mean() < .1   # the same picture

def test_gray_stays_gray_to_the_last_pixel(up, tmp_path):
    for suffix in ('.png', '.jpg', '.tif', '.bmp', '.webp', '.avif'):
        if suffix not in SUFFIXES: continue
        save_image(photo('L'), tmp_path/f'a{suffix}')
        u = np.asarray(up(tmp_path/f'a{suffix}').convert('RGB')).astype(int)
        assert np.ptp(u, axis=2).max() <= (6 if suffix in ('.webp', '.avif') else 0), suffix      # those two store gray as colour

# --- sixteen bits

@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_our_png_is_what_others_read(tmp_path):
    from torchvision.io import ImageReadMode, decode_png
    for mode in ('LA 16', 'RGB 16', 'RGBA 16'):
        img = photo(mode)
        save_image(img, tmp_path/'a.png')
        t = decode_png(torch.frombuffer(bytearray((tmp_path/'a.png').read_bytes()), dtype=torch.uint8), ImageReadMode.UNCHANGED)
        assert t.dtype == torch.uint16 and (t.permute(1, 2, 0).numpy() == img.levels).all()

def test_our_tiff_is_what_others_read(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    for mode in ('RGB 16', 'RGBA 16'):
        img = photo(mode)
        save_image(img, tmp_path/'a.tif')
        try: assert (tifffile.imread(tmp_path/'a.tif') == img.levels).all()
        except ValueError as e:
            if 'imagecodecs' not in str(e): raise

@pytest.mark.parametrize('kw', [{}, dict(compression='zlib'), dict(compression='zlib', predictor=True), dict(byteorder='>'), dict(byteorder='>', compression='zlib'), dict(tile=(16, 16)), dict(rowsperstrip=3)],
                         ids=lambda kw: '-'.join(map(str, kw.values())) or 'plain')
@pytest.mark.parametrize('channels', [3, 4])
def test_tiffs_of_others(tmp_path, kw, channels):
    tifffile = pytest.importorskip('tifffile')
    u = rng.integers(0, 65536, (20, 23, channels)).astype(np.uint16)
    try: tifffile.imwrite(tmp_path/'a.tif', u, photometric='rgb', extrasamples=['unassalpha'][:channels-3], **kw)
    except (ValueError, KeyError) as e: pytest.skip(str(e))
    assert (open_image(tmp_path/'a.tif').levels == u).all()

def test_premultiplied_alpha_is_divided_out(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    u = rng.integers(0, 65536, (9, 9, 4)).astype(np.uint16); u[..., 3] = np.maximum(u[..., 3], 20000); u[0, 0] = 0
    over = u.copy(); over[..., :3] = (u[..., :3]*(u[..., 3:]/65535)).round()
    tifffile.imwrite(tmp_path/'a.tif', over, photometric='rgb', extrasamples=['assocalpha'])
    got = open_image(tmp_path/'a.tif').levels
    assert np.abs(got.astype(int)-u).max() <= 4
    tifffile.imwrite(tmp_path/'b.tif', (over >> 8).astype(np.uint8), photometric='rgb', extrasamples=['assocalpha'])
    assert np.abs(np.asarray(open_image(tmp_path/'b.tif')).astype(int)-(u >> 8)).max() <= 5

def test_planes_of_16_bits_are_refused_not_read_as_noise(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    tifffile.imwrite(tmp_path/'a.tif', rng.integers(0, 65536, (3, 9, 9)).astype(np.uint16), photometric='rgb', planarconfig='separate')
    with pytest.raises(SisrError, match='save it interleaved'): open_image(tmp_path/'a.tif')

def test_sixteen_bits_turn_with_their_orientation(tmp_path):
    img, exif = photo('RGB 16'), Image.Exif()
    exif[274] = 6
    img.save(tmp_path/'a.png', exif=exif.tobytes())
    assert (open_image(tmp_path/'a.png').levels == np.rot90(img.levels, -1)).all()

def test_a_deep_image_is_an_image(up, tmp_path):
    img = up(photo('RGB 16'))
    assert isinstance(img, Image.Image) and img.mode == 'RGB' and img.size == (32, 24) and len(np.unique(img.levels)) > 500
    img.save(tmp_path/'a.png'); img.save(tmp_path/'a.jpg')
    assert (open_image(tmp_path/'a.png').levels == img.levels).all() and not isinstance(open_image(tmp_path/'a.jpg'), Deep)
    assert img.resize((4, 4)).size == (4, 4)
    img.putpixel((0, 0), (0, 0, 0) if img.getpixel((0, 0)) != (0, 0, 0) else (9, 9, 9))
    assert img.levels is None and Picture.of(img).bits == 8                                       # painted on: then that counts

def test_one_colour_of_16_bits_is_clear(tmp_path):
    img = photo('RGB 16')
    img.save(tmp_path/'a.png')
    data, key = (tmp_path/'a.png').read_bytes(), img.levels[3, 4]
    import struct, zlib
    body = b'tRNS'+struct.pack('>HHH', *map(int, key))
    (tmp_path/'a.png').write_bytes(data[:33]+struct.pack('>I', 6)+body+struct.pack('>I', zlib.crc32(body))+data[33:])
    got = open_image(tmp_path/'a.png')
    assert got.mode == 'RGBA' and ((got.levels[..., 3] == 0) == (img.levels == key).all(2)).all()

def raw_png(w, depth, kind, data, *more):
    import struct, zlib
    chunk = lambda n, d: struct.pack('>I', len(d))+n+d+struct.pack('>I', zlib.crc32(n+d))
    return b'\x89PNG\r\n\x1a\n'+b''.join(chunk(*p) for p in [(b'IHDR', struct.pack('>IIBBBBB', w, 1, depth, kind, 0, 0, 0)), *more, (b'IDAT', zlib.compress(b'\0'+data)), (b'IEND', b'')])

@pytest.mark.parametrize('depth,data,key,clear', [(1, b'\x50', 1, [0, 1, 0, 1]), (2, b'\x1b', 2, [0, 0, 1, 0]), (4, b'\x0f\x5a', 5, [0, 0, 1, 0]), (8, b'\1\2\3\4', 3, [0, 0, 1, 0]),
                                                  (8, b'\1\2\3\4', 4660, [0, 0, 0, 0]), (16, b'\0\1\0\2\2\xbc\0\4', 700, [0, 0, 1, 0])])
def test_a_clear_gray(depth, data, key, clear):
    "One gray is declared clear, in the levels of the file: two of them or 65,536"
    p = Picture.of(io.BytesIO(raw_png(4, depth, 0, data, (b'tRNS', key.to_bytes(2, 'big')))))
    assert (p.alpha.flatten() < 0).int().tolist() == clear

def test_too_many_levels_of_clear():
    p = Picture.of(io.BytesIO(raw_png(2, 8, 3, b'\0\1', (b'PLTE', bytes(6)), (b'tRNS', bytes([7, 9])+bytes(400)))))
    assert p.size == (2, 1)

# --- colours

@pytest.mark.parametrize('mode', ['L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16', 'RGB 16', 'RGBA 16'])
def test_colours_do_not_shift(mode, tmp_path, shipped=[]):
    "Through a shipped network, as saved: the mean of A(SR)-LR of each channel, in 8-bit steps"
    shipped or shipped.append(Upscaler.from_pretrained('photos-x2', 'cpu'))
    for name in ('kitten', 'spices', 'harbour'):
        img = Image.open(sample(name)).crop((200, 150, 264, 214))
        if mode == 'P': img = img.quantize(64)
        elif mode == 'I;16': img = Image.fromarray(np.asarray(img.convert('L')).astype(np.uint16)*257)
        elif mode.endswith(' 16'): img = Deep(np.asarray(img.convert(mode[:-3])).astype(np.uint16)*257)
        else: img = img.convert(mode)
        f = tmp_path/('a.tif' if mode == 'CMYK' else 'a.png'); img.save(f)
        lr, sr = to_tensor(f), to_tensor(save_image(shipped[0](f), tmp_path/'b.png'))
        assert ((downscale(sr, 2)-lr).mean((0, 2, 3))*127.5).abs().max() < .2, name

# --- depths

def test_white_is_zero(up, tmp_path):
    "A scan that counts ink instead of light"
    tifffile = pytest.importorskip('tifffile')
    light = np.asarray(photo('I;16')).astype(np.uint16)
    for kind, u in (('8', (light >> 8).astype(np.uint8)), ('16', light)):
        tifffile.imwrite(f := tmp_path/f'{kind}.tif', np.iinfo(u.dtype).max-u, photometric='miniswhite')
        assert (np.asarray(open_image(f)).astype(int) == u).all()
        sr = np.asarray(up(f)).astype(float)
        assert np.corrcoef(sr[::2, ::2].ravel(), u.ravel())[0, 1] > .9

def test_depth_that_is_cut_is_told(tmp_path):
    (tmp_path/'a.ppm').write_bytes(b'P6 2 1 65535\n'+bytes(range(12)))
    with pytest.warns(SisrWarning, match='a.ppm: more than 8 bits are read as 8'): assert open_image(tmp_path/'a.ppm').size == (2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        (tmp_path/'b.ppm').write_bytes(b'P6 2 1 255\n'+bytes(range(6))); open_image(tmp_path/'b.ppm')
        for s in SUFFIXES: photo('RGB').save(f := tmp_path/f'c{s}'); open_image(f)

def test_gamma_of_a_png(up, tmp_path):
    "What its numbers mean is kept, or it is told"
    from PIL.PngImagePlugin import PngInfo
    info = PngInfo(); info.add(b'gAMA', (100_000).to_bytes(4, 'big'))
    photo('RGB').save(tmp_path/'a.png', pnginfo=info)
    save_image(up(tmp_path/'a.png'), tmp_path/'b.png')
    assert Image.open(tmp_path/'b.png').info['gamma'] == 1
    up.to_file(tmp_path/'a.png', tmp_path/'c.png')
    assert Image.open(tmp_path/'c.png').info['gamma'] == 1
    with pytest.warns(SisrWarning, match='gamma of 1 is lost'): save_image(up(tmp_path/'a.png'), tmp_path/'b.jpg')

# --- what a file says

def profile(space):
    "The shortest profile that says it is of this colour space"
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()); data[16:20] = space
    return bytes(data)

@pytest.mark.parametrize('suffix', ['.png', '.tif', '.jpg', '.webp'])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'RGB 16'])
def test_profiles_are_kept(up, tmp_path, mode, suffix):
    if mode == 'RGB 16' and suffix not in ('.png', '.tif') or mode == 'L' and suffix == '.webp': return
    icc = profile(b'GRAY' if mode == 'L' else b'RGB ')
    photo(mode).save(tmp_path/f'a{suffix}', icc_profile=icc)
    assert open_image(save_image(up(tmp_path/f'a{suffix}'), tmp_path/f'b{suffix}')).info['icc_profile'] == icc

@pytest.mark.parametrize('mode', ['CMYK', 'RGB'])
def test_a_profile_of_other_colours_is_not_kept(up, tmp_path, mode):
    photo(mode).save(tmp_path/'a.tif', icc_profile=profile(b'CMYK'))
    assert 'icc_profile' not in open_image(save_image(up(tmp_path/'a.tif'), tmp_path/'b.png')).info

@pytest.mark.filterwarnings('ignore::sisr.images.SisrWarning')
@pytest.mark.parametrize('mode', ['RGB', 'RGB 16'])
@pytest.mark.parametrize('suffix', ['.png', '.tif', '.jpg', '.webp'])
def test_exif_that_is_still_true_is_kept(up, tmp_path, mode, suffix):
    exif = Image.Exif()
    exif[274], exif[271], exif[315] = 6, 'a camera', 'Jürgen'
    exif[0x8769] = {0xA002: 16, 0xA003: 12, 0x927C: b'secret of the maker', 0x829A: (1, 60)}
    exif[0x8825] = {1: 'N', 2: (52., 30., 0.)}
    photo(mode).save(tmp_path/'a.png', exif=exif.tobytes())
    out = Image.open(save_image(up(tmp_path/'a.png'), tmp_path/f'b{suffix}'))
    said = out.getexif()
    assert out.size == (24, 32) and 274 not in said and said[271] == 'a camera'                   # upright: nobody turns it again
    assert set(said.get_ifd(0x8769)) == {0x829A} and said.get_ifd(0x8825)[1] == 'N'
    assert open_image(tmp_path/f'b{suffix}').size == (24, 32)

def test_dots_per_inch_and_texts(up, tmp_path):
    from PIL.PngImagePlugin import PngInfo
    said = PngInfo()
    for k, v in {'Title': 'täglich', 'transparency': 'none', 'icc_profile': 'x', 'dpi': '1', 'duration': 'long', 'exif': '?'}.items(): said.add_itxt(k, v)
    photo('RGB').save(tmp_path/'a.png', pnginfo=said, dpi=(300, 300))
    out = Image.open(save_image(up(tmp_path/'a.png'), tmp_path/'b.png')); out.load()
    assert out.text['Title'] == 'täglich' and round(up(tmp_path/'a.png').info.get('dpi', (600,))[0]) == 600
    photo('L').save(tmp_path/'a.tif', dpi=(300, 300))
    for suffix in ('.png', '.jpg', '.tif'): assert round(Image.open(save_image(up(tmp_path/'a.tif'), tmp_path/f'b{suffix}')).info['dpi'][0]) == 600

# --- pictures that move, files of pages

def clip(modes=('RGB',)*3):
    res = []
    for i, m in enumerate(modes):
        img = photo('RGB').rotate(90*i).convert(m)
        if m == 'RGBA': img.putalpha(Image.fromarray(np.uint8(np.arange(16) > 4+i)*np.uint8(255)[None].repeat(12, 0).reshape(12, 1)))
        img.info = dict(duration=40.+20*i, loop=0); res.append(img)
    return res

MOVING = [s for s in ('.gif', '.webp', '.png', '.avif') if s in SUFFIXES]

@pytest.mark.parametrize('to', MOVING)
@pytest.mark.parametrize('suffix', MOVING)
@pytest.mark.parametrize('mode', ['RGB', 'RGBA'])
def test_moving_pictures_go_on_moving(sisr, tmp_path, mode, suffix, to):
    made = frames(save_image(clip([mode]*3), tmp_path/f'a{suffix}'))
    status, err = sisr(tmp_path/f'a{suffix}', '-o', tmp_path/f'b{to}')
    assert (status, err) == (0, [])
    out = frames(tmp_path/f'b{to}')
    assert len(out) == 3 and [round(f.info['duration']) for f in out] == [40, 60, 80]
    for a, b in zip(made, out):
        assert b.size == (32, 24)
        a, b = (np.asarray(i.convert('RGBA').resize((16, 12), Image.Resampling.BOX)).astype(float) for i in (a, b))
        seen = np.minimum(a, b)[..., 3:] > 250
        assert np.abs(a-b)[..., 3].mean() < 25 and (np.abs(a-b)[..., :3]*seen).mean() < 20       # each frame is itself, none shows through
    if '.avif' not in (suffix, to): assert out[0].info['loop'] == 0

def test_a_folder_of_them(sisr, tmp_path):
    (tmp_path/'in').mkdir()
    save_image(clip(), tmp_path/'in/a.gif')
    save_image([photo('RGB'), photo('L', (9, 7)), photo('RGB 16')], tmp_path/'in/b.tif')
    assert sisr(tmp_path/'in', '-o', tmp_path/'out') == (0, [])
    assert frame_count(tmp_path/'out/a.png') == (3, 'frames') and frame_count(tmp_path/'out/b.tif') == (3, 'pages')
    assert [(kind(f), f.size) for f in frames(tmp_path/'out/b.tif')] == [('RGB', (32, 24)), ('L', (18, 14)), ('RGB 16', (32, 24))]

def test_what_holds_one_picture_is_refused_before_the_work(sisr, tmp_path):
    save_image(clip(), tmp_path/'a.gif')
    save_image([photo('L')]*2, tmp_path/'b.tif')
    for f, to, words in (('a.gif', 'x.jpg', '3 frames, and .jpg holds but one'), ('b.tif', 'x.png', '2 pages'), ('a.gif', 'x.tif', '3 frames')):
        status, err = sisr(tmp_path/f, '-o', tmp_path/to)
        assert status == 1 and len(err) == 1 and words in err[0] and 'name a result that ends in' in err[0] and not (tmp_path/to).exists()

def test_a_preview_is_no_page_and_a_phone_s_second_picture_no_frame(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    with tifffile.TiffWriter(tmp_path/'a.tif') as t:
        t.write(np.zeros((8, 9), np.uint8)); t.write(np.zeros((4, 4), np.uint8), subfiletype=1)
    assert [f.size for f in frames(tmp_path/'a.tif')] == [(9, 8)]
    photo('RGB').save(tmp_path/'a.jpg', format='MPO', save_all=True, append_images=[photo('L', (5, 5))])
    assert frame_count(tmp_path/'a.jpg') == (1, '') and open_image(tmp_path/'a.jpg').size == (16, 12)

def test_frames_together_have_a_limit(tmp_path, monkeypatch):
    save_image(clip(), tmp_path/'a.gif')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 200)
    with pytest.raises(SisrError, match='400 pixels'): frames(tmp_path/'a.gif')

# --- places

@pytest.mark.skipif(sys.platform == 'win32', reason='other permissions')
def test_folders_that_may_not_be_written_or_read(net, tmp_path, capsys):
    base, old = Path(tempfile.mkdtemp()), os.geteuid()
    try:
        photo('RGB').save(base/'a.png'); shutil.copy(base/'a.png', base/'b.png')
        (base/'locked').mkdir(); os.chmod(base, 0o755); os.chmod(base/'a.png', 0o644); os.chmod(base/'b.png', 0); os.chmod(base/'locked', 0o555)
        model = shutil.copy(save_model(net, tmp_path/'tiny.safetensors'), base/'tiny.safetensors'); os.chmod(model, 0o644)
        def run(*argv): return cli.main(['upscale', *map(str, argv), '--model', str(model)]), capsys.readouterr().err.splitlines()
        if old == 0: os.seteuid(65534)                                # root may do anything
        for out in ('locked', 'locked/new', 'locked/new.png'):
            status, err = run(base/'a.png', '-o', base/out)
            assert status == 1 and len(err) == 1 and 'denied' in err[0] and str(base/'locked') in err[0]
        status, err = run(base/'b.png', '-o', base/'x.png')
        assert status == 1 and err == [f'sisr: {base}/b.png: no permission to read it']
        assert os.listdir(base/'locked') == []
    finally:
        os.seteuid(old); shutil.rmtree(base)

@pytest.mark.parametrize('name', ['фото', '写真 1', 'صورة', '🐈', 'é'*60])
def test_names_of_any_alphabet(up, tmp_path, name):
    for suffix in SUFFIXES: assert open_image(save_image(photo('RGB'), tmp_path/f'{name}{suffix}')).size == (16, 12)

def test_large_sides_are_told(tmp_path):
    with pytest.raises(SisrError, match='16383 pixels a side'): save_image(Image.new('L', (16384, 1)), tmp_path/'a.webp')
    assert list(tmp_path.iterdir()) == []

def test_a_moving_png_of_16_bits_in_colour_tells_what_is_lost(tmp_path):
    import struct, zlib
    chunk = lambda n, d: struct.pack('>I', len(d))+n+d+struct.pack('>I', zlib.crc32(n+d))
    rows = zlib.compress(b''.join(b'\0'+np.arange(i, i+12, dtype='>u2').tobytes() for i in (0, 9000, 18000)))        # 4 x 3 pixels
    def control(k): return chunk(b'fcTL', struct.pack('>IIIIIHHBB', k, 4, 3, 0, 0, 1, 10, 0, 0))
    (tmp_path/'a.png').write_bytes(b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', struct.pack('>IIBBBBB', 4, 3, 16, 2, 0, 0, 0))+chunk(b'acTL', struct.pack('>II', 2, 0))
        + control(0)+chunk(b'IDAT', rows)+control(1)+chunk(b'fdAT', struct.pack('>I', 2)+rows)+chunk(b'IEND', b''))
    with pytest.warns(SisrWarning, match='frames in colour of 16 bits are read as 8'): assert len(frames(tmp_path/'a.png')) == 2
