"""What further versions of few images are worth: `python .ci/versions.py DATA`, half an hour on one core.

`faces-x8` goes on at its first rate on 300 faces, as they are or in eight versions each, for three seeds; measured at each look on
100 faces of other people. Rows go to nbs/results/versions.jsonl; those it holds are not made again."""
import json, sys, tempfile
from dataclasses import replace
from pathlib import Path
from sisr.images import image_files
from sisr.recipes import recipe
from sisr.stages import Stage
from sisr.training import begun, trainer
from sisr.determinism import seed_everything

data,out = Path(sys.argv[1]),Path(__file__).parent.parent/'nbs'/'results'/'versions.jsonl'
have = [json.loads(l) for l in out.read_text().splitlines()] if out.exists() else []
for seed in (0, 1, 2):
    for versions in (1, 8):
        if any((r['seed'],r['versions'])==(seed,versions) for r in have): continue
        r = replace(recipe('faces-x8'), stages=(Stage('x8', 800, 1e-3, shape='flat'),), versions=versions, seed=seed, look=100, precision='bf16')
        faces = image_files(data/'faces'/'train')[seed*300:(seed+1)*300]
        seed_everything(seed)
        t = trainer(r, begun(r, 'faces-x8', faces), faces, tempfile.mkdtemp(), val=image_files(data/'faces'/'val')[::5], show=False, save=100)
        looks = [[0, t.validate()['psnr_y']]]
        looks += [[h['step'], h['psnr_y']] for h in t.fit(r.stages) if 'psnr_y' in h]
        l1 = [[h['step'], h['l1']] for h in t.history if 'l1' in h]
        with open(out, 'a') as f: f.write(json.dumps(dict(seed=seed, versions=versions, faces=len(faces), looks=looks, l1=l1, device='CPU, 1 thread'))+'\n')
        print(seed, versions, looks[0][1], looks[-1][1], flush=True)
