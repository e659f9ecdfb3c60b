"""From a command line and YAML files to a settings object, or to one clear line and an exit code."""

import dataclasses
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from .exits import EXIT_BAD_SETTINGS, leave
from .recipes import find_recipe

_SWITCHES = ("--resume", "--json", "--cpu", "--classes_in_order")

Config = TypeVar("Config")


def parse(
    config: type[Config], arguments: Sequence[str] | None = None, description: str = "", program: str | None = None
) -> Config:
    """Return the settings that the command line gives, and leave the program with code 2 where it gives none.

    Args:
        config: dataclass of settings.
        arguments: without the program's name; None: those of this process.
        description: shown by ``--help``.
        program: name of the program in ``--help``; None: that of this process.
    """
    parser = ArgumentParser(prog=program, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "--config", action="config", help="YAML file of settings, or name of a recipe; what follows it on the line wins"
    )
    parser.add_class_arguments(config)
    try:
        words = _bare_flags(sys.argv[1:] if arguments is None else arguments)
        words = _with_files(words)
        _check_files(words, config)
        settings = parser.parse_args(words)
        values = parser.instantiate(settings)
        return config(**{key: value for key, value in vars(values).items() if key != "config"})
    except (ArgumentError, TypeError, ValueError) as error:
        leave(_in_plain_words(str(error)), EXIT_BAD_SETTINGS)


def _with_files(words: Sequence[str]) -> list[str]:
    """Put the file in the place of the name of a recipe."""
    found = []
    for before, word in pairwise(["", *words]):
        if before == "--config":
            word = str(find_recipe(word))
        elif word.startswith("--config="):
            word = f"--config={find_recipe(word.removeprefix('--config='))}"
        found.append(word)
    return found


def _check_files(words: Sequence[str], config: type) -> None:
    """Raise a ValueError that names the file, where jsonargparse would name its own classes."""
    sections = [field.name for field in dataclasses.fields(config) if dataclasses.is_dataclass(field.type)]
    after_flag = [word for flag, word in pairwise(words) if flag == "--config"]
    joined = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    for path in map(Path, after_flag + joined):
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


def _in_plain_words(message: str) -> str:
    # jsonargparse speaks of parser keys.
    return message.replace("Parser key ", "setting ").replace(":\n", ": ")
