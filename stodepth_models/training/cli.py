"""From a command line and YAML files to a settings object, or to one clear line and an exit code.

Every command imports this module first, so it is here that a missing extra ``[train]`` is reported.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, TypeVar

from .errors import Diverged, SettingsError

_EXTRA = ("accelerate", "jsonargparse", "matplotlib", "PIL", "scipy", "sklearn", "tensorboard", "tqdm", "yaml")
_missing = [name for name in _EXTRA if find_spec(name) is None]
if _missing:
    # The package is in no index: its name alone would install nothing, or what somebody else published under it.
    raise ImportError(
        f"this command needs {', '.join(_missing)}: pip install -e '.[train]' in a checkout, or "
        "pip install 'stodepth_models[train] @ git+https://github.com/OWNER/REPO'"
    )

import yaml  # noqa: E402 - after the check, whose message says what to do
from jsonargparse import ArgumentError, ArgumentParser  # noqa: E402

EXIT_FAILED = 1
EXIT_BAD_SETTINGS = 2  # nothing has been done: a setting is wrong
EXIT_INTERRUPTED = 130  # what shells return after Ctrl-C

_SWITCHES = ("--resume", "--json", "--cpu")

Config = TypeVar("Config")


def parse(config: type[Config], arguments: Sequence[str] | None = None, description: str = "") -> Config:
    """Return the settings that the command line gives, and leave the program with code 2 where it gives none.

    Args:
        config: dataclass of settings.
        arguments: without the program's name; None: those of this process.
        description: shown by ``--help``.
    """
    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file of settings; what follows it on the line wins")
    parser.add_class_arguments(config)
    try:
        words = _bare_flags(sys.argv[1:] if arguments is None else arguments)
        _check_files(words, config)
        settings = parser.parse_args(words)
        values = parser.instantiate(settings)
        return config(**{key: value for key, value in vars(values).items() if key != "config"})
    except (ArgumentError, TypeError, ValueError) as error:
        _leave(str(error), EXIT_BAD_SETTINGS)


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script's body and leave with its exit code; errors that a user can mend become one line.

    Args:
        main: returns an exit code, or None for 0.
    """
    try:
        code = main() or 0
    except (ValueError, OSError, Diverged) as error:
        _leave(str(error), EXIT_BAD_SETTINGS if isinstance(error, SettingsError) else EXIT_FAILED)
    except KeyboardInterrupt:
        _leave("interrupted", EXIT_INTERRUPTED)
    sys.exit(code)


def _check_files(words: Sequence[str], config: type) -> None:
    """Raise a ValueError that names the file, where jsonargparse would name its own classes."""
    sections = [field.name for field in dataclasses.fields(config) if dataclasses.is_dataclass(field.type)]
    after_flag = [word for flag, word in pairwise(words) if flag == "--config"]
    joined = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    for path in map(Path, after_flag + joined):
        if path.is_file():  # jsonargparse names a file that is not there
            _check_file(path, sections)


def _check_file(path: Path, sections: Sequence[str]) -> None:
    expected = "must hold settings, one 'name: value' a line"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} {expected}, got {content!r:.50}")
    for name in sections:
        if name in content and not isinstance(content[name], dict):
            raise ValueError(f"{path}: {name} {expected}, got {content[name]!r}")


def _bare_flags(arguments: Sequence[str]) -> list[str]:
    """Let ``--resume`` stand for ``--resume true``: a switch without a value is what people type."""
    words = []
    for word, following in pairwise([*arguments, "--"]):
        if word in _SWITCHES and following.startswith("--"):
            word = f"{word}=true"
        words.append(word)
    return words


def _leave(message: str, code: int) -> NoReturn:
    parts = [part.strip() for part in message.splitlines()]
    line = "; ".join(filter(None, parts))
    # jsonargparse speaks of parser keys.
    line = line.replace("Parser key ", "setting ").replace(":;", ":")
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)
