"""From a command line and YAML files to a settings object, or to one clear line and an exit code."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from .errors import Diverged, SettingsError

__all__ = ["EXIT_BAD_SETTINGS", "EXIT_FAILED", "parse", "run_script"]

EXIT_FAILED = 1
EXIT_BAD_SETTINGS = 2  # nothing has been done: a setting is wrong
EXIT_INTERRUPTED = 130  # what shells return after Ctrl-C

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
    """Raise a ValueError that names the file, where jsonargparse would speak of its own insides."""
    sections = [field.name for field in dataclasses.fields(config) if dataclasses.is_dataclass(field.type)]
    after_flag = [word for flag, word in pairwise(words) if flag == "--config"]
    joined = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    for path in filter(Path.is_file, map(Path, after_flag + joined)):
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeError) as error:
            raise ValueError(f"{path} is no YAML: {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path} must hold settings, one 'name: value' a line, got {content!r:.50}")
        for name in sections:
            if name in content and not isinstance(content[name], dict):
                raise ValueError(f"{path}: {name} must hold settings, one 'name: value' a line, got {content[name]!r}")


def _bare_flags(arguments: Sequence[str]) -> list[str]:
    """Let ``--resume`` stand for ``--resume true``: a switch without a value is what people type."""
    switches = ("--resume", "--json", "--cpu")
    following = [*arguments, "--"][1:]
    return [
        f"{a}=true" if a in switches and f.startswith("--") else a for a, f in zip(arguments, following, strict=True)
    ]


def _leave(message: str, code: int) -> NoReturn:
    line = "; ".join(part.strip() for part in message.splitlines() if part.strip())
    line = line.replace("Parser key ", "setting ").replace(":;", ":")
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)
