"Files on disk, as people have them: every mode in every format, odd names, broken bytes"
import io, struct, subprocess, sys, warnings
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays, array_shapes
from PIL import Image, ImageSequence
from sisr.images import *

rng = np.random.default_rng(0)
FORMATS = {'PNG':'png','JPEG':'jpg','WEBP':'webp','TIFF':'tif','BMP':'bmp','GIF':'gif'}
MODES = ['1','L','LA','P','RGB','RGBA','CMYK','I;16']
NOT_HELD = dict(PNG=['CMYK'], JPEG=['LA','P','RGBA','I;16'], WEBP=[], TIFF=[], BMP=['LA','CMYK','I;16'], GIF=['CMYK'])
SHAPES = {'L':(), 'LA':(2,), 'RGB':(3,), 'RGBA':(4,), 'CMYK':(4,)}

def noise(mode, w=13, h=9):
    if mode=='1': return noise('L',w,h).convert('1')
    if mode=='P': return noise('RGB',w,h).quantize(50)
    if mode=='I;16': return Image.fromarray(rng.integers(0,65536,(h,w)).astype(np.uint16))
    a = rng.integers(0,256,(h,w,*SHAPES[mode])).astype(np.uint8)
    return Image.frombytes('CMYK', (w,h), a.tobytes()) if mode=='CMYK' else Image.fromarray(a)

# --- modes and formats

@pytest.mark.parametrize('mode,format', [(m,f) for m in MODES for f in FORMATS if m not in NOT_HELD[f]])
def test_mode_and_format(mode, format, tmp_path):
    "What Pillow decodes is what comes out, pixel by pixel"
    f = tmp_path/f'x.{FORMATS[format]}'
    noise(mode).save(f, format)
    img = Image.open(f); img.load()
    p = Picture.open(f); out = p.to_pil()
    assert p.size==(13,9) and p.color.shape[1] in (1,3) and p.color.abs().max()<=1
    assert (out.mode=='I;16')==(p.bits==16)==(img.mode=='I;16')
    assert (np.array(out)==np.array(img if img.mode==out.mode else img.convert(out.mode))).all()
    assert to_tensor(f, gray=True).shape==(1,1,9,13) and to_tensor(f, gray=False).shape==(1,3,9,13)

@pytest.mark.filterwarnings('ignore::sisr.images.SisrWarning')
@pytest.mark.parametrize('suffix', ['.png','.jpg','.webp','.tif','.bmp','.gif'])
@pytest.mark.parametrize('mode', ['L','LA','RGB','RGBA','I;16'])
def test_every_picture_can_be_saved_in_every_format(mode, suffix, tmp_path):
    f = save_image(noise(mode), tmp_path/f'x{suffix}')
    p = Picture.open(f)
    assert p.size==(13,9) and (p.bits==16)==(mode=='I;16' and suffix in ('.png','.tif'))
    if suffix in ('.png','.tif'): assert p.to_pil().mode==mode and p.to_pil().tobytes()==open_image(f).tobytes()
    if suffix in ('.jpg','.bmp'): assert p.alpha is None

@pytest.mark.filterwarnings('ignore::sisr.images.SisrWarning')
def test_clear_becomes_white_where_a_format_has_no_alpha(tmp_path):
    x = torch.full((1,4,8,8), -1.)                                    # black, and wholly clear
    for name in ('a.jpg','a.bmp'): assert to_tensor(save_image(to_pil(x), tmp_path/name)).min()>.99

def test_colour_survives_jpeg_at_full_resolution(tmp_path):
    "No chroma subsampling: a column of red beside blue stays red"
    u = np.zeros((16,16,3),np.uint8); u[:,::2,0] = u[:,1::2,2] = 255
    v = np.array(open_image(save_image(Image.fromarray(u), tmp_path/'a.jpg'))).astype(int)
    assert np.abs(v-u).mean()<6

def test_palette_with_several_levels_of_clear(tmp_path):
    img = Image.new('P',(4,1)); img.putdata([0,1,2,3]); img.putpalette([9]*12)
    img.save(tmp_path/'a.png', transparency=bytes([0,85,170,255]))
    assert to_uint8(Picture.open(tmp_path/'a.png').alpha).flatten().tolist()==[0,85,170,255]

def test_colour_key(tmp_path):
    for mode,key in (('L',7),('RGB',(1,2,3))):
        img = Image.new(mode,(2,1),key); img.putpixel((1,0), 8 if mode=='L' else (1,2,4))
        img.save(tmp_path/'a.png', transparency=key)
        assert Picture.open(tmp_path/'a.png').alpha.flatten().tolist()==[-1,1]

def test_moving_pictures_give_their_first_frame(tmp_path):
    frames = [Image.new('RGB',(5,4),c) for c in ('red','blue')]
    for name in ('a.gif','a.webp','a.tif'):
        frames[0].save(tmp_path/name, save_all=True, append_images=frames[1:], **({'lossless':True} if name=='a.webp' else {}))
        assert sum(1 for _ in ImageSequence.Iterator(Image.open(tmp_path/name)))==2
        assert to_tensor(tmp_path/name)[0,:,2,2].tolist()==[1,-1,-1]

@pytest.mark.parametrize('values', [[0,1,2],[0,70_000,5],[-4,0,9]])
def test_32_bit_gray(values, tmp_path):
    Image.fromarray(np.int32([values])).save(tmp_path/'a.tif')
    if max(values)<65536 and min(values)>=0:
        assert np.array(Picture.open(tmp_path/'a.tif').to_pil()).tolist()==[values]
    else:
        with pytest.raises(SisrError, match='16 bits'): Picture.open(tmp_path/'a.tif')

def test_float_gray(tmp_path):
    Image.fromarray(np.float32([[0,.25,1]])).save(tmp_path/'a.tif')
    p = Picture.open(tmp_path/'a.tif')
    assert p.color.flatten().tolist()==[-1,-.5,1] and np.array(p.to_pil()).tolist()==[[0,16384,65535]]
    Image.fromarray(np.float32([[0,255]])).save(tmp_path/'b.tif')
    with pytest.raises(SisrError, match='0..1'): Picture.open(tmp_path/'b.tif')

def test_big_endian_16_bits(tmp_path):
    u = np.arange(12,dtype=np.uint16).reshape(3,4)*5000
    Image.frombytes('I;16B',(4,3),u.astype('>u2').tobytes()).save(tmp_path/'a.tif')
    assert (np.array(Picture.open(tmp_path/'a.tif').to_pil())==u).all()

# --- orientation

@pytest.mark.parametrize('suffix', ['jpg','png','webp','tif'])
def test_orientation(suffix, tmp_path):
    u = np.zeros((24,40,3),np.uint8); u[:12,:20] = 255; u[12:,20:,0] = 200          # no two turns look the same
    T = Image.Transpose
    how = [None,T.FLIP_LEFT_RIGHT,T.ROTATE_180,T.FLIP_TOP_BOTTOM,T.TRANSPOSE,T.ROTATE_90,T.TRANSVERSE,T.ROTATE_270]
    for i,t in enumerate(how,1):
        exif = Image.Exif(); exif[274] = i
        img = Image.fromarray(u); img = img.transpose(t) if t is not None else img
        img.save(f := tmp_path/f'{i}.{suffix}', exif=exif, **({'quality':100} if suffix!='tif' else {}))
        got = np.array(open_image(f)).astype(int)
        assert got.shape==u.shape and np.abs(got-u).mean()<5, i
        again = Picture.open(save_image(Picture.open(f).to_pil(), tmp_path/f'again.{suffix}'))
        assert again.size==(40,24)                                                  # and it is not turned twice

def test_damaged_exif_is_no_reason_to_refuse(tmp_path):
    noise('RGB').save(tmp_path/'a.jpg', exif=b'Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage')
    assert to_tensor(tmp_path/'a.jpg').shape==(1,3,9,13)

# --- names

@pytest.mark.parametrize('name', ['a b.png','ä ö ü ß.png','写真.png','фото.PNG','🐈.png',"it's.png",'%20#?.png','a'*240+'.png','no_suffix','.hidden.png'])
def test_names(name, tmp_path):
    img = noise('RGB')
    img.save(tmp_path/name, 'PNG')
    assert (np.array(open_image(tmp_path/name))==np.array(img)).all()
    assert (np.array(open_image(str(tmp_path/name)))==np.array(img)).all()
    if '.' in name[1:]: assert (np.array(open_image(save_image(img, tmp_path/name)))==np.array(img)).all()

def test_the_content_decides_not_the_suffix(tmp_path):
    noise('RGB').save(tmp_path/'really_png.jpg', 'PNG')
    assert to_tensor(tmp_path/'really_png.jpg').shape==(1,3,9,13)

def test_image_files(tmp_path):
    for n in ('b/2.jpg','b/10.JPEG','a.webp','.x.png','b/.y.png','notes.md'):
        (tmp_path/n).parent.mkdir(exist_ok=True); (tmp_path/n).touch()
    names = lambda fs: [f.relative_to(tmp_path).as_posix() for f in fs]
    assert names(image_files(tmp_path))==['a.webp','b/10.JPEG','b/2.jpg']
    assert names(image_files(str(tmp_path), recursive=False))==['a.webp']
    assert names(image_files([tmp_path/'b',tmp_path/'notes.md']))==['b/10.JPEG','b/2.jpg','notes.md']
    (tmp_path/'empty').mkdir()
    with pytest.raises(SisrError, match='no images'): image_files(tmp_path/'empty')

# --- what is wrong is said in one line

def one_line(path):
    with pytest.raises(SisrError) as e: Picture.open(path)
    assert '\n' not in str(e.value) and str(path) in str(e.value)
    return str(e.value)

def test_bad_files(tmp_path):
    good = sample().read_bytes()
    cases = dict(empty=(b'','empty'), text=(b'hello world','not an image'), html=(b'<!doctype html><p>404','not an image'), zeros=(bytes(4096),'not an image'),
                 header=(good[:3],'not an image'), half=(good[:len(good)//2],'cut short'), pdf=(b'%PDF-1.4\n','not an image'))
    for k,(data,why) in cases.items():
        (tmp_path/f'{k}.jpg').write_bytes(data)
        assert why in one_line(tmp_path/f'{k}.jpg')
    assert 'no such file' in one_line(tmp_path/'missing.png')
    assert 'folder' in one_line(tmp_path)

def test_bomb(tmp_path):
    import zlib
    chunk = lambda t,d: struct.pack('>I',len(d))+t+d+struct.pack('>I',zlib.crc32(t+d))
    (tmp_path/'bomb.png').write_bytes(b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR',struct.pack('>IIBBBBB',60000,60000,8,2,0,0,0))+chunk(b'IDAT',zlib.compress(b''))+chunk(b'IEND',b''))
    assert 'pixels' in one_line(tmp_path/'bomb.png')

def test_long_images_are_welcome_and_quiet(tmp_path, monkeypatch):
    Image.new('L',(12_000,3)).save(tmp_path/'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20_000)                           # between the warning and the refusal
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert to_tensor(tmp_path/'a.png').shape==(1,1,3,12_000)

_small = {f:(lambda b: (noise('RGB',40,30).save(b,f), b.getvalue())[1])(io.BytesIO()) for f in FORMATS}

@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(FORMATS)), st.floats(0,1), st.booleans(), st.integers(1,255))
def test_damage_anywhere_is_a_SisrError_or_an_image(format, where, cut, bit):
    data = bytearray(_small[format]); i = int(where*(len(data)-1))
    if cut: data = data[:i]
    else: data[i] ^= bit
    try: img = open_image(io.BytesIO(bytes(data)))
    except SisrError: return
    Picture.of(img)

def test_wrong_arrays_and_tensors():
    for a in (np.zeros((2,3,4,5)), np.zeros((0,4)), np.zeros(7), np.zeros((4,4,5)), np.full((3,3),np.nan), np.full((3,3),np.inf), np.zeros((3,3),np.int64),
              np.ones((3,3))*255., np.array([['a']]), None, 3, torch.zeros(2,3,4,4), torch.zeros(5,4,4), torch.zeros(4), torch.zeros(3,4,0),
              torch.zeros(1,1,3,3,3), torch.ones(3,4,4)*255, torch.full((3,4,4),float('nan')), torch.zeros(3,4,4).int()):
        with pytest.raises(SisrError): Picture.of(a)

# --- properties

@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2,max_dims=2,max_side=9).flatmap(lambda s: st.sampled_from([s,*[(*s,c) for c in (1,2,3,4)]]))))
def test_8_bits_there_and_back(u):
    for img in (u, torch.from_numpy(u.reshape(*u.shape[:2],-1)).permute(2,0,1)):
        assert (np.array(Picture.of(img).to_pil())==(u[...,0] if u.shape[2:]==(1,) else u)).all()

@settings(max_examples=40, deadline=None)
@given(arrays(np.uint16, array_shapes(min_dims=2,max_dims=2,max_side=9)))
def test_16_bits_there_and_back(u): assert (np.array(Picture.of(u).to_pil())==u).all()

@settings(max_examples=40, deadline=None)
@given(arrays(np.float32, st.integers(1,50), elements=st.floats(-3,3,width=32)))
def test_rounding(a):
    x = torch.from_numpy(a)
    q = quantize(x)
    assert (quantize(q)==q).all() and ((q-x.clamp(-1,1)).abs()<=.5/127.5+1e-6).all()
    assert (to_uint8(x.sort().values).int().diff()>=0).all()
    assert quantize(x.bfloat16()).dtype==torch.float32

@settings(max_examples=30, deadline=None)
@given(st.integers(1,17), st.integers(1,17), st.integers(0,10**6))
def test_hidden_pixels_are_filled_from_what_is_seen(h, w, seed):
    g = torch.Generator().manual_seed(seed)
    x,seen = torch.rand(1,3,h,w,generator=g)*2-1,torch.rand(1,1,h,w,generator=g)>.8
    y = fill_hidden(x, seen)
    keep = seen.expand_as(x)
    assert y.shape==x.shape and (y[keep]==x[keep]).all()
    if seen.any():
        for c in range(3): assert y[0,c].min()>=x[0,c][seen[0,0]].min()-1e-5 and y[0,c].max()<=x[0,c][seen[0,0]].max()+1e-5

def test_luma_is_matlabs():
    "The formula's published values, to four digits, and gray = RGB"
    for rgb,y in {(0,0,0):16,(1,1,1):235,(1,0,0):81.481,(0,1,0):144.553,(0,0,1):40.966,(1,1,0):210.034}.items():
        assert abs(luma(torch.tensor(rgb).view(1,3,1,1)*2.-1).item()-y)<1e-4
    x = torch.rand(2,1,5,5)*2-1
    assert (luma(x)-luma(x.expand(-1,3,-1,-1))).abs().max()<1e-4
    assert luma(x.bfloat16()).dtype==torch.float32

# --- colour profiles

def lut_profile():
    "A tiny CMYK profile: no ink is white, any ink is a middle gray"
    s15 = lambda *v: b''.join(struct.pack('>i',round(x*65536)) for x in v)
    ramp = bytes(range(256))
    clut = b''.join(bytes([255,128,128]) if i==0 else bytes([128,128,128]) for i in range(16))
    lut = b'mft1'+bytes(4)+bytes([4,3,2,0])+s15(1,0,0,0,1,0,0,0,1)+ramp*4+clut+ramp*3
    text = lambda t,d: t+bytes(4)+d
    tags = {b'A2B0':lut, b'wtpt':text(b'XYZ ',s15(.9642,1,.8249)), b'cprt':text(b'text',b'CC0\0'), b'desc':text(b'desc',struct.pack('>I',4)+b'ink\0'+bytes(78))}
    table,body,at = struct.pack('>I',len(tags)),b'',128+4+12*len(tags)
    for k,v in tags.items():
        v += bytes(-len(v)%4); table += k+struct.pack('>II',at+len(body),len(v)); body += v
    head = bytes(4)+b'sisr'+b'\x02\x40\0\0'+b'prtrCMYKLab '+bytes(12)+b'acsp'+bytes(28)+s15(.9642,1,.8249)+bytes(48)
    data = head+table+body
    return struct.pack('>I',len(data))+data[4:]

@pytest.mark.parametrize('suffix', ['jpg','tif'])
def test_inks_go_through_their_own_profile(suffix, tmp_path):
    img = Image.new('CMYK',(8,8),(0,255,255,0)); img.paste((0,0,0,0),(4,0,8,8))
    img.save(tmp_path/f'a.{suffix}', icc_profile=lut_profile(), **({'quality':100} if suffix=='jpg' else {}))
    p = Picture.open(tmp_path/f'a.{suffix}')
    left,right = p.color[0,:,4,1],p.color[0,:,4,6]
    assert left.std()<.03 and left.max()<.2 and right.min()>.9                      # gray, not red; white paper
    assert 'icc_profile' not in p.to_pil().info                                     # it spoke of inks
    img.save(tmp_path/f'b.{suffix}', icc_profile=b'broken')
    assert to_tensor(tmp_path/f'b.{suffix}')[0,0,4,1]>.9                            # then the plain formula: red

@pytest.mark.parametrize('suffix', ['png','jpg','webp','tif'])
def test_profiles_go_along(suffix, tmp_path):
    from PIL import ImageCms
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    noise('RGB').save(tmp_path/f'a.{suffix}', icc_profile=icc)
    f = save_image(Picture.open(tmp_path/f'a.{suffix}').to_pil(), tmp_path/f'b.{suffix}')
    assert open_image(f).info['icc_profile']==icc

# --- writing

def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    f = save_image(noise('RGB'), tmp_path/'a.png'); old = f.read_bytes()
    def full(*args, **kw): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(SisrError, match='No space left'): save_image(noise('RGB'), f)
    assert f.read_bytes()==old and [p.name for p in tmp_path.iterdir()]==['a.png']

def test_places_that_cannot_be_written(tmp_path):
    (tmp_path/'folder.png').mkdir()
    for bad in (tmp_path/'no'/'a.png', tmp_path/'folder.png', tmp_path/'a.xyz', tmp_path/'a'):
        with pytest.raises(SisrError): save_image(noise('RGB'), bad)
    assert [p.name for p in tmp_path.iterdir()]==['folder.png']

def test_pictures_on_their_way_through_bytes():
    f = io.BytesIO(); noise('RGBA').save(f, 'PNG'); f.seek(0)
    p = Picture.of(f)
    assert p.alpha is not None and (p.to_pil().tobytes()==Picture.of(p.to_pil()).to_pil().tobytes())
    whole = Picture(to_uint8(p.color), to_uint8(p.alpha), p.bits, p.info)            # 8-bit tensors will do as well
    assert whole.to_pil().tobytes()==p.to_pil().tobytes()

# --- the shipped photographs and the figures

def test_samples():
    from pathlib import Path
    assert len(samples())==16 and sum(f.stat().st_size for f in samples())<2e6
    notes = (sample().parent/'README.md').read_text()
    for f in samples():
        img = Image.open(f)
        assert max(img.size)==640 and not img.getexif() and f'`{f.name}`' in notes and 'CC0' in notes
    with pytest.raises(SisrError, match='kitten'): sample('tiger')

def test_imports_stay_light():
    code = "import sys, sisr.images, sisr.figures; print([m for m in ('matplotlib','torchvision','IPython','ipywidgets','accelerate') if m in sys.modules])"
    assert subprocess.run([sys.executable,'-c',code],capture_output=True,text=True,check=True).stdout.strip()=='[]'

def test_figures_keep_pixels(tmp_path):
    from sisr.figures import sheet, compare, save_figure, wiped
    lr,sr = torch.rand(1,3,16,16)*2-1,torch.rand(1,3,64,64)*2-1
    u = np.array(Image.open(save_figure(sheet(lr,sr,sr), tmp_path/'s.png')))
    assert u.shape[1]==3*256+2*12 and (u[25:281,:256]==screen(lr,16)).all() and (u[25:281,268:524]==screen(sr,4)).all()
    u = np.array(Image.open(save_figure(compare(dict(LR=lr,SR=sr),box=(8,8,32,32),zoom=4), tmp_path/'c.png')))
    assert (u[-128:,-128:]==screen(sr[...,8:40,8:40],4)).all() and (u[-128:,140:268]==screen(lr[...,2:10,2:10],16)).all()
    assert save_figure(sheet(sample(),sample()), tmp_path/'s.jpg').stat().st_size<300_000
    assert wiped(lr,sr,0).shape==wiped(lr,sr,1).shape==(64,64,3)

def test_curves_from_a_run_folder(tmp_path):
    from sisr.figures import curves
    (tmp_path/'history.jsonl').write_text(''.join('{"step":%d,"stage":"pixel","loss":%f,"seconds":1.5}\n'%(i,1/i) for i in range(1,200))+'{"step":')
    assert [a.get_title() for a in curves(tmp_path).axes]==['loss']
    assert len(curves({'a':tmp_path,'b':tmp_path},'loss',('loss','step')).axes)==2
    assert curves([{'step':1,'loss':float('nan')},{'step':2,'loss':.1}])             # a NaN is a gap, not an error
