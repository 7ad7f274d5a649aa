"Beyond the files that come with sisr: networks of others, the Hub, ONNX, films. What needs an extra is skipped without it."
import contextlib, http.server, importlib.util, json, os, pickle, re, socket, subprocess, sys, threading, time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sisr import cli
from sisr.extras import EXTRAS, need
from sisr.foreign import Foreign, is_foreign, load_foreign, open_model, read_weights
from sisr.generators import ESRGAN, SRResNet
from sisr.saving import load_model, read_header, save_model
from sisr.hub import card, download, hub_error, is_hub_id, push_to_hub
from sisr.images import SisrError
from sisr.shell import FILMS
from sisr.upscaler import Upscaler, find_network

ROOT = Path(__file__).resolve().parent.parent
wants = lambda *names: pytest.mark.skipif(not all(map(importlib.util.find_spec, names)), reason=f'needs {" ".join(names)}')

def lean(scale=2, seed=0, **kw):
    "A tiny network that does something"
    torch.manual_seed(seed)
    g = SRResNet(scale, **dict(width=8, blocks=1, faithful=False)|kw)
    for h in g.heads.values(): torch.nn.init.normal_(h.weight, std=.02)
    return g.eval()

@pytest.fixture
def sisr(capsys, monkeypatch):
    "Run a command here: (status, stdout, stderr)"
    monkeypatch.delenv('SISR_DEBUG', raising=False)
    def run(*argv):
        capsys.readouterr()
        status = cli.main([str(a) for a in argv])
        out = capsys.readouterr()
        assert 'Traceback' not in out.err and (not status or all(li.startswith('sisr: ') for li in out.err.splitlines())), out.err
        return status, out.out, out.err
    return run

def alone(*argv, **env):
    "Run a command in a process of its own"
    clean = {k: v for k, v in os.environ.items() if k not in ('SISR_DEBUG', 'PYTHONWARNINGS') and not k.lower().endswith('_proxy')}
    return subprocess.run([sys.executable, '-m', 'sisr.cli', *map(str, argv)], capture_output=True, text=True, timeout=120, cwd=ROOT, env=clean|env)

@pytest.fixture
def without(monkeypatch):
    "As if a package were not installed"
    def hide(*names):
        for n in names: monkeypatch.setitem(sys.modules, n, None)
    return hide

# extras

def test_extras_are_declared_and_told():
    from configparser import ConfigParser
    ini = ConfigParser(delimiters=['='], interpolation=None)
    ini.read(ROOT/'settings.ini', encoding='utf-8')
    assert ini['DEFAULT']['extras'].split() == list(EXTRAS) and all(ini['DEFAULT'][f'{e}_requirements'].split() for e in EXTRAS)

def test_a_missing_package_is_one_line(without, sisr, tmp_path):
    without('av', 'spandrel', 'huggingface_hub', 'onnx')
    torch.save({'a': torch.ones(1)}, tmp_path/'x.pth')
    (tmp_path/'a.mp4').write_bytes(b'film')
    small = str(save_model(lean(), tmp_path/'n.safetensors'))
    for argv, extra in ((['upscale', tmp_path/'a.mp4', '-o', tmp_path/'o', '--model', small], 'video'), (['export', tmp_path/'x.pth', '-o', tmp_path/'y.safetensors'], 'foreign'),
                        (['export', 'some/one', '-o', tmp_path/'y.safetensors'], 'hub'), (['export', small, '-o', tmp_path/'y.onnx'], 'onnx')):
        status, out, err = sisr(*argv)
        assert status in (1, 2) and len(err.splitlines()) == 1 and f"pip install 'sisr[{extra}]'" in err
    with pytest.raises(SisrError, match=r'film needs the package av'): need('av', 'video', 'film')

def test_modules_do_not_bring_the_extras():
    code = ("import sys, sisr.upscaler, sisr.hub, sisr.foreign, sisr.onnx, sisr.video, sisr.cli; "
            "print(*{'av','spandrel','onnx','onnxruntime','onnxscript','huggingface_hub'} & {*sys.modules})")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '\n'

# foreign weights

def rrdb(layout='new', scale=4, width=8, blocks=1, unshuffle=1, channels=3):
    "Weights of an RRDB in the layouts that are about: BasicSR's, ESRGAN's first, RealSR's"
    torch.manual_seed(1)
    ups = (scale*unshuffle).bit_length()-1
    sizes = {'conv_first': (channels*unshuffle**2, width), 'conv_body': (width, width), 'conv_hr': (width, width), 'conv_last': (width, channels)}
    sizes |= {f'conv_up{i+1}': (width, width) for i in range(ups)}
    for b in range(blocks):
        for r in (1, 2, 3): sizes |= {f'body.{b}.rdb{r}.conv{k+1}': (width+32*k, width if k == 4 else 32) for k in range(5)}
    def name(k):
        if layout == 'realsr':
            return re.sub(r'body\.(\d+)\.rdb', r'RRDB_trunk.\1.RDB', k).replace('conv_body', 'trunk_conv').replace('conv_up', 'upconv').replace('conv_hr', 'HRconv')
        if layout == 'old':
            k = re.sub(r'body\.(\d+)\.rdb(\d)\.conv(\d)', r'model.1.sub.\1.RDB\2.conv\3.0', k)
            k = re.sub(r'conv_up(\d)', lambda m: f'model.{3*int(m[1])}', k)
            return {'conv_first': 'model.0', 'conv_body': f'model.1.sub.{blocks}', 'conv_hr': f'model.{3*ups+2}', 'conv_last': f'model.{3*ups+4}'}.get(k, k)
        return k
    state = {}
    for k, (ni, no) in sizes.items():
        gain = .2 if k == 'conv_last' else 1
        state |= {f'{name(k)}.weight': gain*torch.randn(no, ni, 3, 3)*(2/9/ni)**.5, f'{name(k)}.bias': torch.randn(no)*.1}
    return state

@wants('spandrel')
@pytest.mark.parametrize('kw', [dict(), dict(layout='old'), dict(layout='realsr'), dict(scale=2, unshuffle=2), dict(scale=1, unshuffle=4), dict(scale=2, blocks=2, width=12)], ids=str)
def test_foreign_rrdb_is_the_same_function(tmp_path, kw):
    import spandrel
    torch.save({'params_ema': rrdb(**kw)}, tmp_path/'net.pth')
    theirs, ours = spandrel.ModelLoader().load_from_file(tmp_path/'net.pth').model.eval(), load_foreign(tmp_path/'net.pth')
    assert type(ours) is ESRGAN and ours.scale == kw.get('scale', 4)
    for hw in ((8, 12), (5, 7)):
        x = torch.rand(1, 3, *hw)
        with torch.no_grad(): assert (ours(2*x-1)-(2*theirs(x)-1)).abs().max() < 1e-5

@wants('spandrel')
@pytest.mark.parametrize('unshuffle', [1, 2])
def test_foreign_on_the_command_line(sisr, tmp_path, unshuffle):
    torch.save(rrdb(scale=2, unshuffle=unshuffle), tmp_path/'x2.pth')
    Image.effect_noise((31, 22), 60).convert('RGBA').save(tmp_path/'a.png')
    for o in ([], ['--tile', 7], ['--consistent']):
        assert sisr('upscale', tmp_path/'a.png', '-o', tmp_path/'out', '--model', tmp_path/'x2.pth', *o)[0] == 0
        with Image.open(tmp_path/'out/a.png') as i: assert (i.size, i.mode) == ((62, 44), 'RGBA')
    assert sisr('export', tmp_path/'x2.pth', '-o', tmp_path/'ours.safetensors')[0] == 0
    head = read_header(tmp_path/'ours.safetensors')
    assert (head['network'], head['info']['source'], head['info']['consistent'], is_foreign(tmp_path/'ours.safetensors')) == ('ESRGAN', 'x2.pth', False, False)
    assert Upscaler.from_pretrained(tmp_path/'ours.safetensors', 'cpu').consistent is False
    assert sisr('upscale', tmp_path/'a.png', '-o', tmp_path/'out', '--model', tmp_path/'x2.pth', '--scale', 4)[0] == 2

@wants('spandrel')
def test_foreign_pair_is_mixed(tmp_path):
    a, b = rrdb(), {k: v+.01 for k, v in rrdb().items()}
    for n, s in (('net', a), ('net-gan', b)): torch.save(s, tmp_path/f'{n}.pth')
    half = Upscaler.from_pretrained(tmp_path/'net.pth', 'cpu', style=.5)
    assert (half.net.trunk[0].body[0].convs[0].weight-(a['body.0.rdb1.conv1.weight']+.005)).abs().max() < 1e-6

class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.touch, (self.path,)

@pytest.mark.parametrize('kind', ['code', 'module', 'tensor', 'cut', 'text', 'empty', 'folder', 'none', 'odd'])
def test_what_is_no_state_dict_is_refused(sisr, tmp_path, kind):
    f = tmp_path/'bad.pth'
    if kind == 'code': torch.save({'a': Evil(tmp_path/'was here')}, f)
    if kind == 'module': torch.save(torch.nn.Conv2d(1, 1, 1), f)
    if kind == 'tensor': torch.save(torch.ones(2), f)
    if kind == 'cut': torch.save({'a': torch.ones(99)}, f); f.write_bytes(f.read_bytes()[:200])
    if kind == 'text': f.write_text('hello')
    if kind == 'empty': f.touch()
    if kind == 'folder': f.mkdir()
    if kind == 'none': torch.save({}, f)
    if kind == 'odd': torch.save({1: 7, 'a': 'b'}, f)
    if kind != 'folder':
        with pytest.raises(SisrError) as e: read_weights(f)
        assert '\n' not in str(e.value) and 'bad.pth' in str(e.value)
        assert dict(code='refused', module='refused', none='no weights at all', odd='is no name of weights').get(kind, '') in str(e.value)
    status, out, err = sisr('upscale', tmp_path/'a.png', '-o', tmp_path/'o', '--model', f)
    assert status in (1, 2) and not (tmp_path/'was here').exists()

@wants('spandrel')
def test_a_refusal_is_the_only_line(tmp_path):
    "In a process of its own: torch's warnings are shown once per process, and pytest takes them"
    f = tmp_path/'bad.pth'
    f.write_bytes(pickle.dumps(Evil(tmp_path/'was here'), protocol=4))
    Image.new('RGB', (9, 8)).save(tmp_path/'a.png')
    r = alone('upscale', tmp_path/'a.png', '-o', tmp_path/'o.png', '--model', f)
    assert r.returncode in (1, 2) and len(r.stderr.splitlines()) == 1 and f'{f}: asks for more than tensors' in r.stderr, r.stderr
    assert sorted(os.listdir(tmp_path)) == ['a.png', 'bad.pth']

@wants('spandrel')
def test_other_architectures_run_by_spandrel(tmp_path):
    torch.manual_seed(0)
    sizes, state = [(3, 8), (8, 8), (8, 48)], {}
    for i, (ni, no) in enumerate(sizes):
        state |= {f'body.{2*i}.weight': torch.randn(no, ni, 3, 3)*.05, f'body.{2*i}.bias': torch.zeros(no)}
        if i < 2: state[f'body.{2*i+1}.weight'] = torch.full((no,), .2)
    torch.save({'params': state}, tmp_path/'compact.pth')
    net = open_model(tmp_path/'compact.pth')
    assert type(net) is Foreign and not Upscaler(net, 'cpu').consistent
    x = torch.rand(2, 3, 40, 33)*2-1
    whole, tiled = (Upscaler(net, 'cpu', tile=t).tensor(x) for t in (0, 16))
    assert whole.shape == (2, 3, 160, 132) and (whole-tiled).abs().max() < 1e-5
    with pytest.raises(SisrError, match='cannot be saved'): save_model(net, tmp_path/'n.safetensors')
    torch.save({'unknown': torch.ones(3)}, tmp_path/'unknown.pth')
    with pytest.raises(SisrError, match='nor one that spandrel knows'): open_model(tmp_path/'unknown.pth')

# the Hub: a small web server answers as it does

class Hub(http.server.BaseHTTPRequestHandler):
    "Files and refusals of a Hub: the parts of its protocol that downloads use"
    files, refused, asked = {}, {}, []
    def log_message(self, *args): pass
    def do_HEAD(self): self.answer(False)
    def do_GET(self): self.answer(True)
    def answer(self, body):
        Hub.asked.append((self.command, self.path))
        m = re.match(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', self.path)
        api = re.match(r'/api/models/([^/]+/[^/]+?)(?:/revision/([^/?]+))?(?:/tree/[^?]*)?(\?.*)?$', self.path)
        repo = (m or api) and (m or api)[1]
        if repo in Hub.refused: return self.send(*Hub.refused[repo])
        here = {f: d for (r, f), d in Hub.files.items() if r == repo}
        if not here: return self.send(401, {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'Repository not found'})
        if ((m or api)[2] or 'main') not in ('main', 'v1', 'c'*40): return self.send(404, {'X-Error-Code': 'RevisionNotFound'})
        if api: return self.send(200, {'Content-Type': 'application/json'}, json.dumps(dict(id=repo, sha='c'*40, siblings=[dict(rfilename=f) for f in here])
                                 if '/tree/' not in self.path else [dict(type='file', path=f, size=len(d), oid='0'*40) for f, d in here.items()]).encode())
        if m[3] not in here: return self.send(404, {'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': 'c'*40})
        self.send(200, {'ETag': f'"{abs(hash(here[m[3]])):x}"', 'X-Repo-Commit': 'c'*40}, here[m[3]], body)
    def send(self, status, headers, data=b'', body=True):
        self.send_response(status)
        for k, v in {**headers, 'Content-Length': str(len(data))}.items(): self.send_header(k, v)
        self.end_headers()
        if body and self.command == 'GET': self.wfile.write(data)

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "Its address is set, its cache is empty"
    pytest.importorskip('huggingface_hub')
    from huggingface_hub import constants
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}'
    for k, v in dict(HF_HUB_CACHE=str(tmp_path/'cache'), ENDPOINT=url, HUGGINGFACE_CO_URL_TEMPLATE=url+'/{repo_id}/resolve/{revision}/{filename}', HF_HUB_OFFLINE=False).items():
        monkeypatch.setattr(constants, k, v)
    for k in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'all_proxy', 'ALL_PROXY'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('HF_HUB_DISABLE_IMPLICIT_TOKEN', '1')
    monkeypatch.setattr('huggingface_hub.utils._http.time.sleep', lambda s: None)     # between its attempts
    Hub.files, Hub.refused, Hub.asked = {}, {}, []
    server.offline = lambda: monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    yield server
    server.shutdown(); server.server_close()

@pytest.fixture
def weights(tmp_path): return save_model(lean(), tmp_path/'n.safetensors', licence='MIT').read_bytes()

def test_fetched_once_then_there_offline(hub, weights, tmp_path, sisr):
    Hub.files = {('some/net', 'model.safetensors'): weights}
    Image.new('RGB', (9, 8)).save(tmp_path/'a.png')
    assert sisr('upscale', tmp_path/'a.png', '-o', tmp_path/'out', '--model', 'some/net')[0] == 0
    assert sum(c == 'GET' and '/resolve/' in p for c, p in Hub.asked) == 1        # the weights, once
    hub.offline()
    before = len(Hub.asked)
    up = Upscaler.from_pretrained('some/net', 'cpu')
    assert (up.scale, up.net.info['licence'], len(Hub.asked)) == (2, 'MIT', before)
    with pytest.raises(SisrError, match='some/other is not in the cache, and the Hub cannot be reached'): find_network('some/other')

def test_a_hub_that_is_gone(hub, weights):
    Hub.files = {('some/net', 'model.safetensors'): weights}
    download('some/net')
    hub.shutdown(); hub.server_close()
    assert download('some/net').is_file()
    with pytest.raises(SisrError, match='cannot be reached'): download('some/other')

@wants('huggingface_hub')
def test_no_network_is_one_line_and_soon(tmp_path):
    "Nobody listens at this address; in a process of its own, where the library is imported as it is for a user"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    Image.new('RGB', (9, 8)).save(tmp_path/'a.png')
    start = time.time()
    r = alone('upscale', tmp_path/'a.png', '-o', tmp_path/'o.png', '--model', 'no/where', HF_ENDPOINT=f'http://127.0.0.1:{port}', HF_HOME=str(tmp_path/'hf'))
    assert r.returncode == 2 and len(r.stderr.splitlines()) == 1 and 'no/where is not in the cache, and the Hub cannot be reached' in r.stderr, r.stderr
    assert time.time()-start < 20                                    # five times more: half a minute

def test_revisions_and_other_names(hub, weights):
    Hub.files = {('some/net', 'model.safetensors'): weights, ('their/net', 'RealNet.safetensors'): weights, ('two/nets', 'a.safetensors'): weights, ('two/nets', 'b.safetensors'): weights,
                 ('a/pickle', 'pytorch_model.bin'): b'x', ('a/pickle', 'net.pth'): b'x'}
    assert download('some/net@v1').is_file() and download('some/net@'+'c'*40).is_file()
    assert download('their/net').name == 'RealNet.safetensors'
    for name, why in {'some/net@v9': 'some/net has no revision v9', 'two/nets': r'several networks: fetch one \(a.safetensors, b.safetensors\)', 'a/pickle': 'only .safetensors files are read'}.items():
        with pytest.raises(SisrError, match=why): download(name)
    assert not [p for c, p in Hub.asked if c == 'GET' and p.endswith(('.bin', '.pth'))]

def test_what_the_hub_refuses(hub, sisr, tmp_path):
    Hub.refused = {'gated/net': (403, {'X-Error-Code': 'GatedRepo', 'X-Error-Message': 'ask'}), 'broken/net': (500, {})}
    Image.new('RGB', (9, 8)).save(tmp_path/'a.png')
    for name, why in {'no/where': 'no public repository on the Hub; if it is private, log in', 'gated/net': 'is gated: accept its terms', 'broken/net': 'broken/net', 'bad--/na..me': 'is no id of the Hub'}.items():
        status, out, err = sisr('upscale', tmp_path/'a.png', '-o', tmp_path/'out', '--model', name)
        assert (status, len(err.splitlines())) == (2, 1) and why in err, err

def test_ids():
    assert all(map(is_hub_id, ('a/b', 'some-one/net_x4.v2', 'a/b@main', 'a/b@refs/pr/1')))
    assert not any(map(is_hub_id, ('photos-x4', 'a/b.safetensors', 'a/B.PTH', '/a/b', './a', '../a', 'a/b/c', 'tests/test_reach.py' if Path('tests/test_reach.py').exists() else '.', Path('a/b'))))

@wants('huggingface_hub')
def test_pushed_with_its_card(monkeypatch, tmp_path, sisr):
    import huggingface_hub, shutil
    said = []
    class Api:
        def __init__(self, token=None, **kw): pass
        def create_repo(self, repo, **kw): said.append(repo); return f'https://hub.invalid/{repo}'
        def upload_folder(self, repo_id, folder_path, commit_message): shutil.copytree(folder_path, tmp_path/'up'/repo_id)
    monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
    assert push_to_hub('photos-x4', 'me/photos') == 'https://hub.invalid/me/photos'
    text = (tmp_path/'up/me/photos/README.md').read_text()
    info = load_model('photos-x4').info
    assert text.startswith('---\n') and info['licence'] in text and all(f'| {k} | {v:.2f} |' in text for k, v in info['numbers'].items()) and 'from_pretrained("me/photos")' in text
    faithful = Upscaler(SRResNet(2, width=8, blocks=1, sn=True).eval(), 'cpu')     # what is given away is what came, before its norms were folded
    faithful.push_to_hub('me/faithful')
    assert load_model(tmp_path/'up/me/faithful/model.safetensors').arch['bn']
    assert sisr('export', 'photos-x4', '-o', 'hub:me/again')[0] == 0 and said[-1] == 'me/again'
    with pytest.raises(SisrError, match="'owner/name' is wanted"): push_to_hub('photos-x4', 'me/photos@v1')

# ONNX

@wants('onnx', 'onnxscript', 'onnxruntime')
@pytest.mark.parametrize('kind', ['colour', 'gray faithful'])
def test_onnx_is_the_upscaler_at_any_size(sisr, tmp_path, kind):
    import onnxruntime
    g = lean(4) if kind == 'colour' else SRResNet(2, width=8, blocks=1, channels=1, sn=True).eval()
    f = save_model(g, tmp_path/'n.safetensors', licence='MIT', name='tiny')
    assert sisr('export', f, '-o', tmp_path/'new/net.onnx')[::2] == (0, '')
    assert os.listdir(tmp_path/'new') == ['net.onnx']
    session, up = onnxruntime.InferenceSession(str(tmp_path/'new/net.onnx'), providers=['CPUExecutionProvider']), Upscaler.from_pretrained(f, 'cpu', tile=0)
    meta = session.get_modelmeta().custom_metadata_map
    assert (meta['name'], meta['licence'], meta['scale'], meta['consistent']) == ('tiny', 'MIT', str(g.scale), 'true')
    assert [i.name for i in (*session.get_inputs(), *session.get_outputs())] == ['lr', 'sr']
    for shape in ((1, g.channels, 1, 1), (2, g.channels, 7, 13), (1, g.channels, 33, 70)):
        x = torch.rand(shape)*2-1
        assert np.abs(session.run(None, {'lr': x.numpy()})[0]-up.tensor(x).numpy()).max() < 1e-4

def test_export_refuses_in_one_line(sisr, tmp_path):
    f = save_model(lean(), tmp_path/'n.safetensors')
    for argv in (['-o', tmp_path/'x.tflite'], ['-o', f], ['-o', tmp_path/'y.safetensors', '--consistent']):
        status, out, err = sisr('export', f, *argv)
        assert (status, len(err.splitlines())) == (2, 1)
    assert sisr('export', 'photo-x4', '-o', tmp_path/'x.onnx')[0] == 2
    if all(map(importlib.util.find_spec, ('onnx', 'onnxscript'))):            # the file that was asked for is named, not the hidden one that becomes it
        status, out, err = sisr('export', f, '-o', f/'net.onnx')
        assert status == 1 and err == f'sisr: {f}/net.onnx: {f} is no folder\n'
    assert load_model(f).scale == 2

# films

def film(path, n=6, size=(24, 16), matrix=1, rotation=0, stamps=None, audio='aac', subtitles=False, aspect=None, bits=8):
    "Two flat colours, a tone, 30000/1001 frames a second"
    import av
    from sisr.video import Clip, write_frame
    c = Clip(*size, n, 0, matrix, False, bits, False)
    with av.open(str(path), 'w') as box:
        v = box.add_stream('libx264', rate=Fraction(30000, 1001), options=dict(crf='6'))
        v.width, v.height, v.pix_fmt = *size, 'yuv420p'+'10le'*(bits > 8)
        v.codec_context.colorspace, v.codec_context.color_range, v.codec_context.time_base = matrix, 1, Fraction(1001, 30000)
        if aspect: v.codec_context.sample_aspect_ratio = aspect
        if rotation: v.set_display_rotation(rotation)
        a = audio and box.add_stream(audio, rate=48000)
        if a: a.layout = 'stereo'
        for i in range(n):
            x = torch.tensor([170., 100, 80]).view(1, 3, 1, 1).repeat(1, 1, size[1], size[0])
            x[..., size[0]//2:] = torch.tensor([70., 140, 180]).view(1, 3, 1, 1)
            f = write_frame(x/127.5-1, c)
            f.pts, f.time_base = (stamps or range(n))[i], Fraction(1001, 30000)
            box.mux(v.encode(f))
        if a:
            s = av.AudioFrame.from_ndarray(np.stack([np.sin(np.arange(8000)/9)*.3]*2).astype(np.float32), 'fltp', 'stereo')
            s.sample_rate, s.pts = 48000, 0
            box.mux(a.encode(s))
        for stream in filter(None, (v, a)): box.mux(stream.encode(None))
    return path

def looked_at(path):
    "Stamps and mean colours of a film's frames, and the bytes of its sound"
    import av
    from sisr.video import probe, read_frame
    c = probe(path)
    with av.open(str(path)) as box: frames = [(float(f.pts*f.time_base), (read_frame(f, c).mean((0, 2, 3))+1)*127.5) for f in box.decode(video=0)]
    with av.open(str(path)) as box: sound = [bytes(p) for p in box.demux(audio=0) if p.dts is not None] if box.streams.audio else []
    return [t for t, _ in frames], torch.stack([x for _, x in frames]), sound

@pytest.fixture(scope='session')
def tiny(tmp_path_factory): return str(save_model(lean(), tmp_path_factory.mktemp('net')/'tiny.safetensors'))

@wants('av')
@pytest.mark.parametrize('kw', [dict(), dict(matrix=5), dict(rotation=90), dict(rotation=-90, aspect=Fraction(4, 3)), dict(stamps=[0, 1, 5, 6, 11, 12])], ids=str)
def test_film_on_the_command_line(sisr, tmp_path, tiny, kw):
    import av
    from sisr.video import probe
    src = film(tmp_path/'clip.mp4', **kw)
    status, out, err = sisr('upscale', src, '-o', tmp_path/'big.mp4', '--model', tiny)
    turned = 'rotation' in kw
    assert (status, err) == (0, '') and ('32 x 48' if turned else '48 x 32') in out
    a, b = looked_at(src), looked_at(tmp_path/'big.mp4')
    assert np.abs(np.subtract(a[0], b[0])).max() < 1e-4                # each frame at its moment
    assert (a[1]-b[1]).abs().max() < 1 and a[2] == b[2] and a[2]       # its colours; the bytes of the sound
    clip = probe(tmp_path/'big.mp4')
    assert (clip.rotation, clip.matrix) == (0, kw.get('matrix', 1))
    with av.open(str(tmp_path/'big.mp4')) as box: assert (box.streams.video[0].sample_aspect_ratio or 1) == (Fraction(3, 4) if 'aspect' in kw else 1)

@wants('av')
@pytest.mark.parametrize('bits', [8, 10])
@pytest.mark.parametrize('stamps', [list(range(6)), [0, 1, 5, 6, 11, 12]], ids=['steady', 'unsteady'])
@pytest.mark.parametrize('to', FILMS)
def test_frames_keep_their_order_and_moments(tmp_path, to, stamps, bits):
    "AVI knows no moments: FFmpeg guesses one frame late, and gaps not at all"
    import av
    from sisr.video import probe, upscale_video
    if to == '.webm' and bits == 10 and 'yuv420p10le' not in [f.name for f in av.Codec('libvpx-vp9', 'w').video_formats]: pytest.skip('this VP9 has 8 bits')
    src = film(tmp_path/'clip.mp4', stamps=stamps, audio=None, bits=bits)
    upscale_video(Upscaler(lean(), 'cpu'), src, tmp_path/f'big{to}')
    old, new = looked_at(src)[0], looked_at(tmp_path/f'big{to}')[0]
    late = np.subtract(new, old)
    if to == '.avi' and stamps[2] != 2: assert new == sorted(new)      # the frame before a gap is guessed to come after it
    else: assert np.abs(late-(1001/30000 if to == '.avi' else 0)).max() < 1e-3
    assert probe(tmp_path/f'big{to}').bits == bits

def slope(path, codec, layout, n=12, rate=25, **options):
    "A film without tags or sound, of mean 100; `layout` is the pixel format"
    import av
    x = np.linspace(20, 180, 24*32).reshape(24, 32, 1).repeat(4, 2).round().astype(np.uint8)
    with av.open(str(path), 'w', options=options) as box:
        v = box.add_stream(codec, rate=rate)
        v.width, v.height, v.pix_fmt = 32, 24, layout
        for i in range(n):
            f = (av.VideoFrame.from_ndarray(x[..., 0], 'gray') if 'gray' in layout else av.VideoFrame.from_ndarray(x, 'argb')).reformat(format=layout)
            f.pts, f.time_base = i, Fraction(1, rate)
            box.mux(v.encode(f))
        box.mux(v.encode(None))
    return path

@wants('av')
@pytest.mark.parametrize('layout', ['gray', 'gray10le', 'gray12le', 'gray16le'])
def test_gray_films_keep_their_brightness(tmp_path, layout):
    from sisr.video import probe, upscale_video
    src = slope(tmp_path/'gray.mkv', 'ffv1', layout)
    upscale_video(Upscaler(lean(), 'cpu'), src, tmp_path/'big.mkv')
    assert probe(src).full and probe(tmp_path/'big.mkv').full
    for f in (src, tmp_path/'big.mkv'): assert (looked_at(f)[1]-100).abs().max() < .5

@wants('av')
def test_a_film_cut_short_is_told(sisr, tmp_path, tiny):
    whole = {'a.mkv': slope(tmp_path/'a.mkv', 'ffv1', 'gray', n=30), 'a.mp4': slope(tmp_path/'a.mp4', 'mjpeg', 'yuvj420p', n=30, movflags='faststart'), 'a.avi': slope(tmp_path/'a.avi', 'mjpeg', 'yuvj420p', n=30)}
    for name, f in whole.items():
        status, out, err = sisr('upscale', f, '-o', tmp_path/'o.mp4', '--model', tiny)
        assert (status, err) == (0, ''), name
        (cut := tmp_path/f'cut-{name}').write_bytes(f.read_bytes()[:f.stat().st_size*2//3])
        status, out, err = sisr('upscale', cut, '-o', tmp_path/'o.mp4', '--model', tiny)
        assert len(err.splitlines()) == 1 and 'cut short' in err and str(cut) in err, (name, err)
    sound = film(tmp_path/'sound.mkv', n=3)                            # it goes on after the film; then without the note of how long that is
    (tmp_path/'bare.mkv').write_bytes(sound.read_bytes().replace(b'DURATION', b'DURATIOM'))
    for f in (sound, tmp_path/'bare.mkv'): assert sisr('upscale', f, '-o', tmp_path/'o.mp4', '--model', tiny)[::2] == (0, '')

@wants('av')
def test_alpha_is_told_and_chapters_stay(sisr, tmp_path, tiny):
    import av
    status, out, err = sisr('upscale', slope(tmp_path/'a.mov', 'qtrle', 'argb'), '-o', tmp_path/'o.mov', '--model', tiny)
    assert status == 0 and len(err.splitlines()) == 1 and 'its alpha is left out' in err
    src = film(tmp_path/'clip.mp4', n=8, audio=None)
    with av.open(str(src)) as box, av.open(str(tmp_path/'parts.mkv'), 'w') as out:
        new = out.add_stream_from_template(box.streams.video[0])
        out.set_chapters([dict(id=i+1, start=100*i, end=100*i+100, time_base=Fraction(1, 1000), metadata=dict(title=t)) for i, t in enumerate(('one', 'two'))])
        for p in box.demux():
            if p.size: p.stream = new; out.mux(p)
    for to in FILMS:
        status, _, err = sisr('upscale', tmp_path/'parts.mkv', '-o', tmp_path/f'o{to}', '--model', tiny)
        assert status == 0 and (('its chapters are left out' in err and len(err.splitlines()) == 1) if to == '.avi' else err == ''), err
        with av.open(str(tmp_path/f'o{to}')) as box: found = [(c['metadata']['title'], float(c['start']*c['time_base'])) for c in box.chapters()]
        assert found == ([] if to == '.avi' else [('one', 0), ('two', .1)])

@wants('av')
def test_films_and_photos_together(sisr, tmp_path, tiny):
    film(tmp_path/'clip.mp4', audio=None); Image.new('RGB', (9, 8)).save(tmp_path/'a.png')
    (tmp_path/'bad.mov').write_bytes(b'no film')
    argv = 'upscale', tmp_path/'clip.mp4', tmp_path/'bad.mov', tmp_path/'a.png', '-o', tmp_path/'out', '--model', tiny
    status, out, err = sisr(*argv)
    assert status == 1 and sorted(os.listdir(tmp_path/'out')) == ['a.png', 'clip.mp4']
    assert len(err.splitlines()) == 1 and 'bad.mov: not a film that can be read' in err
    assert sisr(*argv, '--resume')[1] == ''
    assert sisr('upscale', tmp_path/'clip.mp4', '-o', tmp_path/'clip.mp4', '--model', tiny)[0] == 1
    for o in ('x.png', 'x.xyz'): assert sisr('upscale', tmp_path/'clip.mp4', '-o', tmp_path/o, '--model', tiny)[0] == 2

@wants('av')
def test_film_faults_leave_nothing(sisr, tmp_path, tiny, monkeypatch):
    src = film(tmp_path/'clip.mp4')
    out = tmp_path/'out'; out.mkdir()
    status, _, err = sisr('upscale', src, '-o', out/'a.webm', '--model', tiny)
    assert status == 1 and 'cannot hold its sound (aac): choose .mp4 or .mkv' in err and not os.listdir(out)
    (tmp_path/'cut.mp4').write_bytes(src.read_bytes()[:700])
    status, _, err = sisr('upscale', tmp_path/'cut.mp4', '-o', out/'a.mp4', '--model', tiny)
    assert status == 1 and len(err.splitlines()) == 1 and 'cut.mp4' in err and not os.listdir(out)
    (out/'a.mp4').write_bytes(b'old')
    import sisr.video as video
    n = iter(range(9))
    video_write = video.write_frame
    def third(*a):
        if next(n) == 3: raise KeyboardInterrupt
        return video_write(*a)
    monkeypatch.setattr(video, 'write_frame', third)
    assert sisr('upscale', src, '-o', out/'a.mp4', '--model', tiny)[0] == 130
    assert os.listdir(out) == ['a.mp4'] and (out/'a.mp4').read_bytes() == b'old'

@wants('av')
def test_memory_does_not_grow_with_the_film(tmp_path):
    "Frames are asked for one at a time: none is decoded long before the one before is enlarged"
    import gc, av
    from sisr.video import upscale_video
    src, alive = film(tmp_path/'long.mp4', n=60), []
    class Counting:
        scale = 2
        def tensor(self, lr, progress=None):
            if len(alive) % 20 == 19: gc.collect()
            alive.append(sum(type(o) is torch.Tensor and o.shape[-2:] == (16, 24) for o in gc.get_objects()) if len(alive) % 20 == 19 else 0)
            return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    upscale_video(Counting(), src, tmp_path/'big.mp4')
    assert len(alive) == 60 and max(alive) < 10
