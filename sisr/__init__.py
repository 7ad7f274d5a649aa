"A photo in, a four-times larger photo out. `import sisr` is light: each public name is fetched from its module when first used."
__version__ = "0.1.0"

_homes = dict(images='SisrError Picture open_image to_tensor to_pil show sample samples', resize='upscale downscale pinv consistent',
              metrics='Protocol evaluate', data='ImageSet', generators='SRResNet', saving='load_model save_model models',
              figures='sheet compare', trainer='Trainer', recipes='RECIPES', training='train', upscaler='Upscaler', panel='Panel')
_home = {name: module for module, names in _homes.items() for name in names.split()}
__all__ = sorted(_home)

def __getattr__(name):
    if name not in _home: raise AttributeError(f"module 'sisr' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f'sisr.{_home[name]}'), name)

def __dir__(): return sorted(__all__ + ['__version__'])
