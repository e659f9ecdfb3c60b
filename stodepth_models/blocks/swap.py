"""The change of a block's class, and back: masks give way to gates, weights stay."""

from typing import Any

from torch import nn

from .fold import Gated, fold_gates
from .gated import GatedBlock
from .registry import find_spec, original_class

_SAVED_MASKS = "_stodepth_masks"  # attribute of a stochastic block: the masks whose place its gates take


def check_swappable(name: str, block: nn.Module) -> None:
    """Refuse a block whose class does not decide what it computes.

    Raises:
        ValueError: the block has a ``forward`` of its own, or its class was derived from the stochastic one.
    """
    if "forward" in vars(block):
        raise ValueError(
            f"{name or 'the model'} has a forward method of its own, which would outlive a change of its class: "
            "undo what has replaced it, or call apply_stochastic_depth first and remove_stochastic_depth last"
        )
    if not isinstance(block, GatedBlock):
        return
    gated: Any = block.stodepth_spec.gated or type(block)
    if type(block) is not gated:
        raise ValueError(
            f"{name or 'the model'} is a {type(block).__name__}, made from {gated.__name__}, and would lose what "
            "that class adds: undo that (parametrize, fully_shard), or call remove_stochastic_depth before it"
        )


def masks_of(block: nn.Module) -> dict[str, nn.Module]:
    """Return the masks of a known block by the names of its submodules, also those whose place gates have taken."""
    if _SAVED_MASKS in vars(block):
        return dict(vars(block)[_SAVED_MASKS])
    spec: Any = find_spec(original_class(type(block)))
    if "_mask" in vars(block):  # of a pickle of version 0.1.0: the one mask, in a tuple
        return {str(spec.residuals[0].mask): vars(block)["_mask"][0]}
    masks: dict[str, nn.Module] = {}
    for name in spec.mask_names(block):
        mask = getattr(block, name, None)
        if isinstance(mask, nn.Module):
            masks[name] = mask
    return masks


def make_stochastic(block: Any) -> None:
    """Swap the class of a known block: its masks give way to gates."""
    spec: Any = find_spec(type(block))
    masks = masks_of(block)
    for name in masks:
        setattr(block, name, nn.Identity().train(block.training))
    vars(block)[_SAVED_MASKS] = masks  # past the registration of submodules
    block.__class__ = spec.gated
    block.stodepth_add_gates()


def restore_blocks(blocks: list[tuple[str, GatedBlock]]) -> None:
    """Give stochastic blocks their original classes, and their masks, back; scales move into the weights.

    Raises:
        ValueError: a block refuses. All are left as they were.
    """
    gates: list[Gated] = []
    for name, block in blocks:
        check_swappable(name, block)
        gates += [(name, block, gate) for gate in block.stodepth_gates]
    fold_gates(gates)
    for _, block in blocks:
        masks = masks_of(block)
        for saved in (_SAVED_MASKS, "_mask"):
            vars(block).pop(saved, None)
        for gate_name in block.stodepth_gate_names:
            delattr(block, gate_name)
        for mask_name, mask in masks.items():
            setattr(block, mask_name, mask.train(block.training))
        block.__class__ = block.stodepth_original  # type: ignore[assignment]
