"Folders as people have them"
import time, warnings
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from sisr.data import Feed, ImageSet, Patches
from sisr.datasets import named, split_by_identity
from sisr.images import SisrError, SisrWarning, samples
from sisr.metrics import Protocol

@pytest.fixture(scope='module')
def images(): return ImageSet([torch.randint(0,256,(3,40+i,50-i),dtype=torch.uint8,generator=torch.Generator().manual_seed(i)) for i in range(7)])

@settings(max_examples=30, deadline=None)
@given(st.integers(0,5000), st.integers(1,4), st.integers(0,9))
def test_a_batch_is_a_function_of_its_number(images, k, share, seed):
    "however many share it, and whatever was asked before"
    whole = Patches(images, 24, 12, seed)[k]
    parts = [Patches(images, 24, 12//share, seed)[k*share+r] for r in range(share)] if 12%share==0 else [whole]
    assert torch.equal(torch.cat(parts), whole)

def test_an_epoch_uses_each_image_once(images):
    p = Patches(images, 24, 1)
    for e in range(3): assert sorted(p._index(i) for i in range(7*e,7*e+7))==list(range(7))

def test_mixed_folder(tmp_path):
    "gray, alpha, palette, CMYK, a broken and a tiny file among the good: all of one shape, the bad ones named"
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0,256,(64,64,3),dtype=np.uint8))
    for i,m in enumerate(['RGB','L','RGBA','P','CMYK','1','LA']): rgb.convert(m).save(tmp_path/f'{i}.{"jpg" if m=="CMYK" else "png"}')
    (tmp_path/'broken.png').write_bytes((tmp_path/'0.png').read_bytes()[:200]); rgb.resize((8,8)).save(tmp_path/'tiny.png')
    (tmp_path/'notes.txt').write_text('x')
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        p = Patches(ImageSet(tmp_path), 48, 9)
        for k in range(3): assert p[k].shape==(9,3,48,48) and p[k].dtype==torch.uint8
    said = ' '.join(str(x.message) for x in w)
    assert 'broken.png' in said and 'tiny.png' in said and '8x8' in said

def test_no_usable_folder(tmp_path):
    for make,word in ((lambda d: d/'missing','no such'), (lambda d: d,'no images')):
        with pytest.raises(SisrError, match=word): ImageSet(make(tmp_path))

def test_memory_is_bounded():
    s = ImageSet(samples(), memory=2_000_000)
    for i in range(len(s)): s[i]
    assert sum(u.numel() for u in s._kept.values())<=2_000_000

def test_feed_ends_with_its_owner(images):
    f = Feed(Patches(images,24,4)); next(f); f.close()
    assert not f._thread.is_alive()

def test_faces_by_identity(data):
    train = ImageSet(sorted((data/'faces'/'train').glob('*.jpg'))[:50], Protocol.named('faces128'))
    assert train[0].shape==(3,128,128)
    a,b = split_by_identity(sorted((data/'faces'/'train').glob('*.jpg')))
    who = lambda fs: {f.stem.split('_')[0] for f in fs}
    assert a and b and not who(a)&who(b)

def test_mnist(data):
    s = named('mnist', data)
    assert len(s)==5000 and s[0].shape==(1,28,28) and len(named('mnist', data, 'val'))==1000

def test_a_bad_file_among_good_ones_is_one_line_and_status_1(tmp_path, capfd):
    import shutil
    from sisr.cli import main
    (tmp_path/'data').mkdir()
    for f in samples()[:3]: shutil.copy(f, tmp_path/'data')
    (tmp_path/'data'/'aaa.jpg').write_text('no image')
    assert main(f'train --recipe photos-x4 --data {tmp_path}/data {tmp_path}/data --out {tmp_path}/run --quick --set steps=2 batch=8 patch=32 width=8 blocks=1'.split())==1
    said = capfd.readouterr().err
    assert said.count('aaa.jpg')==1 and 'Warning' not in said and 'Traceback' not in said
    assert (tmp_path/'run'/'model.safetensors').exists()

def celeba(root, n=120, people=12):
    "A folder laid out like CelebA, with its identity list"
    (d := root/'img_align_celeba').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n): Image.fromarray(rng.integers(0,256,(218,178,3),dtype=np.uint8)).save(d/f'{i:06}.jpg', quality=50)
    (root/'identity_CelebA.txt').write_text(''.join(f'{i:06}.jpg {i%people}\n' for i in range(n)))
    return root

def test_training_on_celeba_keeps_people_apart(tmp_path):
    "by its identity list, whether the folder or the name of the dataset is given"
    from sisr.training import holdout, items_of
    root = celeba(tmp_path/'celeba')
    who = lambda fs: {int(f.stem)%12 for f in fs}
    for data in (str(root), f'celeba:{root}'):
        fit,held = holdout(items_of(data), people=True)
        assert fit and held and not who(fit)&who(held)

def test_a_dataset_by_name_on_the_command_line(tmp_path, capfd):
    from sisr.cli import main
    root,tiny = celeba(tmp_path/'celeba', 24),'--quick --set steps=2 batch=2 patch=32 width=8 blocks=1'
    assert main(f'train --recipe faces-x4 --data celeba:{root} --out {tmp_path}/run {tiny}'.split())==0
    assert main(f'train --recipe faces-x4 --data celeba:{tmp_path}/nowhere --out {tmp_path}/other {tiny}'.split()) in (1,2)
    said = capfd.readouterr().err
    assert 'no such folder' in said and 'Traceback' not in said

def test_versions_on_the_command_line(tmp_path, capfd):
    "A small folder lasts longer; what it holds is still counted as it is"
    from sisr.cli import main
    from sisr.saving import load_model
    train = lambda recipe,*more: main(['train','--recipe',recipe,*more,'--out',str(tmp_path/recipe),'--quick'])
    data,few = ['--data',str(samples()[0].parent)],['steps=4','patch=48','batch=4','width=8','blocks=1']
    assert train('photos-x4', *data, '--set', *few, 'versions=3')==0
    told = load_model(tmp_path/'photos-x4'/'model.safetensors').info
    assert told['recipe']['versions']==3 and told['images']<=len(samples())
    assert train('photos-x2', *data, '--set', *few, 'versions=0') and '1 or more' in capfd.readouterr().err
    assert train('unsupervised-x4', '--lr', data[1], '--hr', data[1], '--set', 'versions=2') and 'for training with pairs' in capfd.readouterr().err

def test_versions_are_made_from_one_opening(monkeypatch):
    "Laid out on a device all at once, in the order in which they are numbered, a bad image told once"
    import sisr.data as data
    opened,real = [],data.to_tensor
    def slow(item, **kw): opened.append(1); time.sleep(.01); return real(item, **kw)
    monkeypatch.setattr(data, 'to_tensor', slow)
    rng = np.random.default_rng(0)
    items = [rng.integers(0, 256, (40+i,48,3), dtype=np.uint8) for i in range(6)]
    there,here = (Patches(ImageSet(items, versions=5), 16, 8) for _ in range(2))
    opened.clear()
    assert there.to('cpu') and len(opened)<=len(items)             # for all its versions
    assert all(torch.equal(there[k], here[k]) for k in range(4))
    with pytest.warns(SisrWarning) as said: assert Patches(ImageSet([items[0],'no such file.png',items[1]], versions=5), 16, 8).to('cpu')
    assert len(said)==1

def test_versions_keep_what_a_set_promises():
    "Sides that are multiples, one channel where the protocol has one"
    item = np.random.default_rng(0).integers(0, 256, (45,51,3), dtype=np.uint8)
    more = ImageSet([item], scale=4, versions=9)
    assert all(n%4==0 for i in range(1,9) for n in more[i].shape[1:])
    gray = ImageSet([item], Protocol(channels=1), versions=2)
    assert all((gray[i]==gray[i][:1]).all() for i in range(2))
