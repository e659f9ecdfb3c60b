"""One block changes its class: gates put in, and taken out again."""

from typing import Any

from torch import nn

from ..layers.residual import StochasticResidual
from .gated import GatedBlock, KnownBlock
from .registry import find_known, original_class

__all__ = ["check_swappable", "gates_of", "make_stochastic", "restore"]


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
    stochastic: Any = _known_of(block).stochastic
    if gates_of(block) and type(block) is not stochastic:
        raise ValueError(
            f"{name or 'the model'} is a {type(block).__name__}, made from {stochastic.__name__}, and would lose what "
            "that class adds: undo that (parametrize, fully_shard), or call remove_stochastic_depth before it"
        )


def gates_of(block: nn.Module) -> list[StochasticResidual]:
    """Return the gates of a stochastic block in forward order; empty for any other module."""
    if isinstance(block, GatedBlock):
        return block.stodepth_gates
    stochastic = _known_of(block).stochastic
    return [block.residual] if stochastic and isinstance(block, stochastic) else []  # type: ignore[list-item]


def _known_of(block: nn.Module) -> KnownBlock:
    return find_known(original_class(type(block))) or KnownBlock(())


def make_stochastic(block: nn.Module) -> list[StochasticResidual]:
    """Swap the class of a known block, and return its new gates in forward order."""
    known, gates = _known_of(block), []
    block.__class__ = known.stochastic  # type: ignore[assignment]
    _set_mask_aside(block, known.mask)
    for name, connection in zip(_gate_names(block), known.connections, strict=True):
        gate = StochasticResidual(inplace=connection.inplace, may_alias=True)
        gates.append(gate.train(block.training))
        block.add_module(name, gate)
    return gates


def _gate_names(block: nn.Module) -> list[str]:
    return block.stodepth_gate_names() if isinstance(block, GatedBlock) else ["residual"]


def _set_mask_aside(block: nn.Module, mask: str | None) -> None:
    module = None if mask is None else getattr(block, mask)
    if mask is not None and module is not None:
        setattr(block, mask, None)
        vars(block)["_mask"] = (module,)  # in a tuple: not a submodule


def restore(block: nn.Module) -> None:
    """Give a stochastic block its original class, and its mask, back."""
    known = _known_of(block)
    for name in _gate_names(block):
        delattr(block, name)
    block.__class__ = original_class(type(block))
    if known.mask is not None and "_mask" in vars(block):
        (module,) = vars(block).pop("_mask")
        setattr(block, known.mask, module.train(block.training))
