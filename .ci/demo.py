"""`make demo`: the main job and a small training, by the command line a user would type; everything lands in demo/."""
import shutil, subprocess, sys, time
from pathlib import Path

ROOT, SISR = Path(__file__).resolve().parent.parent, Path(sys.executable).parent/'sisr'
OUT, RUN, SAMPLES = Path('demo'), Path('demo/run'), Path('sisr/samples')

def sisr(*args):
    "Run `sisr` and show what is run"
    print('\n$ sisr', *args, flush=True)
    if code := subprocess.run([SISR, *args], cwd=ROOT).returncode: sys.exit(code)

def main():
    start, photo, others = time.time(), SAMPLES/'kitten.jpg', OUT/'photos'
    for old in others, RUN: shutil.rmtree(ROOT/old, ignore_errors=True)
    shutil.copytree(ROOT/SAMPLES, ROOT/others, ignore=shutil.ignore_patterns(photo.name))    # what is shown is not what is learnt from
    sisr('upscale', photo, '-o', OUT/'upscaled.png')
    sisr('sheet', photo, '-o', OUT/'sheet.png')
    print('\nNow a small network of our own: about two minutes on two cores.')
    sisr('train', '--recipe', 'photos-x4', '--data', others, '--out', RUN, '--quick')
    sisr('sheet', photo, '--model', RUN/'model.safetensors', '-o', OUT/'sheet-trained-here.png')
    shutil.copy(ROOT/RUN/'curve.png', ROOT/OUT/'curve.png')
    made = ', '.join(str(OUT/f) for f in ('upscaled.png', 'sheet.png', 'sheet-trained-here.png', 'curve.png'))
    print(f'\nDone in {time.time()-start:.0f} s. Look at {made}')

if __name__ == '__main__': main()
