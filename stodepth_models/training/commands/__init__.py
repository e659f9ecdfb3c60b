"""What the command ``stodepth`` does: a module a command, each with a ``main`` that takes the words after its name."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn

from ..errors import MissingExtra
from ..exits import run_script

_NEED_NO_EXTRA = ("convert", "predict", "weights")
_EXTRA = ("accelerate", "jsonargparse", "matplotlib", "scipy", "sklearn", "tensorboard", "timm", "tqdm", "yaml")


def run(name: str, arguments: Sequence[str]) -> NoReturn:
    """Run a command and leave with its exit code; errors that a user can mend become one line.

    Args:
        name: of the command.
        arguments: of the command.
    """

    def main() -> int | None:
        if name not in _NEED_NO_EXTRA:
            require_extra()
        return import_module(f".{name}", __name__).main(arguments)

    run_script(main)


def require_extra() -> None:
    """Make sure that the packages of the extra ``[train]`` are installed.

    Raises:
        MissingExtra: some are not.
    """
    missing = [package for package in _EXTRA if find_spec(package) is None]
    if missing:
        raise MissingExtra(missing)
