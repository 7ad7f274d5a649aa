"The panel for notebooks, without a browser: what a hand would do is done to the widgets, and what an eye would see is read from them."
import base64, builtins, re, subprocess, sys, threading
from datetime import datetime
from html import unescape
from io import BytesIO
import numpy as np
import pytest
from PIL import Image
from sisr.figures import cutout, wipe
from sisr.images import SisrError, open_image, sample
from sisr.panel import Panel
from sisr.upscaler import Upscaler

pytest.importorskip('ipywidgets')

def photo(w=48, h=36, mode='RGB'): return Image.open(sample('budgie')).resize((w, h)).convert(mode)

def png(img):
    f = BytesIO()
    img.save(f, 'PNG')
    return f.getvalue()

def upload(p, **files):
    p.upload.value = tuple(dict(name=n.replace('_', '.'), type='', size=len(c), content=memoryview(c), last_modified=datetime.now()) for n, c in files.items())

def done(p, seconds=60):
    p.thread.join(seconds)
    assert not p.thread.is_alive()
    return said(p)

def said(p): return [unescape(t) for t in re.sub(r'^<div[^>]*>|</div>$', '', p.message.value).split('<br>')]

def link(p): return base64.b64decode(re.search(r'href="data:image/png;base64,([^"]+)"', p.link.value)[1])

@pytest.fixture
def panel(tmp_path): return Panel('photos-x2', 'cpu', tmp_path/'large')

def test_click(panel):
    "The result is the upscaler's own, to see and to take home"
    upload(panel, bird_png=png(photo()))
    assert panel.picked.value == 'bird.png' and panel.which.layout.display == 'none'
    panel.go.click()
    assert done(panel) == ['done'] and not panel.go.disabled and panel.cancel.disabled and panel.bar.layout.visibility == 'hidden'
    r, = panel.results
    assert (r.name, r.size, r.path) == ('bird-x2.png', (96, 72), None)
    assert np.array_equal(open_image(BytesIO(link(panel))), Upscaler.from_pretrained('photos-x2', 'cpu')(photo()))
    assert panel.picture.value.count('<img') == 2 and panel.which.layout.display is None

def test_wrong_files_do_not_stop_the_others(panel, tmp_path):
    upload(panel, a_png=b'', b_png=png(photo())[:99], c_png=png(photo()))
    panel.go.click()
    assert [re.match(r'[ab]\.png: ', s) is not None for s in done(panel)] == [True, True]
    assert [r.name for r in panel.results] == ['c-x2.png'] and 'error' in panel.message.value
    assert 'Traceback' not in panel.message.value

def test_from_disk(panel, tmp_path):
    (tmp_path/'in').mkdir()
    for n in 'ab': photo().save(tmp_path/'in'/f'{n}.png')
    panel.paths.value = str(tmp_path/'in')
    panel.go.click()
    assert done(panel) == ['done'] and [r.name for r in panel.results] == ['a-x2.png', 'b-x2.png']
    before = panel.link.value
    panel.which.value = 1
    assert panel.link.value != before and 'b-x2.png' in panel.link.value

def test_nothing_to_do(panel):
    panel.go.click()
    assert panel.thread is None and 'no picture yet' in said(panel)[0]
    panel.paths.value = 'nowhere.png'
    panel.go.click()
    assert panel.thread is None and said(panel) == ['nowhere.png: no such file or folder']

def test_cancel_and_second_click(panel, monkeypatch, tmp_path):
    "Cancel stops between two tiles, and nothing of the picture stays; a click during work changes nothing"
    at, go, pieces = threading.Event(), threading.Event(), []
    square = Upscaler.square
    def slow(self, *args):
        pieces.append(args)
        at.set()
        assert go.wait(30)
        return square(self, *args)
    monkeypatch.setattr(Upscaler, 'square', slow)
    monkeypatch.setattr(Upscaler, 'parts', lambda self, h, w, least=1: [(t, t+12, 0, w) for t in range(0, h, 12)])
    panel.limits = dict(most=10)
    upload(panel, bird_png=png(photo()))
    panel.go.click()
    assert at.wait(30) and panel.go.disabled and not panel.cancel.disabled and panel.bar.max == 3
    panel.start()
    assert 'still at work' in said(panel)[0]
    panel.cancel.click()
    go.set()
    assert done(panel) == ['cancelled'] and len(pieces) == 1 and not panel.results and not [*(tmp_path/'large').glob('*')]
    panel.go.click()                                       # and again, to the end
    assert done(panel) == ['done'] and len(panel.results) == 1

def test_style_and_consistency(panel):
    "What the network can do is shown, and used"
    assert panel.styled.layout.display == 'none' and panel.consistent.value     # photos-x2 has no sister
    panel.network.value = 'faces-x4-unsupervised'
    assert panel.styled.layout.display == 'none'
    assert panel.consistent.value == Upscaler.from_pretrained('faces-x4-unsupervised', 'cpu').consistent
    panel.network.value = 'faces-x4'
    assert panel.styled.layout.display is None and panel.style.value == 0
    panel.style.value, panel.consistent.value = .5, False
    upload(panel, bird_png=png(photo()))
    panel.go.click()
    assert done(panel) == ['done']
    same = Upscaler.from_pretrained('faces-x4', 'cpu', style=.5, consistent=False)(photo())
    assert np.array_equal(panel.results[0].after, same)

def test_large_results_go_to_the_folder(panel, tmp_path):
    folder = tmp_path/'large'
    panel.limits = dict(link=10)
    upload(panel, bird_png=png(photo(mode='RGBA')))
    for name in 'bird-x2.png', 'bird-x2-2.png':
        panel.go.click()
        assert done(panel) == ['done'] and panel.results[0].path == folder/name and name in panel.link.value
    panel.limits = dict(most=10)
    panel.go.click()
    assert done(panel) == ['done'] and open_image(panel.results[0].path).size == (96, 72)
    panel.folder.value = str(folder/'bird-x2.png')  # a file
    panel.go.click()
    assert 'no folder can be made there' in done(panel)[0]

def test_what_is_sent_is_bounded():
    "A server drops what is too much: however large the pictures, the page gets two small ones"
    noise = Image.effect_noise((3000, 2000), 90)
    assert len(wipe(noise.resize((750, 500)), noise)) < 2_000_000
    assert len(wipe(noise.resize((750, 500)), noise, box=(0, 0, .2, .2))) < 2_000_000

@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'I;16'])
def test_any_mode_is_seen(mode):
    img = photo(mode='L').convert(mode)
    assert cutout(img, (0, 0, 1, 1), (20, 10)).mode == 'RGB'

def test_clear_is_a_checkerboard():
    u = np.array(cutout(Image.new('RGBA', (8, 8)), (0, 0, 1, 1), (64, 64)))
    assert len(np.unique(u)) == 2

def test_names_are_no_html(panel):
    upload(panel, **{'<img src=x>_png': b'none'})
    panel.go.click()
    done(panel)
    assert '<img' not in panel.picked.value+panel.message.value

def test_without_ipywidgets(monkeypatch):
    real = builtins.__import__
    def without(name, *args, **kw):
        if name.startswith('ipywidgets'): raise ImportError(name)
        return real(name, *args, **kw)
    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(SisrError, match='pip install ipywidgets'): Panel()

def test_without_a_notebook():
    "Plain Python says in words what to do instead"
    out = subprocess.run([sys.executable, '-c', 'from sisr import Panel; print(Panel())'], capture_output=True, text=True, check=True).stdout
    assert 'sisr upscale' in out
