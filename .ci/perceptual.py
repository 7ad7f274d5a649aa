"""The table of the adversary's page: `python .ci/perceptual.py`, with SISR_DATA naming the folder of test images.

Measures bicubic, A+ y and the shipped face networks on faces/val with a perceptual distance, into nbs/results/perceptual.json."""
import json, os
from pathlib import Path
from sisr.metrics import Pairs, Protocol, evaluate
from sisr.images import image_files
from sisr.resize import pinv
from sisr.upscaler import Upscaler

ROOT = Path(__file__).resolve().parent.parent

def main():
    p = Protocol.named('faces128')
    pairs = Pairs(image_files(f'{os.environ["SISR_DATA"]}/faces/val'), 4, p)
    up = lambda name, **kw: Upscaler.from_pretrained(name, 'cpu', **kw).tensor
    methods = {'bicubic': lambda lr: p.bicubic(lr, 4), 'A+ y': lambda lr: pinv(lr, 4), 'L1': up('faces-x4'),
               'GAN, rules of 2019': up('faces-x4-gan-2019', consistent=False),
               'GAN, rules of 2019, made consistent': up('faces-x4-gan-2019'), 'GAN, ours': up('faces-x4-gan')}
    rows = []
    for name, f in methods.items():
        r = evaluate(f, pairs)
        rows.append(dict(model=name, n=r['n'], **r['mean']))
        print(rows[-1], flush=True)
    (ROOT/'nbs'/'results'/'perceptual.json').write_text(json.dumps({'faces/val': rows, 'versions': r['versions']}, indent=1)+'\n')

if __name__ == '__main__': main()
