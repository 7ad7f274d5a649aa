"The command line: exit statuses, one clear line for every mistake, nothing half done. Most cases run inside this process: torch takes seconds to load"
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sisr import cli
from sisr.generators import SRResNet
from sisr.saving import load_model, save_model
from sisr.images import sample
from sisr.shell import FORMATS


@pytest.fixture(scope='session')
def net(tmp_path_factory):
    "A tiny untrained network in a file"
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('nets')/'tiny.safetensors'
    g = SRResNet(scale=4, width=8, blocks=1, faithful=False)
    torch.nn.init.normal_(g.heads['4'].weight, std=.02)
    save_model(g, path, licence='Apache-2.0')
    return str(path)

@pytest.fixture
def photos(tmp_path):
    "A folder with three small photographs, one in a subfolder"
    (tmp_path/'in/sub').mkdir(parents=True)
    for i, f in enumerate(('a.png', 'b.jpg', 'sub/a.png')):
        Image.new('RGB', (20+i, 16), (40*i, 90, 120)).save(tmp_path/'in'/f)
    return tmp_path/'in'

@pytest.fixture
def sisr(capsys, tmp_path, monkeypatch):
    "Run a command here: (status, stdout, stderr)"
    monkeypatch.delenv('SISR_DEBUG', raising=False)
    def run(*argv):
        capsys.readouterr()
        status = cli.main([str(a) for a in argv])
        out = capsys.readouterr()
        assert 'Traceback' not in out.err
        assert not status or all(line.startswith('sisr: ') for line in out.err.splitlines())
        return status, out.out, out.err
    return run

def real(*argv, **kw):
    "Run the real command in a process of its own"
    return subprocess.run([sys.executable, '-m', 'sisr.cli', *map(str, argv)], capture_output=True, text=True, timeout=120, **kw)

def sizes(folder): return {f.relative_to(folder).as_posix(): Image.open(f).size for f in sorted(Path(folder).rglob('*')) if f.is_file()}

# upscale

def test_a_folder_keeps_its_structure(sisr, net, photos, tmp_path):
    status, out, err = sisr('upscale', photos, '-o', tmp_path/'out', '--model', net)
    assert (status, err) == (0, '')
    assert sizes(tmp_path/'out') == {'a.png': (80, 64), 'b.png': (84, 64), 'sub/a.png': (88, 64)}
    assert len(out.splitlines()) == 3

@pytest.mark.parametrize('suffix', FORMATS)
@pytest.mark.parametrize('mode', ['L', 'LA', 'RGB', 'RGBA', 'I;16'])
def test_every_mode_in_every_format(sisr, net, tmp_path, mode, suffix):
    img = Image.fromarray(np.full((12, 15), 257*100, np.uint16)) if mode == 'I;16' else Image.new('RGBA', (15, 12), (100, 100, 100, 255)).convert(mode)
    img.save(tmp_path/'a.png')
    to = tmp_path/'new'/f'big{suffix}'
    status, _, err = sisr('upscale', tmp_path/'a.png', '-o', to, '--model', net)
    assert (status, '16 bits became 8' in err, len(err.splitlines())) == (0, *[mode == 'I;16' and suffix not in ('.png', '.tif', '.tiff')]*2)
    big = Image.open(to)
    if big.mode == 'P': big = big.convert('RGB')
    value = int(np.asarray(big).reshape(48*60, -1)[1000, 0])
    assert big.size == (60, 48) and os.listdir(tmp_path/'new') == [f'big{suffix}']
    assert abs(value/257-100) < 1 if big.mode.startswith('I;16') else abs(value-100) <= 3

def test_good_and_bad_files_together(sisr, net, photos, tmp_path):
    (photos/'bad.png').write_bytes(b'nothing')
    (photos/'empty.png').touch()
    (photos/'cut.png').write_bytes((photos/'a.png').read_bytes()[:40])
    status, out, err = sisr('upscale', photos, tmp_path/'gone.png', '-o', tmp_path/'out', '--model', net)
    assert status == 1 and len(sizes(tmp_path/'out')) == 3
    lines = err.splitlines()
    assert len(lines) == 4
    for name in ('bad.png', 'empty.png', 'cut.png', 'gone.png'): assert sum(name in li for li in lines) == 1

def test_names_of_any_alphabet(sisr, net, photos, tmp_path):
    names = ['фото.jpg', '写真 1.png', 'صورة.webp', 'a\nb.png', "it's -o.png", '🐈.png', 'é'*100+'.jpg', '.v.1.png', '-x.png']
    for n in names: shutil.copy(photos/'a.png', tmp_path/n)
    status, out, err = sisr('upscale', *[tmp_path/n for n in names], '-o', tmp_path/'out', '--model', net)
    assert (status, err) == (0, '')
    assert set(sizes(tmp_path/'out')) == {Path(n).stem+'.png' for n in names}

@pytest.mark.skipif(sys.platform != 'linux', reason='such names exist on Linux only')
def test_a_name_that_is_no_text(net, photos, tmp_path):
    name = os.fsencode(tmp_path)+b'/\xff\xfe.png'
    shutil.copy(photos/'a.png', name)
    res = subprocess.run([sys.executable, '-m', 'sisr.cli', 'upscale', name, '-o', tmp_path/'out', '--model', net], capture_output=True)
    assert (res.returncode, res.stderr) == (0, b'') and os.listdir(os.fsencode(tmp_path/'out')) == [b'\xff\xfe.png']

def test_same_stem_does_not_collide(sisr, net, photos, tmp_path):
    Image.new('RGB', (30, 16)).save(photos/'a.jpg')
    assert sisr('upscale', photos/'a.png', photos/'a.jpg', photos/'sub/a.png', '-o', tmp_path/'out', '--model', net)[0] == 0
    assert sizes(tmp_path/'out') == {'a-png.png': (80, 64), 'a-jpg.png': (120, 64), 'a-png-2.png': (88, 64)}

def test_an_input_is_never_overwritten(sisr, net, photos):
    before = {f: f.read_bytes() for f in photos.rglob('*.*')}
    status, out, err = sisr('upscale', photos, '-o', photos, '--model', net)
    assert status == 1 and err.count('would be overwritten') == 2      # b.jpg becomes b.png: no harm
    assert sisr('upscale', photos/'a.png', '-o', photos/'a.png', '--model', net)[0] == 1
    (photos/'link.png').symlink_to(photos/'a.png')
    assert sisr('upscale', photos/'a.png', '-o', photos/'link.png', '--model', net)[0] == 1
    for f, was in before.items(): assert f.read_bytes() == was

def test_results_inside_the_input_folder_are_no_inputs(sisr, net, photos):
    for _ in range(2): assert sisr('upscale', photos, '-o', photos/'out', '--model', net)[0] == 0
    assert set(sizes(photos/'out')) == {'a.png', 'b.png', 'sub/a.png'}

def test_films_in_a_folder_are_left_out_and_told(sisr, net, photos, tmp_path):
    for f in (photos/'clip.mp4', photos/'sub/x.MOV', photos/'.hidden.mp4'): f.write_bytes(b'a film')
    status, out, err = sisr('upscale', photos, '-o', tmp_path/'out', '--model', net)
    assert status == 0 and len(out.splitlines()) == 3
    assert err == f'sisr: {photos}: 2 films are left out, {photos}/clip.mp4 and so on: films are enlarged by name\n'

def test_films_that_are_links_or_named_too(sisr, net, photos, tmp_path):
    (photos/'loop.mp4').symlink_to(photos/'loop.mp4'); (photos/'folder.mov').mkdir(); (photos/'clip.mp4').write_bytes(b'no film')
    status, out, err = sisr('upscale', photos, photos/'clip.mp4', '-o', tmp_path/'out', '--model', net)
    assert len(out.splitlines()) == 3 and 'left out' not in err

def test_all_there_is_all_said(sisr, net, photos, tmp_path):
    for _ in range(2): status, out, err = sisr('upscale', photos, '-o', tmp_path/'out', '--model', net, '--resume', '--tile', 8)
    assert (status, out, err) == (0, 'all is there already: 3 of 3\n', '')

def test_streams_that_are_closed_or_full(net, photos, tmp_path):
    for end, want in (('>&-', 0), ('>/dev/full', 1)):
        res = subprocess.run(['bash', '-c', f'{sys.executable} -m sisr.cli upscale {photos}/a.png -o {tmp_path}/out --model {net} {end}'], capture_output=True, text=True)
        assert res.returncode == want and 'unexpected' not in res.stderr

def test_a_wrong_limit_is_one_line(photos, net, tmp_path):
    res = real('upscale', photos/'a.png', '-o', tmp_path/'out', '--model', net, env={**os.environ, 'SISR_MAX_PIXELS': '5x'})
    assert res.returncode == 0 and res.stderr == "sisr: SISR_MAX_PIXELS='5x' is no number of pixels, as 1000000000 is one: the limit stays\n"

def test_resume_leaves_out_what_is_there(sisr, net, photos, tmp_path):
    "Under its name and in its size: what another network left, or a damaged file, is made anew"
    assert sisr('upscale', photos, '-o', tmp_path/'out', '--model', net)[0] == 0
    want = sizes(tmp_path/'out')
    mine = Image.new('RGB', Image.open(tmp_path/'out/a.png').size, 'red'); mine.save(tmp_path/'out/a.png')
    before = (tmp_path/'out/a.png').read_bytes()
    (tmp_path/'out/b.png').write_bytes(b'damaged'); Image.new('L', (9, 9)).save(tmp_path/'out/sub/a.png')
    status, out, err = sisr('upscale', photos, '-o', tmp_path/'out', '--model', net, '--resume')
    assert status == 0 and len(out.splitlines()) == 2 and sizes(tmp_path/'out') == want
    assert (tmp_path/'out/a.png').read_bytes() == before
    assert sisr('upscale', photos, '-o', tmp_path/'out', '--resume', '--model', net)[:2] == (0, 'all is there already: 3 of 3\n')

def test_tiles_and_consistency_are_options(sisr, net, tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)
    Image.fromarray(x).save(tmp_path/'a.png')
    for o in ([], ['--tile', 16], ['--tile', 0], ['--no-consistent']):
        assert sisr('upscale', tmp_path/'a.png', '-o', tmp_path/'out', '--model', net, *o)[0] == 0
        res = np.asarray(Image.open(tmp_path/'out/a.png')).astype(int)
        if not o: first = res
        assert (abs(res-first).max() > 1) == (o == ['--no-consistent'])
    assert sisr('upscale', tmp_path/'a.png', '-o', tmp_path/'out', '--model', net, '--half')[0] == 0
    assert abs(np.asarray(Image.open(tmp_path/'out/a.png')).astype(int)-first).max() <= 8  # noise is the hardest: eight bits of a number are kept

@pytest.mark.parametrize('tile', [1, 3, 8, 12, 16, 31, 32, 0])
def test_a_tile_that_is_too_small_is_told_and_done(sisr, net, tmp_path, tile):
    "The work is counted pixel by pixel; at 12 the edges of these small images cut most of the border off, and no warning is due"
    for n, size in (('a', (24, 20)), ('b', (20, 24))): Image.effect_noise(size, 60).convert('RGB').save(tmp_path/f'{n}.png')
    argv = 'upscale', tmp_path/'a.png', tmp_path/'b.png', '--model', net, '-o'
    assert sisr(*argv, tmp_path/'whole')[::2] == (0, '')
    status, out, err = sisr(*argv, tmp_path/'tiles', '--tile', tile)
    read = lambda n: sum(abs(at-max(i, min(at, i+tile-1))) <= 16 for i in range(0, n, tile) for at in range(n)) if tile else n
    times = read(20)*read(24)/(20*24)
    want = f'sisr: --tile {tile}: each tile needs 16 more pixels on each side, so this does {times:.0f} times the work; 32 or more is wanted\n'
    assert (status, err, len(out.splitlines())) == (0, want if times > 4 else '', 2)
    assert (times > 4) == (tile in (1, 3, 8)), times
    for n in 'ab':
        x, y = (np.asarray(Image.open(tmp_path/d/f'{n}.png')).astype(int) for d in ('whole', 'tiles'))
        assert abs(x-y).max() <= 1

def test_a_small_tile_among_bad_files(sisr, net, photos, tmp_path):
    (photos/'bad.png').write_bytes(b'nothing')
    status, out, err = sisr('upscale', photos, '-o', tmp_path/'out', '--model', net, '--tile', 2)
    assert status == 1 and len(out.splitlines()) == 3
    assert [line.split(':')[1] for line in err.splitlines()] == [' --tile 2', f' {photos}/bad.png']

def test_output_that_cannot_be(sisr, net, photos, tmp_path):
    (tmp_path/'file').touch()
    for out in (tmp_path/'file/out', tmp_path/'file'):
        status, _, err = sisr('upscale', photos/'a.png', '-o', out, '--model', net)
        assert status == (2 if out.name == 'file' else 1) and len(err.splitlines()) == 1 and 'file' in err
    (tmp_path/'dir.png').mkdir()
    assert sisr('upscale', photos/'a.png', '-o', tmp_path/'dir.png', '--model', net)[0] == 0
    assert sizes(tmp_path/'dir.png') == {'a.png': (80, 64)}

# wrong usage

@pytest.mark.parametrize('argv,words', [
    ([], 'which command'),
    (['upscal'], 'did you mean upscale?'),
    (['zzz'], 'choose from upscale, train'),
    (['upscale'], 'required'),
    (['upscale', 'a.png'], '-o'),
    (['upscale', 'a.png', '-o', 'out', '--modle', 'x'], 'did you mean --model?'),
    (['upscale', 'a.png', '-o', 'out', '--tile', 'big'], '--tile'),
    (['upscale', 'a.png', '-o', 'out', '--tile', '-1'], '--tile'),
    (['upscale', 'a.png', '-o', 'out', '--scale', '5'], '--scale'),
    (['upscale', 'a.png', 'b.png', '-o', 'out.png'], 'give a folder'),
    (['upscale', 'a.png', '-o', 'out.xyz'], 'cannot write .xyz'),
    (['upscale', 'PHOTO', '-o', 'out', '--model', 'no-such-network'], 'called no-such-network'),
    (['upscale', 'PHOTO', '-o', 'out', '--model', 'NET', '--scale', '2'], 'enlarges 4 times, not 2'),
    (['upscale', 'PHOTO', '-o', 'out', '--model', 'NET', '--device', 'gpu9'], 'choose auto, cuda, mps or cpu'),
    (['evaluate'], '--data'),
    (['evaluate', '--data', 'x', '--model', 'bicubic', '--protocol', 'faces'], 'faces128'),
    (['sheet', 'PHOTO'], '-o'),
    (['sheet', 'PHOTO', '-o', 'sheet.pdf'], 'a sheet is a .png or .jpg'),
    (['train', '--recipe', 'photos-x4', '--out', 'run'], '--data'),
    (['train', '--recipe', 'photos-x4', '--out', 'run', '--lr', 'a', '--hr', 'b'], 'without pairs'),
    (['train', '--recipe', 'unsupervised-x4', '--out', 'run', '--hr', 'b'], '--lr FOLDER'),
    (['train', '--recipe', 'unsupervised-x4', '--out', 'run', '--lr', 'a', '--hr', 'b', '--data', 'c'], '--hr alone'),
    (['train', '--recipe', 'no-such', '--data', 'x', '--out', 'run'], 'no recipe is called no-such'),
    (['train', '--recipe', 'x', '--data', 'x', '--out', 'run', '--set', 'novalue'], 'key=value'),
])
def test_wrong_usage(sisr, net, photos, tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = sisr(*[{'NET': net, 'PHOTO': photos/'a.png'}.get(a, a) for a in argv])
    assert (status, out) == (2, '') and words in err and len(err.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ['in']                      # nothing was begun

@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without CUDA')
def test_a_device_that_is_not_there(sisr, net, photos, tmp_path):
    status, _, err = sisr('upscale', photos, '-o', tmp_path/'out', '--model', net, '--device', 'cuda')
    assert status == 2 and 'device cuda is not there: this machine has' in err

def test_bad_weights(sisr, photos, tmp_path):
    (tmp_path/'bad.safetensors').write_bytes(b'x'*100)
    for f in ('bad.safetensors', 'none.safetensors'):
        status, _, err = sisr('upscale', photos, '-o', tmp_path/'out', '--model', tmp_path/f)
        assert status == (1 if f == 'bad.safetensors' else 2) and f in err and len(err.splitlines()) == 1

def test_help(sisr):
    status, out, err = sisr('--help')
    assert (status, err) == (0, '') and all(c in out for c in cli.COMMANDS)
    for c in cli.COMMANDS:
        status, out, err = sisr(c, '--help')
        assert (status, err) == (0, '') and out.startswith(f'usage: sisr {c}')
    assert sisr('--version')[1].startswith('sisr ')

def test_the_unexpected_is_one_line(sisr, net, photos, tmp_path, monkeypatch):
    from sisr.upscaler import Upscaler
    def fall(*a, **k): raise ZeroDivisionError('oh\nno')
    monkeypatch.setattr(Upscaler, 'piece', fall)
    status, _, err = sisr('upscale', photos/'a.png', '-o', tmp_path/'out', '--model', net)
    assert status == 1 and 'unexpected ZeroDivisionError: oh no (please report' in err and len(err.splitlines()) == 1

def test_debug_shows_the_traceback(net, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('SISR_DEBUG', '1')
    assert cli.main(['upscale', str(tmp_path/'gone.png'), '-o', str(tmp_path/'out'), '--model', net]) == 1
    assert 'Traceback' in capsys.readouterr().err

# the other commands

def test_bench_names_what_it_cannot_use_and_measures_the_rest(sisr, tmp_path):
    (tmp_path/'hr').mkdir()
    Image.open(sample('kitten')).crop((100, 100, 180, 164)).save(tmp_path/'hr/a.png')
    Image.new('RGB', (20, 20)).save(tmp_path/'hr/tiny.png')              # too small for x8
    (tmp_path/'hr/broken.png').write_bytes((tmp_path/'hr/a.png').read_bytes()[:700])
    status, out, err = sisr('bench', '--no-speed', '--data', tmp_path/'hr', '--json', tmp_path/'new/out.json')
    assert status == 1 and err.count('broken.png') == 1 and 'LPIPS' in out
    rows = json.loads((tmp_path/'new/out.json').read_text())['quality']
    assert {(r['scale'], r['set']) for r in rows} == {(2, 'hr'), (4, 'hr'), (8, 'hr')}
    (tmp_path/'hr/a.png').unlink(); (tmp_path/'hr/broken.png').unlink()
    Image.new('RGB', (3, 3)).save(tmp_path/'hr/tiny.png')
    status, out, err = sisr('bench', '--no-speed', '--data', tmp_path/'hr')
    assert status == 1 and err.splitlines()[-1].endswith('no image could be measured')

def test_bench_takes_every_set_there_is(tmp_path):
    from sisr.bench import places
    for s in ('Urban100', 'Set5', 'BSD100'): (tmp_path/'benchmarks'/s).mkdir(parents=True)
    assert list(places(tmp_path)['standard']) == ['Set5', 'BSD100', 'Urban100'] and not places(tmp_path)['faces128']
    assert list(places(tmp_path/'benchmarks/Set5')['standard']) == ['Set5']

@pytest.mark.parametrize('argv,words', [
    (['--data', 'gone'], 'no such folder'), (['--data', ''], '--data is empty'), (['--no-speed'], 'leaves nothing'),
    (['--no-speed', '--data', '.', '--json', ''], '--json is empty'), (['--no-speed', '--data', '.', '--json', '.'], 'give a file')])
def test_bench_used_wrongly(sisr, argv, words):
    status, _, err = sisr('bench', *argv)
    assert status == 2 and words in err and len(err.splitlines()) == 1

@pytest.mark.skipif(not Path('/proc').is_dir(), reason='needs a folder that takes no files')
def test_what_cannot_be_written_is_known_before_the_work(sisr, net, photos, tmp_path, monkeypatch):
    def never(*a, **k): raise AssertionError('it began to work')
    (tmp_path/'a file').write_text('')
    monkeypatch.setattr('sisr.bench.bench', never); monkeypatch.setattr('sisr.metrics.evaluate', never)
    for argv in (['bench'], ['evaluate', '--model', net, '--data', photos]):
        for to in (tmp_path/'a file/out.json', '/proc/out.json'):
            status, _, err = sisr(*argv, '--json', to)
            assert status and ('a file' in err or '/proc/out.json' in err) and len(err.splitlines()) == 1

def test_evaluate(sisr, net, tmp_path):
    (tmp_path/'hr').mkdir()
    for n in ('kitten', 'budgie'): Image.open(sample(n)).crop((100, 100, 180, 164)).save(tmp_path/'hr'/f'{n}.png')
    for model, keys in ((net, {'psnr_y', 'ssim_y', 'lr_psnr'}), ('bicubic', {'psnr_y'}), ('pinv', {'psnr_y'})):
        status, out, err = sisr('evaluate', '--model', model, '--data', tmp_path/'hr', '--scale', 4, '--json', tmp_path/'new/out.json')
        assert (status, err) == (0, '') and 'kitten.png' in out and 'mean of 2' in out
        res = json.loads((tmp_path/'new/out.json').read_text())
        assert keys <= set(res['mean']) and [i['file'] for i in res['images']] == ['budgie.png', 'kitten.png']
        assert res['protocol']['name'] == 'standard' and res['model']['name']
        assert res['mean']['lr_psnr'] > (30 if model == 'bicubic' else 45)
    (tmp_path/'hr/bad.png').write_bytes(b'no')
    status, out, err = sisr('evaluate', '--model', 'bicubic', '--data', tmp_path/'hr')
    assert status == 1 and 'bad.png' in err and 'mean of 2' in out
    assert sisr('evaluate', '--model', 'bicubic', '--data', tmp_path/'nowhere')[0] == 1

def test_sheet(sisr, net, tmp_path):
    assert sisr('sheet', sample(), '-o', tmp_path/'sheet.png', '--model', net, '--size', 64)[0] == 0
    assert Image.open(tmp_path/'sheet.png').width > 300
    assert sisr('sheet', tmp_path/'gone.png', '-o', tmp_path/'sheet.png', '--model', net)[0] == 1

def test_models(sisr):
    status, out, err = sisr('models')
    assert (status, err) == (0, '') and out.splitlines()[0].split()[:3] == ['name', 'scale', 'parameters']

def test_train_then_use(sisr, tmp_path):
    (tmp_path/'hr').mkdir()
    for n in ('kitten', 'budgie'): Image.open(sample(n)).crop((100, 100, 220, 220)).save(tmp_path/'hr'/f'{n}.png')
    train = ['train', '--recipe', 'photos-x4', '--data', tmp_path/'hr', '--out', tmp_path/'run', '--quick', '--set', 'steps=3', 'width=8', 'blocks=1', 'patch=32', '--set', 'batch=2']
    status, out, err = sisr(*train)
    assert status == 0 and out.endswith(f'{tmp_path}/run/model.safetensors\n')
    assert sisr(*train, '--resume')[0] == 0
    status, out, err = sisr('upscale', tmp_path/'hr/kitten.png', '-o', tmp_path/'big.png', '--model', tmp_path/'run/model.safetensors')
    assert (status, err) == (0, '') and Image.open(tmp_path/'big.png').size == (480, 480)

def test_train_errors(sisr, tmp_path):
    train = ['train', '--recipe', 'photos-x4', '--out', tmp_path/'run', '--quick', '--data']
    for more, status, words in ((['x', '--set', 'stesp=3'], 2, 'did you mean steps'), (['x', '--set', 'steps=many'], 2, 'steps=many'),
                                (['x', '--init', 'photo-x4'], 2, 'photo-x4'), (['x'], 1, 'no such')):
        res = sisr(*train, *[tmp_path/m if m == 'x' else m for m in more])
        assert res[0] == status and words in res[2] and len(res[2].splitlines()) == 1

# style: between a network and its GAN sister

@pytest.fixture(scope='session')
def gan(net, tmp_path_factory):
    "A copy of the tiny network that has a sister beside it"
    path = tmp_path_factory.mktemp('pair')/'duo.safetensors'
    shutil.copy(net, path)
    g = load_model(net)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in g.parameters(): p.add_(torch.randn_like(p), alpha=.05)
    save_model(g, path.with_name('duo-gan.safetensors'))
    return path

def test_style_goes_from_one_network_to_its_sister(sisr, gan, tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    Image.fromarray(x).save(tmp_path/'a.png')
    def large(*options):
        assert sisr('upscale', tmp_path/'a.png', '-o', tmp_path/'big.png', '--model', *options)[::2] == (0, '')
        return np.asarray(Image.open(tmp_path/'big.png')).astype(int)
    sister = gan.with_name('duo-gan.safetensors')
    first, last = large(gan), large(sister)
    for model in (gan, sister):
        assert (large(model, '--style', 0) == first).all() and (large(model, '--style', 1) == last).all()
        half = large(model, '--style', .5)
        assert 0 < abs(half-first).mean() < abs(last-first).mean()

def test_style_of_evaluate_and_sheet(sisr, gan, tmp_path):
    (tmp_path/'hr').mkdir()
    Image.open(sample('kitten')).crop((100, 100, 148, 148)).save(tmp_path/'hr/a.png')
    means = []
    for t in ('0', '.5', '1'):
        status, out, err = sisr('evaluate', '--model', gan, '--data', tmp_path/'hr', '--style', t, '--json', tmp_path/'out.json')
        assert (status, err) == (0, '') and out.startswith(f'duo at style {float(t):g} x4')
        res = json.loads((tmp_path/'out.json').read_text())
        assert res['model']['style'] == float(t) and len(res['model']['ancestors']) == 2
        means.append(res['mean']['psnr_y'])
    assert len(set(means)) == 3
    status, out, err = sisr('evaluate', '--model', gan, '--data', tmp_path/'hr', '--json', tmp_path/'out.json')
    assert out.startswith('duo x4') and json.loads((tmp_path/'out.json').read_text())['mean']['psnr_y'] == means[0]
    assert sisr('sheet', tmp_path/'hr/a.png', '-o', tmp_path/'sheet.png', '--model', gan, '--style', .5)[::2] == (0, '')

@pytest.mark.parametrize('start', [['upscale', 'PHOTO', '-o', 'out'], ['sheet', 'PHOTO', '-o', 'sheet.png'], ['evaluate', '--data', 'in']])
@pytest.mark.parametrize('options,words', [
    (['--model', 'GAN', '--style', '2'], "'2' is no number from 0 to 1"), (['--model', 'GAN', '--style', '-0.1'], '--style'),
    (['--model', 'GAN', '--style', 'nan'], '--style'), (['--model', 'GAN', '--style', 'sharp'], "'sharp' is no number"),
    (['--model', 'GAN', '--style'], '--style'), (['--model', 'NET', '--style', '.5'], 'there is no tiny-gan beside it'),
    (['--model', 'no-such-network', '--style', '.5'], 'called no-such-network'),
    (['--model', 'photos-x2', '--style', '.5'], 'photos-x2 has no style: there is no photos-x2-gan beside it')])
def test_style_that_cannot_be(sisr, net, gan, photos, tmp_path, monkeypatch, start, options, words):
    monkeypatch.chdir(tmp_path)
    names = dict(NET=net, GAN=gan, PHOTO=photos/'a.png')
    status, out, err = sisr(*[names.get(a, a) for a in start+options])
    assert (status, out) == (2, '') and words in err and len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == ['in']

def test_style_needs_two_networks(sisr, gan, photos):
    for name in ('bicubic', 'pinv'):
        status, _, err = sisr('evaluate', '--model', name, '--data', photos, '--style', 0)
        assert status == 2 and f'{name} has no style' in err

def test_self_ensemble(sisr, net, tmp_path):
    "The picture laid down otherwise gives the result laid down otherwise; `evaluate` says what it measured"
    (tmp_path/'hr').mkdir()
    photo = Image.open(sample('kitten')).crop((100, 100, 148, 132))
    photo.save(tmp_path/'hr/a.png')
    turn = Image.Transpose.TRANSVERSE
    def large(image, *options):
        image.save(tmp_path/'lr.png')
        assert sisr('upscale', tmp_path/'lr.png', '-o', tmp_path/'large.png', '--model', net, *options)[::2] == (0, '')
        return Image.open(tmp_path/'large.png')
    def apart(*options): return np.abs(np.asarray(large(photo, *options).transpose(turn), int)-np.asarray(large(photo.transpose(turn), *options), int)).max()
    assert apart('--ensemble') <= 1 < apart()
    assert sisr('evaluate', '--model', net, '--data', tmp_path/'hr', '--ensemble')[1].startswith('tiny, self-ensemble x4')
    status, _, err = sisr('evaluate', '--model', 'pinv', '--data', tmp_path/'hr', '--ensemble')
    assert status == 2 and '--ensemble is for networks' in err
    save_model(load_model(net), tmp_path/'upright.safetensors', recipe=dict(flips=1))
    status, _, err = sisr('upscale', tmp_path/'lr.png', '-o', tmp_path/'out.png', '--model', tmp_path/'upright.safetensors', '--ensemble')
    assert status == 2 and 'in one way alone: leave out --ensemble' in err

# the real command

def test_help_needs_no_torch():
    heavy = 'torch torchvision matplotlib accelerate numpy PIL IPython fastprogress'
    code = ("import sys; from sisr.cli import main; main(['--help']); main(['upscale','--help']); main(['upscal']); "
            f"print(sorted(set('{heavy}'.split()) & set(sys.modules)))")
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.stdout.splitlines()[-1] == '[]'

def test_the_shell_is_shared():
    "What was declared once is one thing, wherever it is imported from; no option of a command is left undocumented"
    from sisr import shell
    assert cli.COMMANDS is shell.COMMANDS and list(cli.COMMANDS) == "upscale train evaluate sheet models recipes export bench".split()
    assert [shell.resumes(c) for c in cli.COMMANDS] == [True, True, False, False, False, False, False, False]
    assert all(kw.get('help') for _, options in cli.COMMANDS.values() for _, kw in options)

def test_statuses_of_the_real_command(net, photos, tmp_path):
    res = real('upscale', photos/'a.png', tmp_path/'gone.png', '-o', tmp_path/'out', '--model', net)
    assert res.returncode == 1 and res.stderr == f'sisr: {tmp_path}/gone.png: no such file or folder\n'
    assert res.stdout == f'{photos}/a.png -> {tmp_path}/out/a.png (80 x 64)\n'      # a pipe: no bar
    assert real('upscal').returncode == 2

@pytest.mark.skipif(os.name == 'nt', reason='signals are of another kind there')
def test_ctrl_c_leaves_nothing_half_done(net, tmp_path):
    Image.new('RGB', (900, 700), 'teal').save(tmp_path/'a.png')
    for i in range(60): shutil.copy(tmp_path/'a.png', tmp_path/f'b{i:02}.png')
    inputs = sorted(tmp_path.glob('*.png'))
    run = subprocess.Popen([sys.executable, '-m', 'sisr.cli', 'upscale', *inputs, '-o', tmp_path/'out', '--model', net],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))     # tests in the background are begun deaf to it
    run.stdout.readline()                                              # the first is done
    time.sleep(.3)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err == 'sisr: stopped; the same with --resume goes on\n'
    left = list((tmp_path/'out').iterdir())
    assert 0 < len(left) < 61
    for f in left: assert not f.name.startswith('.'); Image.open(f).load()

@pytest.mark.skipif(shutil.which('head') is None, reason='needs head')
def test_a_reader_that_leaves(net):
    res = subprocess.run(f'{sys.executable} -m sisr.cli --help | head -c 1', shell=True, capture_output=True, text=True)
    assert res.stderr == ''

@pytest.mark.skipif(os.name == 'nt', reason='needs a pseudo-terminal')
def test_a_terminal_gets_a_bar(net, photos, tmp_path):
    import pty
    mine, theirs = pty.openpty()
    run = subprocess.Popen([sys.executable, '-m', 'sisr.cli', 'upscale', photos, '-o', tmp_path/'out', '--model', net], stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs); text = b''
    while True:
        try: piece = os.read(mine, 4096)
        except OSError: break
        if not piece: break
        text += piece
    assert run.wait(60) == 0 and b'100' in text and '█'.encode() in text
    assert len(list((tmp_path/'out').rglob('*.png'))) == 3
