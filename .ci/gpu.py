"""What a training step costs on a GPU: `python .ci/gpu.py [OUT.json]`, three minutes; most numbers of the page On a GPU.

Recipes by turns of a second each: milliseconds a step, images a second, share of the machine's bfloat16 rate, seconds without data,
whether anything in a step made the host wait; and what convolutions of several widths reach. Images are the shipped samples and noise:
a step costs the same whatever it sees."""
import json, sys, tempfile, time, warnings
from dataclasses import replace
from pathlib import Path
from statistics import median
import torch
from torch.profiler import ProfilerActivity, profile
from sisr.data import Feed
from sisr.determinism import tuned
from sisr.duel import rate, work
from sisr.generators import generator
from sisr.images import samples
from sisr.recipes import LEAN, recipe
from sisr.training import trainer

LARGE = dict(faithful=False, width=64, blocks=18)
WIDE = dict(faithful=False, width=128, blocks=3)                    # as many parameters
CASES = [(name, batch, patch, net, compiled) for name,batch,patch,net in (
             ('photos-x4',16,128,LEAN), ('photos-x4',64,128,LEAN), ('photos-x4',64,192,LARGE), ('photos-x4',64,192,WIDE), ('faces-x4',64,128,LEAN), ('faces-x8',64,128,LEAN),
             ('faces-x4-gan',8,64,LEAN), ('faces-x4-gan',32,64,LEAN), ('faces-x4-gan',4,128,LEAN), ('faces-x4-gan',16,128,LEAN),
             ('faces-x4-unsupervised',4,128,LEAN), ('faces-x4-unsupervised',16,128,LEAN))
         for compiled in (False, True)]
noise = lambda n,h,w: [torch.randint(0, 256, (h,w,3), dtype=torch.uint8).numpy() for _ in range(n)]

def engine(name, batch, patch, net, compiled):
    "A trainer, and the stage with all its losses"
    r = replace(recipe(name), batch=batch, patch=patch, net=net, compiled=compiled, versions=1)
    if r.adversary.get('d')=='srgan': r = replace(r, adversary={**r.adversary, 'arch':{**r.adversary['arch'], 'size':patch}})
    data = noise(64, 218, 178) if r.protocol=='faces128' else samples()
    t = trainer(r, generator(r.scale, **net), data, tempfile.mkdtemp(), show=False, lr=noise(32, 32, 32) if r.unpaired else None)
    stage = replace(r.stages[-2 if r.unpaired else -1], scale=0, frozen=False)
    t.weight = stage.adversary
    t._ready([stage])
    return t,stage

def waits(go):
    "Where the host was made to wait in seventeen steps"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always'); torch.cuda.set_sync_debug_mode('warn'); go(17); torch.cuda.set_sync_debug_mode('default')
    return sorted({f'{Path(w.filename).name}:{w.lineno}' for w in seen if 'synchron' in str(w.message)})

def kernels(go, n=4):
    "name -> milliseconds a step"
    with profile(activities=[ProfilerActivity.CUDA]) as seen: go(n); torch.cuda.synchronize()
    return {e.key: round(e.self_device_time_total/1e3/n, 4) for e in sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)[:30]}

def measure(name, batch, patch, net, compiled, top):
    t,stage = engine(name, batch, patch, net, compiled)
    feed = Feed(t.patches, 0, 1, t.acc.device)
    def go(n):
        for _ in range(n):
            with tuned(): t.tally.add(t.step(next(feed), stage), t.k)
            t.k += 1
    go(20)
    ops,laps,wait = work(lambda: t.step(next(feed), stage)) if not compiled else None,[],feed.waited
    for _ in range(5):
        torch.cuda.synchronize(); began,n = time.perf_counter(),0
        while time.perf_counter()-began<.25: go(4); n += 4
        torch.cuda.synchronize(); laps.append((time.perf_counter()-began)/n)
    row = dict(recipe=name, batch=batch, patch=patch, net=[net['width'],net['blocks']], compiled=compiled, ms=round(1e3*median(laps),2), spread=[round(1e3*f(laps),2) for f in (min,max)],
               work=ops, waited=round((feed.waited-wait)/sum(laps)/4, 5), waits=waits(go), kernels=kernels(go))
    feed.close()
    print({k:v for k,v in row.items() if k!='kernels'}, f'{batch/median(laps):,.0f} images/s', f'{ops/median(laps)/top:.1%} of the rate' if ops else '', flush=True)
    return row

def widths(top, batch=64, side=48, channels=(32,48,64,96,128,192,256), n=40):
    "Share of the rate that one 3x3 convolution reaches, by its channels: forward, and both halves of its gradient"
    def share(f, ops):
        for _ in range(5): f()                                     # cuDNN makes its choice
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):                              # started as one: the processor is left out
            for _ in range(n): f()
        graph.replay(); torch.cuda.synchronize(); began = time.perf_counter()
        graph.replay(); torch.cuda.synchronize()
        return ops/((time.perf_counter()-began)/n)/top
    make = lambda *shape: torch.randn(*shape, device='cuda', dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    def row(c):
        x,k,g,ops = make(batch,c,side,side),make(c,c,3,3),make(batch,c,side,side),2*batch*side*side*c*c*9
        back = lambda *which: lambda: torch.ops.aten.convolution_backward(g, x, k, None, [1,1], [1,1], [1,1], False, [0,0], 1, which)
        return dict(width=c, forward=share(lambda: torch.conv2d(x, k, None, 1, 1), ops), input=share(back(True,False,False), ops), weight=share(back(False,True,False), ops))
    with tuned(): return [row(c) for c in channels]

if __name__ == '__main__':
    if not torch.cuda.is_available(): sys.exit('.ci/gpu.py: there is no CUDA GPU here')
    top = rate(torch.bfloat16, 'cuda')
    res = dict(device=torch.cuda.get_device_name(), torch=torch.__version__, rate=top, widths=widths(top), rows=[measure(*c, top) for c in CASES])
    if sys.argv[1:]: Path(sys.argv[1]).write_text(json.dumps(res, indent=1))
