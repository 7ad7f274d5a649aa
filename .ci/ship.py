"""Put a trained network into the package: `python .ci/ship.py NAME RUN`, with SISR_DATA naming the folder of test images.

RUN is the folder of a finished training. Its network is measured on the sets of the report page, the numbers go into the
file's header and the file to sisr/weights/NAME.safetensors; history and numbers go to nbs/results/NAME.json, which the
pages draw from."""
import hashlib, json, os, sys
from pathlib import Path
from sisr.saving import load_model, save_model
from sisr.metrics import Protocol, evaluate
from sisr.upscaler import Upscaler

ROOT = Path(__file__).resolve().parent.parent
SETS = {'standard': {s: f'benchmarks/{s}' for s in ('Set5','Set14','BSD100')}, 'faces128': {'faces/val': 'faces/val'}}

def rows(name, file, data, protocol):
    "One row of the results table per test set"
    up = Upscaler.from_pretrained(file)
    for s, folder in SETS[protocol].items():
        r = evaluate(up.tensor, f'{data}/{folder}', up.scale, Protocol.named(protocol))
        print(s, {k: round(v, 4) for k, v in r['mean'].items()}, flush=True)
        yield dict(set=s, scale=up.scale, n=r['n'], protocol=protocol, model=name, **r['mean']), r['versions']

def main(name, run):
    data, source, goal = os.environ['SISR_DATA'], Path(run)/'model.safetensors', ROOT/'sisr'/'weights'/f'{name}.safetensors'
    net = load_model(source)
    known = load_model(goal).info if goal.exists() else {}
    for k in ('licence','note'): net.info.setdefault(k, known.get(k))   # what a run does not know, of the network that it replaces
    if not all(net.info[k] for k in ('licence','note')): sys.exit(f'{name} is new: write licence and note into the header of {source}')
    table, versions = zip(*rows(name, source, data, net.info['protocol']))
    save_model(net, goal, numbers={r['set']: round(r['psnr_y'], 2) for r in table})
    history = [json.loads(l) for l in open(Path(run)/'history.jsonl')]
    res = dict(rows=table, versions=versions[0], weights=hashlib.sha256(goal.read_bytes()).hexdigest()[:16], history=history)
    (ROOT/'nbs'/'results'/f'{name}.json').write_text(json.dumps(res)+'\n')
    print(f'{goal}: {goal.stat().st_size/1e6:.2f} MB')

if __name__ == '__main__': main(*sys.argv[1:])
