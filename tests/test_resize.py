"A, A+ and the projection, at any size: properties"
import time
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from sisr.resize import consistent, downscale, pinv, tiles, upscale, _dense

sizes = st.integers(1,90)
scales = st.sampled_from([2,3,4,8])

def noise(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))*2-1
def db(a, b): return float(-10*((a-b)/2).square().mean().clamp(min=1e-20).log10())

@settings(max_examples=40, deadline=None)
@given(sizes, sizes, scales, st.integers(0,99))
def test_consistent_explains_its_input(h, w, s, seed):
    lr,guess = noise(2,3,h,w,seed=seed),noise(2,3,h*s,w*s,seed=seed+1)
    x = consistent(guess, lr)
    assert db(downscale(x,s), lr)>80
    assert (consistent(x,lr)-x).abs().max()<1e-4                   # a projection: twice is once

@settings(max_examples=25, deadline=None)
@given(sizes, sizes, scales)
def test_pinv_is_the_dense_one(h, w, s):
    y = noise(1,1,h,w)
    dense = _dense(h,s)[1] @ y.double() @ _dense(w,s)[1].T
    assert (pinv(y,s)-dense).abs().max() < 1e-6*max(1., float(dense.abs().max()))*2

@settings(max_examples=25, deadline=None)
@given(st.integers(1,70), st.integers(1,70), st.sampled_from([2,4]), st.integers(5,40))
def test_tiled_is_whole(h, w, s, tile):
    lr,guess = noise(1,3,h,w),noise(1,3,h*s,w*s,seed=1)
    assert (consistent(guess,lr,tile=tile)-consistent(guess,lr)).abs().max()<1e-5

@settings(max_examples=25, deadline=None)
@given(st.integers(1,300), st.integers(1,300), st.integers(1,120), st.integers(0,40))
def test_tiles_cover_each_pixel_once(h, w, tile, margin):
    seen = torch.zeros(1,1,h,w)
    for inner,outer,cut in tiles(h, w, tile, margin):
        seen[inner] += 1
        assert torch.empty(1,1,h,w)[outer][cut].shape==seen[inner].shape
    assert bool((seen==1).all())

def test_projection_never_raises_the_error():
    hr = noise(1,3,64,96)
    for seed in range(5):
        guess = hr+noise(1,3,64,96,seed=seed)
        assert (consistent(guess, downscale(hr,4))-hr).square().mean() <= (guess-hr).square().mean()

def test_gradients_flow():
    x = noise(1,1,32,32).requires_grad_()
    consistent(x, noise(1,1,8,8)).sum().backward()
    assert x.grad.isfinite().all()

def test_large_images_take_linear_time():
    "A strip of 12,000 pixels; a dense inverse would take minutes and gigabytes"
    lr = noise(1,3,20,3000)
    t = time.perf_counter(); x = consistent(torch.zeros(1,3,80,12000), lr); took = time.perf_counter()-t
    assert db(downscale(x,4), lr)>80 and took<20
    lr = noise(1,1,1,12000)
    assert db(downscale(consistent(upscale(lr,2),lr),2), lr)>80

@pytest.mark.gpu
@pytest.mark.parametrize('s', [2,4,8])
def test_the_gpu_agrees(s):
    lr,guess = noise(2,3,70,40),noise(2,3,70*s,40*s,seed=1)
    a,b = consistent(guess,lr),consistent(guess.cuda(),lr.cuda()).cpu()
    assert (a-b).abs().max()<1e-4 and db(downscale(b,s),lr)>80
