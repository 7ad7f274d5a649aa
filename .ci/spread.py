"""Where trainings with other seeds disagree: `python .ci/spread.py DATA NETWORK NETWORK ...`, a minute.

NETWORKs are files of faces-x8-gan trained from one faces-x8 with several seeds (`sisr train --recipe faces-x8-gan --set seed=N`;
those of the page are of earlier recipes). What they make of two people goes to nbs/results/x8-seeds.png, a row each; how far they are
from one another and from the truth, on every fifth face, to nbs/results/x8-spread.json. The page Eight times draws from both."""
import json, sys
from pathlib import Path
import numpy as np, torch
from sisr.images import image_files, to_pil
from sisr.metrics import Protocol, lr_psnr, luma
from sisr.upscaler import Upscaler

PEOPLE = (7, 141)                                                  # whom the page shows
gray = lambda x: (luma(x)[0,0]-16)*255/219
rms = lambda d: float(d.square().mean().sqrt())

def row(lr, hr, sr, l1):
    "Distances in gray levels"
    y,t = torch.stack([gray(s) for s in sr]),gray(hr); error = (y.mean(0)-t).abs()
    return dict(apart=np.mean([rms(y[a]-y[b]) for a in range(len(y)) for b in range(a)]), wrong=np.mean([rms(s-t) for s in y]), mean_wrong=rms(y.mean(0)-t),
                l1_wrong=rms(gray(l1)-t), r=np.corrcoef(y.std(0).flatten(), error.flatten())[0,1], lr_psnr=min(float(lr_psnr(s,lr)) for s in sr))

if __name__ == '__main__':
    data,*files = map(Path, sys.argv[1:])
    faces,to,protocol = image_files(data/'faces'/'val'),Path(__file__).parent.parent/'nbs'/'results',Protocol.named('faces128')
    seeds,l1 = [Upscaler.from_pretrained(str(f), 'cpu') for f in files],Upscaler.from_pretrained('faces-x8', 'cpu')
    pairs = lambda numbers: [protocol.pair(faces[i], 8) for i in numbers]
    to_pil(torch.cat([torch.cat([up.tensor(lr) for up in seeds], -1) for lr,_ in pairs(PEOPLE)], -2)).save(to/'x8-seeds.png')
    rows = [row(lr, hr, [up.tensor(lr) for up in seeds], l1.tensor(lr)) for lr,hr in pairs(range(0, len(faces), 5))]
    (to/'x8-spread.json').write_text(json.dumps(dict(seeds=len(seeds), **{k: [round(float(r[k]),4) for r in rows] for k in rows[0]}))+'\n')
