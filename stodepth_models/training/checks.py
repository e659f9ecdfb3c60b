"""Checks of single settings: each returns nothing, or raises a ValueError that names setting, value and range."""

import difflib

from torchvision.models import list_models

import stodepth_models

__all__ = ["SUFFIX", "at_least", "model_name", "positive", "within"]

SUFFIX = "_stodepth_lineardecay"


def at_least(name: str, value: float, least: float) -> None:
    """Raise a ValueError unless ``value`` is at least ``least``."""
    if not value >= least:  # `not ...` also refuses nan
        raise ValueError(f"{name} must be at least {least}, got {value}")


def positive(name: str, value: float) -> None:
    """Raise a ValueError unless ``value`` is above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def within(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless ``value`` is in ``[low, high]``."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:.10g}, {high:.10g}], got {value}")


def model_name(name: str) -> str:
    """Return the full name of a builder of the zoo.

    Raises:
        ValueError: there is none of that name.
    """
    known = list_models(module=stodepth_models)
    for candidate in (name, name + SUFFIX):
        if candidate in known:
            return candidate
    near = difflib.get_close_matches(name.removesuffix(SUFFIX), [k.removesuffix(SUFFIX) for k in known], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise ValueError(f"model.name: no model {name!r} in the zoo; {hint}")
