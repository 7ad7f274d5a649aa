"""`make test`: every notebook, then every test. pytest comes last, so its line ends the run.

The tests in tests/ also hold the modules, README and docs against the notebooks, and try the wheel in a clean environment."""
import os, subprocess, sys
from pathlib import Path

ROOT, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
workers = max(1, min(cores//2, 4))                       # notebooks at a time
env = dict(os.environ, OMP_NUM_THREADS=str(max(1, cores//workers)), MPLBACKEND='Agg', PYTHONWARNINGS='ignore')

def run(*cmd): return subprocess.run(cmd, cwd=ROOT, env=env).returncode

print(f'notebooks, {workers} at a time', flush=True)
notebooks = run(BIN/'nbdev_test', '--n_workers', str(workers), '--do_print', '--timing')
tests = run(sys.executable, '-m', 'pytest', '-q')
if notebooks: print('the notebooks above failed too', file=sys.stderr)
sys.exit(notebooks or tests)
