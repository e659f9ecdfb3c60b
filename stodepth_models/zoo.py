"""Which builders there are, and which of them a name means."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from .checks import did_you_mean

SUFFIX = "_stodepth_lineardecay"  # of every builder's name

_own_registry: dict[str, Callable[..., Any]] = {}


def registry() -> dict[str, Callable[..., Any]]:
    """Return torchvision's table of builders, by name; a table of our own where a release has none of that name."""
    try:
        from torchvision.models._api import BUILTIN_MODELS
    except ImportError:
        # `torchvision.models.get_model` does not know our builders then; the rest works.
        return _own_registry
    return BUILTIN_MODELS


def builder_names() -> list[str]:
    """Return the names of this package's builders, in the order of their registration."""
    ours = []
    for name, builder in registry().items():
        if builder.__module__.split(".")[0] == __package__ and name.endswith(SUFFIX):
            ours.append(name)
    return ours


def register_builder(builder: Callable[..., Any]) -> None:
    """Enter a builder in torchvision's registry under its own name; a reload replaces the entry.

    A builder of the CIFAR family is known under its short name, such as ``cifar_resnet20``, too: torchvision has no
    model of that name.
    """
    name = builder.__name__
    registry()[name] = builder
    short = name.removesuffix(SUFFIX)
    if short.startswith("cifar_"):
        registry()[short] = _under_short_name(builder)


def _under_short_name(builder: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(builder)
    def build(*args: Any, **kwargs: Any) -> Any:
        return builder(*args, **kwargs)

    # torchvision's list_models(module=stodepth_models) looks one module deep: it lists each builder once.
    build.__module__ = f"{builder.__module__}.short"
    return build


def full_name(name: str) -> str:
    """Return the name of the builder that is named with or without the suffix, in any case of letters.

    Raises:
        ValueError: there is none; the message names the nearest ones.
    """
    known = builder_names()
    full = name.lower().removesuffix(SUFFIX) + SUFFIX
    if full in known:
        return full
    hint = builder_hint(name)
    if not hint:
        hint = f"known: {', '.join(known)}"
    raise ValueError(f"no model {name!r} in the zoo; {hint}")


def builder_hint(name: str, suffix: str = "") -> str:
    """Return a question that names the builders that ``name`` may stand for, with ``suffix``; empty without one."""
    known = [builder.removesuffix(SUFFIX) for builder in builder_names()]
    # Other projects write resnet18_StoDepth, resnet20_cifar10, cifar-resnet20 or ResNet110.
    words = re.split(r"[_-]", name.lower().removesuffix(SUFFIX))
    network = "_".join(word for word in words if not word.startswith(("cifar", "stodepth", "lineardecay")))
    candidates = [network, f"cifar_{network}"]
    if "cifar" in name.lower():
        candidates.reverse()
    for candidate in candidates:
        if candidate in known:
            return f"did you mean {candidate}{suffix}?"
    return did_you_mean("_".join(words), known, count=3, suffix=suffix)
