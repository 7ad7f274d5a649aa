"""What the page without pairs shows of its trials: `python .ci/unsupervised.py RUNS`, with SISR_DATA naming the folder of test images.

RUNS is the folder that `sisr.trials` trained in. `faces-x4-unsupervised` is shipped from the first run of ours, measured; SR of four people
by the report's model, both trainings as they went, the network for photographs, and what other layers of VGG19 would have said of its
states go to nbs/results, which the page draws from."""
import json, os, sys
from pathlib import Path
import torch
from PIL import Image
from sisr.data import ImageSet
from sisr.images import Picture, from_uint8, image_files
from sisr.resize import consistent, middle
from sisr.metrics import Protocol, evaluate
from sisr.figures import read_history
from sisr.frechet import Frechet
from sisr.saving import load_model, save_model
from sisr.training import trainer
from sisr.trials import TRIALS, moments, sets
from sisr.upscaler import Upscaler
import ship

RESULTS = ship.ROOT/'nbs'/'results'
PEOPLE = (7,62,141,333)                                            # of faces/val, as the page names them
FACES = (2,3)                                                      # of the frames of a run

def people(model, to):
    "SR of four people, side by side"
    faces, up, p = image_files(f"{os.environ['SISR_DATA']}/faces/val"), Upscaler.from_pretrained(model, 'cpu'), Protocol.named('faces128')
    Picture.of(torch.cat([up.tensor(p.pair(faces[i], 4)[0]) for i in PEOPLE], -1)).to_pil().save(to)

def film(runs, to, side=128):
    "Two people at five moments of each training: a row for each person and run"
    rows = [[Image.open(run/'frames'/f'{k:08d}.png').crop((side*i, 0, side*(i+1), side)) for k in moments(read_history(run))] for i in FACES for run in runs]
    sheet = Image.new('RGB', (side*len(rows[0]), side*len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row): sheet.paste(picture, (side*x, side*y))
    sheet.save(to, quality=92)

def states(run):
    "The network from before D, which was chosen, and what settling with D had made of it when the run went back to it for good"
    chosen = load_model(run/'model.safetensors')
    last = type(chosen)(**{**chosen.arch, 'sn': False}).eval()
    last.load_state_dict(torch.load(sorted(run.glob('*.pt'))[-2], weights_only=True)['ema'])
    return {'before D': chosen, 'settled with D': last}

@torch.no_grad()
def judged(runs, to, seeds=(0,1,2), layers=('conv2_2','conv3_4','conv4_4','conv5_4')):
    "Both states of each run on photographs, by the Frechet distance of several layers, and by pairs"
    (lr, hr), test, p = sets('photographs', os.environ['SISR_DATA'], runs/'photographs'/'lr')
    nets, rows = {(s, k): n for s in seeds for k, n in states(runs/'photographs'/str(s)).items()}, {}
    t = trainer(TRIALS['photographs'], nets[seeds[0],'settled with D'], hr, runs/'judged', lr=lr, show=False)
    aside = [x for _, x in t.val.lrs]
    real = [x for x in (from_uint8(middle(u[None], 256)) for u in ImageSet(hr[::2]) if min(u.shape[-2:])>=256)]
    for key, net in nets.items():
        on = lambda x: consistent(net(x), x).clamp(-1, 1)
        rows[key] = dict(seed=key[0], state=key[1], n=len(aside), **evaluate(lambda x: consistent(net(x), x), test, 4, p)['mean'], frechet={}), [on(x) for x in aside]
    for layer in layers:
        f = Frechet(real, layer)
        for row, srs in rows.values(): row['frechet'][layer] = round(f(srs), 4)
    to.write_text(json.dumps([row for row, _ in rows.values()], indent=1)+'\n')

@torch.no_grad()
def paired(run, to):
    "With pairs the rule kept the state from before D too: what it was worth, and what settling with D made of it, on faces/val"
    _, test, p = sets('with pairs, as long', os.environ['SISR_DATA'], run.parent/'lr')
    to.write_text(json.dumps({k: evaluate(lambda x: consistent(net(x), x), test, 4, p)['mean'] for k, net in states(run).items()}, indent=1)+'\n')

def main(runs):
    runs = Path(runs)
    theirs, ours = runs/"the report's"/'2', runs/'ours'/'0'
    people(theirs/'model.safetensors', RESULTS/'unsupervised-2019.png')
    film((theirs, ours), RESULTS/'unsupervised-film.jpg')
    paired(runs/'with pairs, as long'/'0', RESULTS/'unsupervised-paired.json')
    judged(runs, RESULTS/'unsupervised-states.json')
    save_model(load_model(runs/'photographs'/'0'/'model.safetensors'), RESULTS/'unsupervised-photos.safetensors')
    ship.main('faces-x4-unsupervised', ours)

if __name__ == '__main__': main(*sys.argv[1:])
