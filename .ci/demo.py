"""`make demo`: the main job and a small training, by the command line a user would type; everything lands in demo/."""
import shutil, subprocess, sys, time
from pathlib import Path

ROOT, SISR = Path(__file__).resolve().parent.parent, Path(sys.executable).parent/'sisr'
OUT, RUN, PHOTOS = Path('demo'), Path('demo/run'), Path('sisr/samples')

def sisr(*args):
    "Run `sisr` and show what is run"
    print('\n$ sisr', *args, flush=True)
    if code := subprocess.run([SISR, *args], cwd=ROOT).returncode: sys.exit(code)

def main():
    start, photo = time.time(), PHOTOS/'kitten.jpg'
    shutil.rmtree(ROOT/RUN, ignore_errors=True)                            # the training starts anew; the rest is written over
    sisr('upscale', photo, '-o', OUT/'upscaled.png')
    sisr('sheet', photo, '-o', OUT/'sheet.png')
    print('\nNow a small network of our own: about two minutes on two cores.')
    sisr('train', '--recipe', 'photos-x4', '--data', PHOTOS, '--out', RUN, '--quick')
    sisr('sheet', photo, '--model', RUN/'model.safetensors', '-o', OUT/'sheet-trained-here.png')
    shutil.copy(ROOT/RUN/'curve.png', ROOT/OUT/'curve.png')
    made = ', '.join(str(OUT/f) for f in ('upscaled.png', 'sheet.png', 'sheet-trained-here.png', 'curve.png'))
    print(f'\nDone in {time.time()-start:.0f} s. Look at {made}')

if __name__ == '__main__': main()
