"""From a command line and YAML files to a settings object, or to one clear line and an exit code."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from ..checks import did_you_mean
from .builders import builder_of
from .exits import EXIT_BAD_SETTINGS, leave
from .settings import as_settings, in_words, setting_types
from .settings_help import PlainHelp

Config = TypeVar("Config")


def parse(
    config: type[Config], arguments: Sequence[str] | None = None, description: str = "", command: str = ""
) -> Config:
    """Return the settings that the command line gives, and leave the program with code 2 where it gives none.

    Args:
        config: dataclass of settings.
        arguments: without the program's name; None: those of this process.
        description: shown by ``--help``.
        command: whose arguments they are, for ``--help``.
    """
    parser = ArgumentParser(
        prog=f"stodepth {command}", usage="%(prog)s [--config RECIPE] [--NAME VALUE ...]", description=description,
        formatter_class=PlainHelp, exit_on_error=False, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--config", action="config", help="YAML file of settings, or name of a recipe; what follows it on the line wins"
    )
    parser.add_class_arguments(config)
    types = setting_types(config)
    try:
        words = as_settings(sys.argv[1:] if arguments is None else arguments, types)
        _check_files(words, config)
        settings = parser.parse_args(words)
        if settings["model.weights"] is not None:
            _name_builder(settings, parser.parse_args(words, defaults=False))
        values = parser.instantiate(settings)
        return config(**{key: value for key, value in vars(values).items() if key != "config"})
    except (ArgumentError, OSError, TypeError, ValueError) as error:
        leave(_in_plain_words(str(error), types), EXIT_BAD_SETTINGS)


def _name_builder(settings: Namespace, given: Namespace) -> None:
    """Let weights say which builder they belong to, where neither a flag nor a file names one."""
    if given.get("model.name") is not None:
        return
    try:
        settings["model.name"], options = builder_of(settings["model.weights"], default=settings["model.name"])
    except FileNotFoundError:  # a sweep may be planned before its weights are there; a run looks again
        return
    settings["model.options"] = {**options, **settings["model.options"]}


def _check_files(words: Sequence[str], config: type) -> None:
    """Raise a ValueError that names the file, where jsonargparse would name its own classes."""
    sections = [field.name for field in dataclasses.fields(config) if dataclasses.is_dataclass(field.type)]
    for word in words:
        if word.startswith("--config="):
            _check_file(Path(word.removeprefix("--config=")), sections)


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


def _in_plain_words(message: str, types: dict[str, Any]) -> str:
    """Say what a setting must be, where jsonargparse names classes of Python."""
    named = re.search(r'Parser key "([\w.]+)"', message)
    got = re.findall(r"(?:Got|Given) value: (.*)", message)
    if named and got and named[1] in types:
        return f"{named[1]} must be {in_words(types[named[1]])}, got {got[-1]}"
    unknown = re.search(r"(?:Group '([\w.]+)' does not accept option|^Option) '([\w.]+)'", message)
    if unknown:
        return _no_setting(f"{unknown[1]}.{unknown[2]}" if unknown[1] else unknown[2], types)
    return message.replace("Parser key ", "setting ")


def _no_setting(name: str, types: dict[str, Any]) -> str:
    parts = [f"there is no setting {name}", did_you_mean(name, types), "--help lists what there is"]
    return "; ".join(filter(None, parts))
