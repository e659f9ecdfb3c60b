"""What the scripts in ``scripts/`` are made of. Needs the extra ``[train]``; the core package imports none of it."""

from importlib.util import find_spec

_NEEDED = ("accelerate", "jsonargparse", "matplotlib", "PIL", "scipy", "sklearn", "tqdm", "yaml")
_missing = [name for name in _NEEDED if find_spec(name) is None]
if _missing:
    raise ImportError(
        f"stodepth_models.training needs {', '.join(_missing)}: pip install 'stodepth_models[train]', "
        "or in a checkout pip install -e '.[train]'"
    )
