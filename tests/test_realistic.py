"Training on images as people have them"
import json, warnings

import numpy as np
import pytest
import torch
from PIL import Image

from sisr.degradations import Bicubic
from sisr.saving import load_model
from sisr.images import SisrError, sample, to_tensor
from sisr.metrics import Pairs
from sisr.realistic import Realistic, degradation, jpeg
from sisr.recipes import change, miniature, recipe
from sisr.training import train
from sisr.upscaler import Upscaler


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('photos')
    img = Image.open(sample('kitten'))
    for i in range(6): img.crop((60*i, 40, 60*i+160, 200)).save(folder/f'{i}.png')
    return folder

def small(**kw): return change(miniature(recipe('photos-x4-real'), 4), steps=4, width=8, blocks=1, patch=32, batch=2, look=2, **kw)

def begin(photos, out, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return train(small(), photos, out, show=False, **kw)

def test_a_network_that_learned_from_damage_does_not_insist_on_it(photos, tmp_path):
    file = begin(photos, tmp_path/'run')
    info = load_model(file).info
    assert info['degradation']['kind'] == 'realistic' and info['degradation']['exact'] is False
    assert Upscaler.from_pretrained(file, 'cpu').consistent is False
    assert Upscaler.from_pretrained(file, 'cpu', consistent=True).consistent is True
    assert Upscaler.from_pretrained('photos-x4', 'cpu').consistent is True

def test_chance_resumes_to_equal_bits(photos, tmp_path):
    "What is drawn comes from the generators whose state a checkpoint keeps"
    class Stop(Exception): pass
    def stop(sr, hr):
        stop.n += 1
        if stop.n == 4: raise Stop
        return (sr-hr).abs().mean()
    plain = lambda sr, hr: (sr-hr).abs().mean()
    stop.n = 0
    whole = begin(photos, tmp_path/'a', losses=dict(l1=plain), save=1)
    with pytest.raises(Stop): begin(photos, tmp_path/'b', losses=dict(l1=stop), save=1)
    again = begin(photos, tmp_path/'b', losses=dict(l1=plain), save=1, resume=True)
    a, b = (load_model(f).state_dict() for f in (whole, again))
    assert all(torch.equal(a[k], b[k]) for k in a)

def test_any_recipe_takes_it(photos):
    assert change(recipe('photos-x2'), degrade='realistic').degrade == 'realistic'
    with pytest.raises(SisrError, match='there are bicubic, realistic'): change(recipe('photos-x2'), degrade='real')
    for name in ('supervised-x4', 'unsupervised-x4'):
        with pytest.raises(SisrError, match='asks SR to explain LR'): change(recipe(name), degrade='realistic')

def test_pairs_are_damaged_alike_each_time(photos):
    a, b = (Pairs(photos, 4, degrade=degradation('realistic', 4)) for _ in range(2))
    plain = Pairs(photos, 4)
    for (_, x, hr), (_, y, _), (_, z, same) in zip(a, b, plain):
        assert torch.equal(x, y) and torch.equal(hr, same) and x.shape == z.shape
    assert any(not torch.equal(x, z) for (_, x, _), (_, z, _) in zip(a, plain))

@pytest.mark.parametrize('scale', [2, 4, 8])
@pytest.mark.parametrize('size', [(32, 32), (96, 64)])
@pytest.mark.parametrize('seed', range(6))
def test_lr_is_a_picture_of_the_right_size(scale, size, seed):
    hr = torch.rand(3, 3, *size)*2-1
    lr = Realistic(scale)(hr, seed=seed)
    assert lr.shape == (3, 3, size[0]//scale, size[1]//scale) and lr.isfinite().all() and lr.abs().max() <= 1

def test_jpeg_is_the_one_of_files(tmp_path):
    "The same pixels as a file of that quality has"
    x = to_tensor(sample('kitten'))[..., :64, :64]
    Image.fromarray(((x[0]+1)*127.5).round().byte().permute(1, 2, 0).numpy()).save(tmp_path/'x.jpg', quality=40)
    assert torch.equal(jpeg(x, 40), to_tensor(tmp_path/'x.jpg'))

def test_colours_stay_on_average():
    "Blur, sizes, noise and JPEG move the mean of a gray picture by less than two levels"
    hr = torch.zeros(16, 3, 128, 128)
    lr = Realistic(4, clean=0.)(hr, seed=0)
    assert (lr.mean((2, 3)).abs()*127.5).max() < 2 and not torch.equal(lr, Bicubic(4)(hr))
