"""Checks of arguments: an error names the argument, the value it got, and what is allowed."""

import difflib
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor


def check_probability(name: str, value: Any) -> float:
    """Return ``value`` as a float; numbers of NumPy and tensors of one element are taken, too.

    Raises:
        TypeError: ``value`` is not a real number.
        ValueError: ``value`` is outside ``[0, 1]`` or nan.
    """
    if holds_one_number(value):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float, Real)):
        raise TypeError(f"{name} must be a probability in [0, 1], got {value!r} of type {type(value).__name__}")
    prob = float(value)
    if not 0.0 <= prob <= 1.0:  # `not ...` also refuses nan
        raise ValueError(f"{name} must be a probability in [0, 1], got {value}")
    return prob


def holds_one_number(value: Any) -> bool:
    """Return whether ``value`` is a tensor of one element, or an array of NumPy without dimensions."""
    if isinstance(value, Tensor):
        return value.numel() == 1
    return getattr(value, "ndim", None) == 0


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ``value``.

    Raises:
        ValueError: ``value`` is not one of ``choices``.
    """
    if value not in choices:
        allowed = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Return ``value``.

    Raises:
        TypeError: ``value`` is not a bool.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def check_whole(name: str, value: Any, least: int) -> int:
    """Return ``value``.

    Raises:
        TypeError: ``value`` is not a whole number.
        ValueError: ``value`` is below ``least``.
    """
    # A bool is an int in Python.
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def check_layers(layers: Any, stages: int) -> None:
    """Check the number of blocks in each stage of a ResNet.

    Raises:
        ValueError: not as many whole numbers of at least 1 as there are stages.
    """
    is_list = isinstance(layers, (list, tuple)) and len(layers) == stages
    if not is_list or not all(type(depth) is int and depth >= 1 for depth in layers):
        raise ValueError(f"layers must be the number of blocks in each of {stages} stages, got {layers!r}")


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Return the known names that are nearest to a given one, at most ``count``, none where all are far."""
    return difflib.get_close_matches(name, list(known), n=count)


def no_such_path(path: Path) -> str:
    """Return a sentence that a file or folder does not exist, which names the nearest one beside it."""
    message = f"there is no file or folder {path}"
    try:
        beside = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        beside = []
    near = nearest(path.name, beside)
    if near:
        message += f"; did you mean {path.with_name(near[0])}?"
    return message


def did_you_mean(name: str, known: Iterable[str], count: int = 1, suffix: str = "") -> str:
    """Return a question that names the nearest of the known names, for the end of a message; empty without one.

    Args:
        name: what was given.
        known: what may have been meant.
        count: at most so many are named.
        suffix: is added to each of them.
    """
    near = nearest(name, known, count)
    if not near:
        return ""
    names = " or ".join(match + suffix for match in near)
    return f"did you mean {names}?"
