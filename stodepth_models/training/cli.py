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
from .builders import builder_of, owner_beside
from .config import TrainConfig
from .conflicts import without_effect
from .exits import EXIT_BAD_SETTINGS, leave
from .settings import as_settings, in_words, setting_types
from .settings_help import PlainHelp

Config = TypeVar("Config")

# A file of all settings, or of those of a section.
_FILE = re.compile(r"--(config=|(model|data|optim)=[^{])")


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
        "--config", action="config", help="YAML file of settings, or name of a recipe; settings on the line win"
    )
    parser.add_class_arguments(config)
    types = setting_types(config)
    try:
        words = as_settings(sys.argv[1:] if arguments is None else arguments, types)
        _check_files(words, config)
        values = vars(parser.instantiate(_settle(parser, words)))
        values.pop("config", None)
        return config(**values)
    except (ArgumentError, OSError, TypeError, ValueError) as error:
        leave(_in_plain_words(str(error), types), EXIT_BAD_SETTINGS)


def _settle(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """Return all settings: those of the command line, else of the last file that gives one, else the defaults."""
    files = []
    typed = []
    for word in words:
        if _FILE.match(word):
            files.append(word)
        else:
            typed.append(word)
    settings = parser.parse_args([*files, *typed])
    levels = []
    for file in files:
        levels.append(dict(parser.parse_args([file], defaults=False).items()))
    levels.append(dict(parser.parse_args(typed, defaults=False).items()))
    if settings["model.weights"] is not None:
        _name_builder(settings, levels)
    defaults = parser.get_defaults()
    for name in without_effect(levels, dict(settings.items()), dict(defaults.items())):
        settings[name] = defaults[name]
    return settings


def _name_builder(settings: Namespace, levels: Sequence[dict[str, Any]]) -> None:
    """Let weights bring along their options, and their builder unless one is named on the same level or above."""
    named, weights = settings["model.name"], settings["model.weights"]
    ranks = {}
    for rank, level in enumerate(levels):
        ranks.update(dict.fromkeys(level, rank))
    try:
        if "model.name" not in ranks:
            owner = builder_of(weights, default=named)
        else:
            owner = owner_beside(weights, named, weights_win=ranks["model.weights"] > ranks["model.name"])
    except FileNotFoundError:  # a sweep may be planned before its weights are there; a run looks again
        return
    settings["model.name"] = owner.name
    settings["model.options"] = {**owner.options, **settings["model.options"]}


def _check_files(words: Sequence[str], config: type) -> None:
    """Raise a ValueError that names the file, where jsonargparse would name its own classes."""
    sections = [field.name for field in dataclasses.fields(config) if dataclasses.is_dataclass(field.type)]
    for word in words:
        if word.startswith("--config="):
            _check_file(Path(word.removeprefix("--config=")), sections)


def _check_file(path: Path, sections: Sequence[str]) -> None:
    expected = "must hold settings, one 'name: value' a line"
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        _check_keys(path, yaml.compose(text))
    except (yaml.YAMLError, UnicodeError) as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    if content is None:
        raise ValueError(f"{path} is empty: it {expected}")
    if not isinstance(content, dict):
        raise ValueError(f"{path} {expected}, got {content!r:.50}")
    if {"settings", "processes"} <= content.keys():
        raise ValueError(
            f"{path} is the record of a run, not a file of settings: give a file that holds what it has under settings"
        )
    for name in sections:
        if name in content and not isinstance(content[name], dict):
            raise ValueError(f"{path}: {name} {expected}, got {content[name]!r}")


def _check_keys(path: Path, node: Any) -> None:
    """Raise where a key of YAML stands twice in one section: the reader would keep the last one in silence."""
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ValueError(
                f"{path} gives {key.value} twice, in lines {lines[key.value]} and {line}: leave one of them out"
            )
        lines[key.value] = line
        _check_keys(path, value)


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
    parts = [f"there is no setting {name}"]
    hint = did_you_mean(name, types)
    ends = [known for known in types if known.endswith(f".{name}")]
    if ends:  # a flag may be short, a key of a file may not
        hint = f"a file needs its whole name, {' or '.join(ends)}"
    if name in setting_types(TrainConfig):
        hint = "it is one of stodepth train, as are those of the recipes"
    if hint:
        parts.append(hint)
    return "; ".join([*parts, "--help lists what there is"])
