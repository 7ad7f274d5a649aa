"""The tables of the adversary's page: `python .ci/perceptual.py`, with SISR_DATA naming the folder of test images.

Measures bicubic, A+ y and the face networks of that page on faces/val with a perceptual distance, the networks between L1 and GAN
on every fifth of them, bicubic and A+ y at x2 and x8 too, and both and the network at x4 on BSD100, into nbs/results/perceptual.json."""
import json, os
from pathlib import Path
from sisr.metrics import Pairs, Protocol, evaluate
from sisr.images import image_files
from sisr.resize import pinv
from sisr.upscaler import Upscaler

ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = Protocol.named('faces128')

KEPT = [ROOT/'nbs'/'results'/f'adversary-{k}.safetensors' for k in ('l1','gan')]      # from the same start as the one of 2019, in the same time

def up(name, **kw): return Upscaler.from_pretrained(name, 'cpu', **kw).tensor

def table(methods, files, scale=4, protocol=PROTOCOL):
    "A row of means for each method, and the versions they were measured with"
    pairs, rows = Pairs(files, scale, protocol), []
    for name, f in methods.items():
        r = evaluate(f, pairs)
        rows.append(dict(model=name, n=r['n'], **r['mean']))
        print(rows[-1], flush=True)
    return rows, r['versions']

def main():
    faces = image_files(f'{os.environ["SISR_DATA"]}/faces/val')
    methods = {'bicubic': lambda lr: PROTOCOL.bicubic(lr, 4), 'A+ y': lambda lr: pinv(lr, 4), 'L1': up(KEPT[0]),
               'GAN, rules of 2019': up('faces-x4-gan-2019', consistent=False),
               'GAN, rules of 2019, made consistent': up('faces-x4-gan-2019'), 'GAN, ours': up(KEPT[1])}
    rows, versions = table(methods, faces)
    between, _ = table({**{k: methods[k] for k in ('bicubic', 'A+ y', 'GAN, rules of 2019')},
                        **{f'style {t}': up(KEPT, style=t) for t in (0, .25, .5, .75, 1)}}, faces[::5])
    plain = {s: table({'bicubic': lambda lr: PROTOCOL.bicubic(lr, s), 'A+ y': lambda lr: pinv(lr, s)}, faces, s)[0] for s in (2, 8)}
    standard = Protocol.named('standard')
    photos, _ = table({'bicubic': lambda lr: standard.bicubic(lr, 4), 'A+ y': lambda lr: pinv(lr, 4), 'L1': up('photos-x4-light')},
                      image_files(f'{os.environ["SISR_DATA"]}/benchmarks/BSD100'), 4, standard)
    (ROOT/'nbs'/'results'/'perceptual.json').write_text(json.dumps({'faces/val': rows, 'style': between, **{f'x{s}': t for s, t in plain.items()}, 'BSD100': photos, 'versions': versions}, indent=1)+'\n')

if __name__ == '__main__': main()
