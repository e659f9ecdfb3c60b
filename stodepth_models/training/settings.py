"""The settings of a dataclass on a command line: their names and short forms, and their types in plain words."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..checks import did_you_mean
from .data_config import DATASETS
from .errors import SettingsError
from .flags import find_flag
from .recipes import find_recipe, recipe_names

_NUMBERS = {2: "two numbers such as [1.0,0.5]", 3: "three numbers such as [0.5,0.5,0.5]"}
_LISTS = {
    str: "a list such as [tensorboard]",
    int: "whole numbers such as [30,40]",
    float: "numbers such as [0.9,0.999]",
}
_ONE = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
_WITHOUT_VALUE = ("help", "print_config")
_SHORT = {"-o": "--output", "-h": "--help"}
_YAML = (".yaml", ".yml", ".json")


def setting_types(config: type) -> dict[str, Any]:
    """Return the type of each setting by its whole name, such as ``optim.lr``; sections have theirs too."""
    types: dict[str, Any] = {}
    for name, kind in get_type_hints(config).items():
        types[name] = kind
        if dataclasses.is_dataclass(kind):
            types |= {f"{name}.{inner}": type_ for inner, type_ in setting_types(kind).items()}  # type: ignore[arg-type]
    return types


def in_words(kind: Any) -> str:
    """Return what a value of a type looks like, for the end of ``must be ...``."""
    options = [option for option in get_args(kind) if option is not NoneType]
    if get_origin(kind) in (Union, UnionType):
        return f"{' or '.join(map(in_words, options))}, or null"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(options)}"
    if get_origin(kind) is tuple and options[-1] is Ellipsis:
        return _LISTS[options[0]]
    if get_origin(kind) is tuple:
        return _NUMBERS[len(options)]
    if get_origin(kind) is dict:
        return "names and values such as {shortcut: B}"
    return _ONE.get(kind, "settings of its own, in a file or one by one")


def whole_name(typed: str, types: dict[str, Any], others: Sequence[str] = ()) -> str:
    """Return the whole name of a setting, or of an entry of one that holds names and values.

    Args:
        typed: as :func:`find_flag` takes it.
        types: of the settings, by their names.
        others: flags that are no settings.

    Raises:
        SettingsError: nothing or several things have that name.
    """
    head, _, entry = typed.rpartition(".")
    for name, kind in types.items():
        if get_origin(kind) is dict and head in (name, name.rpartition(".")[2]):
            return f"{name}.{entry}"
    return find_flag(typed, [*others, *types])


def as_settings(words: Sequence[str], types: dict[str, Any]) -> list[str]:
    """Return ``--name=value`` for each setting on a command line, under its whole name.

    ``--lr`` stands for ``--optim.lr``, ``--model resnet18`` for ``--model.name resnet18``, ``--data pets`` for the data
    set of that name, or the folder or archive. A switch without a value is true; numbers of a pair may stand apart.

    Args:
        words: of the command line.
        types: of the settings, by their names.

    Raises:
        SettingsError: a word is no setting, or a setting has no value or several.
        ValueError: no recipe of a name.
    """
    found = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        values = []
        while rest and not _is_flag(rest[0]):
            values.append(rest.pop(0))
        found += _as_setting(word, values, types)
    return found


def _as_setting(word: str, values: list[str], types: dict[str, Any]) -> list[str]:
    if not _is_flag(word):
        raise SettingsError(_stray(word))
    word = _SHORT.get(word, word)
    if not word.startswith("--"):
        raise SettingsError(f"there is no {word}: only -o and -h have one dash, whole names have two")
    typed, equals, value = word.removeprefix("--").partition("=")
    if equals:
        values = [value, *values]
    name = whole_name(typed, types, ("config", *_WITHOUT_VALUE))
    if name in _WITHOUT_VALUE:
        return [f"--{'='.join([name, *values])}"]
    if name == "config" and not values:
        raise SettingsError("--config needs a value: a YAML file, or the name of a recipe such as short_digits")
    value = _one_value(name, values, types.get(name, str))
    if name == "config":
        return [f"--config={find_recipe(value)}"]
    if name == "model" and not _holds_settings(value):
        name = "model.name"
    if name == "data" and not _holds_settings(value):
        return _data(value)
    return [f"--{name}={value}"]


def _one_value(name: str, values: list[str], kind: Any) -> str:
    """Join what stands after a flag, as far as its type allows."""
    kinds = [kind, *get_args(kind)]
    if not values and bool in kinds:
        return "true"
    if not values:
        raise SettingsError(f"--{name} needs a value: {in_words(kind)}")
    text = " ".join(values)
    is_list = any(get_origin(option) is tuple for option in kinds)
    if is_list and not text.startswith("[") and text not in _words_of(kind):
        numbers = re.split(r"[,\s]+", text)
        return f"[{','.join(numbers)}]"
    if len(values) > 1 and not is_list and not text.startswith("{"):
        raise SettingsError(f"--{name} takes one value, got {', '.join(values)}; quote a value with spaces")
    return text


def _words_of(kind: Any) -> tuple[str, ...]:
    """The words that stand for a value themselves, in a type that takes a list too."""
    words = ["null", "None"]
    for option in get_args(kind):
        if get_origin(option) is Literal:
            words += get_args(option)
    return tuple(words)


def _data(value: str) -> list[str]:
    names = get_args(DATASETS)
    if value in names:
        return [f"--data.name={value}"]
    if value.startswith("hfds/"):
        return ["--data.name=hfds", f"--data.root={value.removeprefix('hfds/')}"]
    hint = did_you_mean(value, names)
    if hint and not Path(value).expanduser().exists():
        raise SettingsError(f"--data: there is no data set, folder or archive {value}; {hint}")
    return ["--data.name=folder", f"--data.root={value}"]


def _stray(word: str) -> str:
    stem = Path(word).name.removesuffix(".yaml")
    if stem in recipe_names() or word.endswith(_YAML):
        return f"{word} stands alone: did you mean --config {word}?"
    if Path(word).exists():
        return f"{word} stands alone: did you mean --weights {word} or --data {word}?"
    return f"{word} stands alone: settings are given as --name value"


def _is_flag(word: str) -> bool:
    return word.startswith("--") or re.fullmatch(r"-[a-zA-Z]", word) is not None


def _holds_settings(value: str) -> bool:
    return value.startswith("{") or value.endswith(_YAML)
