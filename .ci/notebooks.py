"""Run notebooks for real and keep their outputs: `python .ci/notebooks.py nbs/00_images.ipynb ...` (default: all, in order).

One kernel at a time, in the notebook's own folder. Cells with `#| eval: false` keep what they have; a notebook with
`skip_exec: true` is left alone. Outputs are cleaned so that a second run changes as little as possible: no execution counts,
timing, memory addresses, widget state or paths of this machine; and charts are stored in 256 colours, photographs as JPEG,
where that is far fewer bytes.
On an error the file stays as it was and the exit status is 1."""
import os, re, sys, time
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
import nbformat
import numpy as np
from PIL import Image
from nbformat.v4.rwbase import split_lines
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from execnb.nbio import dict2nb, write_nb
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parent.parent
EVAL_FALSE = re.compile(r'^\s*#\|\s*eval:\s*false', re.M | re.I)

class Client(NotebookClient):
    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if cell.cell_type == 'code' and EVAL_FALSE.search(cell.source): return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)

def neutral(x):
    "`x` (text, list or dict of an output) without the paths of this machine"
    if isinstance(x, dict): return {k: v if k.startswith('image/') else neutral(v) for k, v in x.items()}
    if isinstance(x, list): return [neutral(o) for o in x]
    if not isinstance(x, str): return x
    for path, name in ((os.environ.get('SISR_DATA'), 'data'), (str(ROOT), '.'), (str(Path.home()), '~')):
        if path and len(path) > 1: x = x.replace(path.rstrip('/'), name)
    return x

def picture(png):
    "A PNG (base64) as an image, and whether it is a chart, which is mostly paper: at least half of it is of one colour. None, where it has few colours already or is seen through"
    img = Image.open(BytesIO(b64decode(png)))
    if img.mode == 'P' or img.convert('RGBA').getextrema()[3] != (255, 255): return None, False
    rgb = img.convert('RGB')
    return rgb, 2*max(n for n, _ in rgb.getcolors(rgb.width*rgb.height)) >= rgb.width*rgb.height

def light(png, most=16):
    "A PNG (base64) of a chart in 256 colours, if no value of 0..255 changes by more than `most`; other pictures as they are"
    rgb, chart = picture(png)
    if not chart: return png
    few = rgb.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    if np.abs(np.asarray(few.convert('RGB'), int)-np.asarray(rgb, int)).max() > most: return png
    few.save(file := BytesIO(), 'PNG', optimize=True)
    return min(png, b64encode(file.getvalue()).decode(), key=len)

def photo(png, worth=.8, quality=88):
    "A PNG (base64) of photographs as a JPEG with all its colours, if that has at most `worth` of the bytes; else None"
    rgb, chart = picture(png)
    if chart or not rgb: return None
    rgb.save(file := BytesIO(), 'JPEG', quality=quality, subsampling=0, optimize=True)
    jpeg = b64encode(file.getvalue()).decode()
    return jpeg if len(jpeg) <= worth*len(png) else None

def tidy(outputs):
    "Consecutive pieces of one stream joined, as printed"
    res = []
    for o in outputs:
        last = res[-1] if res else {}
        if o['output_type'] == 'stream' == last.get('output_type') and o['name'] == last['name']: last['text'] += o['text']
        else: res.append(o)
    for o in res:
        if png := o.get('data', {}).pop('image/png', None):
            jpeg = photo(few := light(png))
            o['data']['image/jpeg' if jpeg else 'image/png'] = jpeg or few
    return [nbformat.from_dict(neutral(o)) for o in res]

def run(path):
    "Execute the notebook at `path` and write its outputs back"
    nb = nbformat.read(path, as_version=4)
    if nb.cells and re.search(r'^skip_exec:\s*true', nb.cells[0].source, re.M): return print(f'{path.name}: skipped, as it asks')
    start = time.time()
    Client(nb, timeout=None, kernel_name='python3', store_widget_state=False, record_timing=False, extra_arguments=['--log-level=40'],
           resources={'metadata': {'path': str(path.parent)}}).execute()
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs = tidy(c.outputs)
    clean_nb(nb, allowed_cell_metadata_keys=['tags'])
    write_nb(dict2nb(split_lines(nb)), path)
    print(f'{path.name}: {time.time()-start:.0f} s', flush=True)

def main(names):
    os.environ.setdefault('PYTHONWARNINGS', 'ignore')
    files = [Path(n).resolve() for n in names] or sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not re.search(r'/[._]', str(p.relative_to(ROOT))))
    bad = []
    for f in files:
        try: run(f)
        except (CellExecutionError, RuntimeError) as e:
            print(f'{f.name}: FAILED\n{e}', file=sys.stderr, flush=True)
            bad.append(f.name)
    if bad: print(f'failed: {" ".join(bad)}', file=sys.stderr)
    return 1 if bad else 0

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
