"""Masks (drop path) that a model carries: the rates that gates take over, and the masks that would stay."""

import logging
from collections.abc import Collection
from typing import Any

from torch import nn

from .find import CONTAINERS, Target
from .masks import mask_rate, masks_rows
from .registry import find_spec, original_class
from .swap import masks_of

logger = logging.getLogger("stodepth_models")


def survival_of_masks(model: nn.Module, blocks: list[tuple[str, nn.Module]]) -> list[list[float]]:
    """Return the survival probabilities of the residual connections of each block, by the masks of the model.

    Raises:
        ValueError: no mask has a rate above 0, or nobody knows which mask of a registered block is whose.
    """
    probs: list[list[float]] = []
    masks_anything = False
    for _, block in blocks:
        spec: Any = find_spec(original_class(type(block)))
        masks = masks_of(block)
        if spec.takes_all_masks:
            rates = _rates_of_any(block, masks, len(spec.residuals))
        else:
            rates = [mask_rate(masks.get(residual.mask)) for residual in spec.residuals]
        masks_anything = masks_anything or any(rates)
        probs.append([1.0 - rate for rate in rates])
    if not masks_anything:
        raise ValueError(
            "drop_rate=None takes the rates of the masks (drop path) that the model carries, and "
            f"{type(model).__name__} carries none above 0: build it with drop_path_rate, or give drop_rate"
        )
    return probs


def check_scales(blocks: list[tuple[str, nn.Module]]) -> None:
    """Refuse masks that leave surviving rows as they are, where gates would divide them.

    Raises:
        ValueError: such a mask of timm, made with ``scale_by_keep=False``.
    """
    for block_name, block in blocks:
        for name, mask in masks_of(block).items():
            if mask_rate(mask) > 0 and not getattr(mask, "scale_by_keep", True):
                raise ValueError(
                    f"drop_rate=None trains as the masks do, and {name} of {block_name or 'the model'} has "
                    "scale_by_keep=False: it does not divide surviving rows by their survival probability, as "
                    "rescale='train' would; give rescale='none'"
                )


def _rates_of_any(block: nn.Module, masks: dict[str, nn.Module], count: int) -> list[float]:
    """The drop rates of a registered block's connections: nobody has said which mask belongs to which of them."""
    rates = list(map(mask_rate, masks.values()))
    if len(rates) == count:
        return rates  # modules are registered in the order in which most blocks call them
    if len(set(rates)) > 1:
        raise ValueError(
            f"{type(block).__name__} has masks (drop path) with {len(rates)} rates and {count} residual "
            f"connections: {', '.join(masks)}; give drop_rate"
        )
    # One mask for all connections, or none.
    return (rates[:1] or [0.0]) * count


def check_masks(model: nn.Module, blocks: list[tuple[str, nn.Module]], target: Target) -> None:
    """Refuse a model that would be half converted, unless the caller has chosen the blocks.

    Raises:
        ValueError: masks would stay in blocks that are not known, and no target was given.
    """
    unknown, alone = masks_beside(model, {block for _, block in blocks})
    kind = type(model).__name__
    if unknown and target is None:
        raise ValueError(
            f"{kind} masks branches (drop path) in {', '.join(unknown)} too, where the masks would stay: teach them "
            "with register_block, or choose the blocks to change with target_layer_name"
        )
    if unknown or alone:
        logger.warning("%s: the masks (drop path) in %s stay", kind, ", ".join([*unknown, *alone]))


def masks_beside(model: nn.Module, blocks: Collection[nn.Module]) -> tuple[list[str], list[str]]:
    """Return where masks stay that act when the given blocks have gates.

    Returns:
        Names of the classes that hold such masks: those of which no residual connection is known, or that are not
        among ``blocks``; and those that mask their output where they have no residual connection.
    """
    unknown: dict[str, None] = {}
    alone: dict[str, None] = {}
    for name, holder in model.named_modules():
        masks = [child for child, module in holder.named_children() if masks_rows(module)]
        if not masks:
            continue
        spec: Any = find_spec(original_class(type(holder)))
        if spec is None or not set(masks) <= set(spec.mask_names(holder)):
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
    while name and isinstance(holder, CONTAINERS):
        name = name.rpartition(".")[0]
        holder = model.get_submodule(name)
    return type(holder).__name__
