"What tests share: CUDA tests skip without it; the real data is used where SISR_DATA names its folder; a copy of the checkout to work in."
import importlib.util, os, random, shutil
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
CPU = {**os.environ,'CUDA_VISIBLE_DEVICES':''}                      # where a GPU is hidden: bits repeat without being asked to; test_gpu.py asks a GPU

def chance():
    "Random moments, other ones each time; a test that fails prints what they came from"
    seed = int.from_bytes(os.urandom(4), 'big'); print(f'random.Random({seed})')
    return random.Random(seed)

def pytest_collection_modifyitems(items):
    wanted = [i for i in items if i.get_closest_marker('gpu')]
    if not wanted: return
    import torch
    if not torch.cuda.is_available():
        for i in wanted: i.add_marker(pytest.mark.skip(reason='needs CUDA'))

@pytest.fixture(scope='session')
def root(): return ROOT

@pytest.fixture(scope='session')
def data():
    "The folder of real data"
    if not os.environ.get('SISR_DATA'): pytest.skip('SISR_DATA is not set')
    return Path(os.environ['SISR_DATA'])

def script(name):
    "One of the scripts in .ci/, as a module"
    spec = importlib.util.spec_from_file_location(f'sisr_{name}', ROOT/'.ci'/f'{name}.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod

@pytest.fixture(scope='session')
def site():
    "The maker of docs/ and README.md"
    return script('site')

@pytest.fixture(scope='session')
def runner():
    "What runs notebooks and keeps their outputs"
    return script('notebooks')

@pytest.fixture
def checkout(tmp_path):
    "A copy of what is committed or could be: notebooks, modules, packaging, docs"
    to = tmp_path/'checkout'
    to.mkdir()
    for n in 'nbs sisr docs .ci'.split():
        if (ROOT/n).exists(): shutil.copytree(ROOT/n, to/n, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for n in 'settings.ini pyproject.toml setup.py MANIFEST.in README.md LICENSE'.split():
        if (ROOT/n).exists(): shutil.copy2(ROOT/n, to/n)
    return to
