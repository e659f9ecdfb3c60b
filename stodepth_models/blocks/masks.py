"""Masks of other libraries (drop path): modules that drop rows of a branch's output in training."""

from typing import Any

from torch import nn

from ..layers.residual import StochasticGate

# timm's DropPath, the drop paths of transformers, and torchvision's StochasticDepth.
_NAMES = ("DropPath", "StochasticDepth")


def is_mask(module: nn.Module) -> bool:
    """Return whether a module drops rows of a branch's output in training, at whatever rate."""
    if isinstance(module, StochasticGate) or not any(name in type(module).__name__ for name in _NAMES):
        return False
    return next(module.children(), None) is None


def masks_rows(module: nn.Module) -> bool:
    """Return whether a module is a mask with a rate above 0."""
    return is_mask(module) and mask_rate(module) > 0


def mask_rate(mask: Any) -> float:
    """Return the chance in ``[0, 1]`` that a mask of torchvision, timm or transformers drops a row; 0 for no mask."""
    rate = getattr(mask, "drop_prob", getattr(mask, "p", None))
    return 0.0 if rate is None else float(rate)
