"""`make test`: every notebook, then every test. pytest comes last, so its line ends the run.

The tests in tests/ also hold the modules, README and docs against the notebooks, and try the wheel in a clean environment."""
import os, subprocess, sys
from pathlib import Path

ROOT, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
workers = min(cores, 4)                                  # notebooks at a time

def run(*cmd, threads):
    "The exit status of a command that may use so many threads"
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MPLBACKEND='Agg', PYTHONWARNINGS='ignore')
    return subprocess.run(cmd, cwd=ROOT, env=env).returncode

print(f'notebooks, {workers} at a time', flush=True)
notebooks = run(BIN/'nbdev_test', '--n_workers', str(workers), '--do_print', '--timing', threads=max(1, cores//workers))
tests = run(sys.executable, '-m', 'pytest', threads=cores)
if notebooks: print('the notebooks above failed too', file=sys.stderr)
sys.exit(notebooks or tests)
