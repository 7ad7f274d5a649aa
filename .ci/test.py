"""`make test`: every notebook, then every test. pytest comes last, so its line ends the run.

The tests in tests/ also hold the modules, README and docs against the notebooks, and try the wheel in a clean environment."""
import multiprocessing as mp, os, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
workers = min(cores, 4)                                  # notebooks at a time

def run(*cmd, threads):
    "The exit status of Python with these arguments, which may use so many threads"
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), MPLBACKEND='Agg', PYTHONWARNINGS='ignore')
    return subprocess.run([sys.executable, *cmd], cwd=ROOT, env=env).returncode

def notebooks():
    "What `nbdev_test` does, but a process for each notebook: what one leaves behind (threads, Accelerate's state) is not there for the next"
    from nbdev.doclinks import nbglob
    files, server = sorted(f.absolute() for f in nbglob(as_path=True)), mp.get_context('forkserver')
    server.set_forkserver_preload(['torch', 'matplotlib.pyplot', 'nbdev.test'])         # imported once
    with ProcessPoolExecutor(workers, server, max_tasks_per_child=1) as pool:
        passed = list(pool.map(test_one, files))
    for seconds, name in sorted(((s, f.name) for f, (_, s) in zip(files, passed)), reverse=True): print(f'{seconds:4.0f} s  {name}')
    failed = [f.name for f, (ok, _) in zip(files, passed) if not ok]
    if failed: print(f'\nnotebooks that failed: {" ".join(failed)}', file=sys.stderr)
    return bool(failed)

def test_one(f):
    from nbdev.config import get_config
    from nbdev.test import test_nb
    return test_nb(f, get_config().tst_flags.split(), do_print=True, basepath=ROOT)

def main():
    print(f'notebooks, {workers} at a time', flush=True)
    failed = run(__file__, 'notebooks', threads=max(1, cores//workers))
    tests = run('-m', 'pytest', threads=cores)
    if failed: print('the notebooks above failed too', file=sys.stderr)
    return failed or tests

if __name__ == '__main__': sys.exit(notebooks() if sys.argv[1:] == ['notebooks'] else main())
