"""How fast a step of ours is beside a plain PyTorch loop: `python .ci/speed.py`, on a machine with nothing else to do.

The plain loop is sisr.plain, ours is `Trainer.step`: same process, threads, images and optimiser, turn by turn
(plain, ours, plain, ours...). 'faithful' has the same networks and losses in both; 'lean' and 'recommended' have ours as the
library would train. A ratio above 1 says that ours is the faster. The parts of our steps are timed one by one, each with
its backward pass. Goes to nbs/results/gan-speed.json, or to --out."""
import argparse, json, platform, tempfile
from pathlib import Path
from statistics import median
import torch

from sisr.adversary import Adversary
from sisr.duel import duel, plain_step, seconds
from sisr.degradations import Bicubic
from sisr.experiments import PSNR, QUESTIONS, step_costs
from sisr.generators import SRResNet
from sisr.images import from_uint8
from sisr.losses import PerceptualLoss
from sisr.recipes import LEAN
from sisr.resize import consistent
from sisr.stages import Stage
from sisr.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'

FAITHFUL = dict(net=dict(sn=True), content='mse', vgg=dict(layers=dict(conv4_4=1.), squared=True, raw=True), hard=False)
OURS = dict(faithful={**FAITHFUL, 'd':'srgan', 'arch':dict(width=64, bn=True, sn=True)},
            lean=dict(net=LEAN, content='l1', vgg={}, hard=True, d='unet', arch=dict(width=32)),
            recommended=dict(net=LEAN, content='l1', vgg={}, hard=True, d='srgan', arch=dict(width=32)))

def ours(how, patch):
    "A trainer and the stage it is in; float32 as the plain loop, no replay, which that has not either"
    arch = {**how['arch'], **(dict(size=patch) if how['d']=='srgan' else {})}
    t = Trainer(SRResNet(4, **how['net']).train(), None, Bicubic(4), tempfile.gettempdir(), adversary=Adversary(how['d'], arch, replay=0),
                losses=dict(vgg=PerceptualLoss(**how['vgg'])), hard=how['hard'], precision='no', show=False)
    t.weight = 1e-3
    return t,Stage('both', 1, 1e-4, losses={how['content']:1., 'vgg':.1}, rate_d=1e-4, adversary=1e-3)

def parts(t, stage, batch, n):
    "Median seconds of each part of a step of ours, alone; `G` without `consistent`, `optimiser` that of G"
    hr = from_uint8(batch).to(DEVICE).contiguous(memory_format=torch.channels_last)
    lr = t.degrade(hr)
    sr = t.net(lr).detach()
    leaf = lambda: sr.clone().requires_grad_()
    gs = dict(LR=lambda: t.degrade(hr),
              G=lambda: t.net(lr).backward(torch.ones_like(sr)),
              **({'consistent':lambda: consistent(leaf(), lr).sum().backward()} if t.hard else {}),
              **{'D.learn':lambda: t.adversary.learn(hr, sr, stage.rate_d),
                 'D.judge':lambda: t.adversary.judge(leaf(), hr).backward(),
                 'VGG':lambda: t.loss('vgg')(leaf(), hr).backward(),
                 'optimiser':t.opt.step, 'EMA':lambda: t.ema.update(t.net, 0)})
    def one(f): f(); return median(seconds(f, DEVICE) for _ in range(n))
    return {name: one(f) for name,f in gs.items()}

def main(batch, patch, pairs, out):
    torch.manual_seed(0)
    hr = torch.randint(0, 256, (batch,3,patch,patch), dtype=torch.uint8)
    name = torch.cuda.get_device_name() if DEVICE=='cuda' else f'cpu {platform.machine()}'
    res = dict(device=name, threads=torch.get_num_threads(), torch=str(torch.__version__), batch=batch, patch=patch, turns=pairs, pairs={}, parts={})
    base = plain_step(hr, DEVICE)
    for how,what in OURS.items():
        t,stage = ours(what, patch)
        on = hr.to(DEVICE)
        res['pairs'][how] = duel(base, lambda: t.step(on, stage), pairs, DEVICE)
        res['parts'][how] = {**parts(t, stage, hr, pairs), 'whole':res['pairs'][how]['ours']['median']}
        print(how, 'plain over ours:', {k: round(v,2) for k,v in res['pairs'][how]['ratio'].items()},
              {k: f'{v/res["parts"][how]["whole"]:.0%}' for k,v in res['parts'][how].items() if k!='whole'}, flush=True)
    Path(out).write_text(json.dumps(res)+'\n')
    growth(res)

def growth(told):
    "What a step costs while a network grows, for the questions about that; goes to growth-cost.json beside the rest"
    torch.set_num_threads(1)
    costs = {q: step_costs(QUESTIONS[q]) for q in PSNR}
    (ROOT/'nbs'/'results'/'growth-cost.json').write_text(json.dumps(dict(device=told['device'], torch=told['torch'], threads=1, seconds=costs))+'\n')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name,default in dict(batch=4, patch=96, pairs=5).items(): p.add_argument(f'--{name}', type=int, default=default)
    p.add_argument('--out', default=str(ROOT/'nbs'/'results'/'gan-speed.json'))
    main(**vars(p.parse_args()))
