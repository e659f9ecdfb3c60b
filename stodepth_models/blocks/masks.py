"""Masks of other libraries (drop path) in a model, and those that gates would leave where they are."""

from collections.abc import Collection
from typing import Any

from torch import nn

from ..layers.residual import StochasticGate
from .gated import mask_rate
from .registry import find_spec, original_class

# timm's DropPath, the drop paths of transformers, and torchvision's StochasticDepth.
_NAMES = ("DropPath", "StochasticDepth")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_mask(module: nn.Module) -> bool:
    """Return whether a module drops rows of a branch's output in training."""
    if isinstance(module, StochasticGate) or not any(name in type(module).__name__ for name in _NAMES):
        return False
    return next(module.children(), None) is None and mask_rate(module) > 0


def masks_beside(model: nn.Module, blocks: Collection[nn.Module]) -> tuple[list[str], list[str]]:
    """Return where masks stay that act when the given blocks have gates.

    Returns:
        Names of the classes that hold such masks: those of which no residual connection is known, or that are not
        among ``blocks``; and those that mask their output where they have no residual connection.
    """
    unknown: dict[str, None] = {}
    alone: dict[str, None] = {}
    for name, holder in model.named_modules():
        masks = [child for child, module in holder.named_children() if is_mask(module)]
        if not masks:
            continue
        spec: Any = find_spec(original_class(type(holder)))
        if spec is None or not set(masks) <= set(spec.mask_names()):
            unknown[_class_name(model, name)] = None
        elif not spec.is_residual(holder):
            if spec.masks_alone:
                alone[f"{type(holder).__name__} without a shortcut"] = None
        elif holder not in blocks:
            unknown[_class_name(model, name)] = None
    return list(unknown), list(alone)


def _class_name(model: nn.Module, name: str) -> str:
    """The class of the module of this name, or of the nearest one around it that is no container."""
    holder = model.get_submodule(name)
    while name and isinstance(holder, _CONTAINERS):
        name = name.rpartition(".")[0]
        holder = model.get_submodule(name)
    return type(holder).__name__
