"""Which builder's network a set of weights belongs to."""

import re
from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ..zoo import builder_names, registry
from .names import OPTIONAL_BUFFERS, canonical

Shapes = dict[str, tuple[int, ...]]

_BODY = re.compile(r"(?:conv1|bn1|layer\d+)\.")  # names of the networks of all builders, but for their classifiers


def guess_builder(state: Mapping[str, Tensor]) -> tuple[str, dict[str, str]] | None:
    """Return name and options of the builder whose weights have these names and shapes; None where there is none.

    The classifier is left out of the comparison: it follows the number of classes. So is what lies beside the network.

    Args:
        state: tensors by name, as a file has them.
    """
    # A network stands under each attribute that has a first convolution.
    prefixes = [name.removesuffix("conv1.weight") for name in state if re.search(r"(?:^|\.)conv1\.weight$", name)]
    if not prefixes:
        prefixes = [""]
    for prefix in sorted(prefixes, key=len):
        guess = _builder_of(_shapes(state, prefix))
        if guess is not None:
            return guess
    return None


def _builder_of(wanted: Shapes) -> tuple[str, dict[str, str]] | None:
    deepest = sum(key.endswith("conv1.weight") for key in wanted) > 200
    for name in builder_names():
        if deepest != ("1202" in name):
            continue  # the deepest network takes longer to build than all others together
        options: list[dict[str, str]] = [{}]
        if "shortcut" in signature(registry()[name]).parameters:
            options = [{"shortcut": "A"}, {"shortcut": "B"}]
        for chosen in options:
            if _shapes_of(name, **chosen) == wanted:
                return name, chosen
    return None


@cache
def _shapes_of(builder: str, **options: Any) -> Shapes:
    with torch.device("meta"):
        model: nn.Module = registry()[builder](**options)
    return _shapes(model.state_dict(), "")


def _shapes(state: Mapping[str, Tensor], prefix: str) -> Shapes:
    """Shapes of the weights of a body under a prefix."""
    shapes: Shapes = {}
    for name, value in state.items():
        short = canonical(name.removeprefix(prefix))
        if name.startswith(prefix) and _BODY.match(short) and not short.endswith(OPTIONAL_BUFFERS):
            shapes[short] = tuple(value.shape)
    return shapes
