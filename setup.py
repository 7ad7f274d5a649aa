"Reads settings.ini, the one place for metadata, and hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path
from shlex import split
from setuptools import find_namespace_packages, setup

ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_name']
extras = {name: split(cfg[f'{name}_requirements']) for name in split(cfg['extras'])}
extras['all'] = sum(extras.values(), [])
extras['dev'] = split(cfg['dev_requirements'])+extras['all']                # tests want everything

setup(
    name=lib, version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], license='Apache-2.0', license_files=['LICENSE'],
    long_description=Path('README.md').read_text(encoding='utf-8') if Path('README.md').exists() else '',
    long_description_content_type='text/markdown',
    python_requires=f">={cfg['min_python']}",
    install_requires=split(cfg['requirements']), extras_require=extras,
    packages=find_namespace_packages(include=[lib, f'{lib}.*'], exclude=['*.__pycache__']),
    package_data={'': split(cfg['package_data'])}, zip_safe=False,
    entry_points={'console_scripts': split(cfg['console_scripts']), 'nbdev': [f'{lib}={lib}._modidx:d']},
    classifiers=['Development Status :: 4 - Beta', 'Intended Audience :: Developers', 'Intended Audience :: Science/Research',
                 f"Programming Language :: Python :: {cfg['min_python']}", 'Topic :: Scientific/Engineering :: Image Processing'],
)
