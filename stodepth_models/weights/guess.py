"""Which builder's network a set of weights belongs to."""

from collections.abc import Mapping
from functools import cache
from inspect import signature

import torch
from torch import Tensor, nn

from ..zoo import builder_names, registry
from .names import CLASSIFIER, OPTIONAL_BUFFERS

__all__ = ["guess_builder"]


def guess_builder(state: Mapping[str, Tensor]) -> tuple[str, dict[str, str]] | None:
    """Return name and options of the builder whose weights have these names and shapes; None where there is none.

    The classifier is left out of the comparison: it follows the number of classes.
    """
    wanted = _shapes(state)
    deepest = sum(key.endswith("conv1.weight") for key in wanted) > 200
    for name in builder_names():
        if deepest != ("1202" in name):
            continue  # the deepest network takes longer to build than all others together
        has_shortcut = "shortcut" in signature(registry()[name]).parameters
        for shortcut in ("A", "B") if has_shortcut else (None,):
            if _shapes_of(name, shortcut) == wanted:
                return name, {} if shortcut is None else {"shortcut": shortcut}
    return None


@cache
def _shapes_of(builder: str, shortcut: str | None) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model: nn.Module = registry()[builder](**({} if shortcut is None else {"shortcut": shortcut}))
    return _shapes(model.state_dict())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    kept = {
        key: value
        for key, value in state.items()
        if not key.startswith(CLASSIFIER) and not key.endswith(OPTIONAL_BUFFERS)
    }
    return {key: tuple(value.shape) for key, value in kept.items()}
