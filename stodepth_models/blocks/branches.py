"""Branches that call submodules of a block, one after another: most branches do."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def in_order(*names: str, given: str | None = None) -> Callable[..., Tensor]:
    """Return a branch that calls these submodules in turn; one that a block has not, or that is None, is left out.

    Args:
        *names: attributes of a block: modules, or parameters that scale.
        given: the submodule that gets the block's arguments beside ``x``.
    """

    def branch(block: Any, x: Tensor) -> Tensor:
        for name in names:
            x = _step(getattr(block, name, None), x)
        return x

    def branch_with_arguments(block: Any, x: Tensor, **arguments: Any) -> Tensor:
        for name in names:
            passed = arguments if name == given else {}
            x = _step(getattr(block, name, None), x, **passed)
        return x

    return branch if given is None else branch_with_arguments


def normed_with_shortcut(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the branch's input and the shortcut of a block that normalises first (He et al., arXiv:1603.05027).

    A shortcut with layers begins behind that normalisation, and the two share it. One without layers begins in front of
    it, and then the branch normalises by itself.
    """
    if block.downsample is None:
        return x, x
    x = block.norm1(x)
    return x, block.downsample(x)


def _step(layer: Any, x: Tensor, **arguments: Any) -> Tensor:
    if layer is None:
        return x
    if isinstance(layer, Tensor):
        return layer * x
    return layer(x, **arguments)
