"""Evaluation scales folded into weights: another configuration, the same evaluation function.

A block computes ``identity + s * branch(x)`` in evaluation, and its branch ends in a normalisation. Multiplying that
layer's weight and bias multiplies the branch, so a scale can move between the gate and the weights.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .connections import GatedBlock, Scaling, affine
from .keys import canonical
from .known_blocks import original_class
from .layers import StochasticResidual

__all__ = ["fold_gates", "fold_into", "fold_rescale", "gated_blocks"]


Gated = tuple[str, nn.Module, StochasticResidual]


def gated_blocks(model: nn.Module) -> list[Gated]:
    """Return name, block and gate of every gated residual, in forward order."""
    return [
        (name, block, gate)
        for name, block in model.named_modules()
        for gate in block.children()
        if isinstance(gate, StochasticResidual)
    ]


def fold_into(
    state: dict[str, Tensor], model: nn.Module, scales: Sequence[float] | Mapping[str, float] | None
) -> dict[str, Tensor]:
    """Return weights that give ``model`` the evaluation function they gave their source.

    Args:
        state: weights of the source under the names of ``model``; its tensors are left as they are.
        model: the target.
        scales: evaluation scale of each gated residual of the source, in forward order or by the name of its gate;
            None: 1 for all of them.

    Raises:
        ValueError: other blocks than the target's, a target that scales a living branch by 0, or a branch that does not
            end in a layer, of its own, to fold a scale into.
    """
    blocks = gated_blocks(model)
    sources = _source_scales(model, blocks, scales)
    folded = dict(state)
    names: dict[int, list[str]] = {}
    held = model.state_dict(keep_vars=True)  # alive: ids are compared. Its names are those of `state`, wrapped or not.
    for key, tensor in held.items():
        names.setdefault(id(tensor), []).append(key)
    factors = [_ratio(name, gate, source) for (name, _, gate), source in zip(blocks, sources, strict=True)]
    for scaling, factor in zip(_scalings(blocks, factors), factors, strict=True):
        for tensor, power in scaling:
            for key in names.get(id(tensor), ()):
                if key in folded:
                    folded[key] = _times(folded[key], factor, power)
    return folded


def fold_rescale(model: nn.Module) -> None:
    """Move every evaluation scale into the weights, in place: ``rescale="none"``, same evaluation outputs.

    Args:
        model: a model with stochastic residuals, of this package's builders or after
            :func:`apply_stochastic_depth`.

    Raises:
        ValueError: a scaled branch does not end in a layer with a weight of its own. The model is left as it was.
    """
    fold_gates(gated_blocks(model))


@torch.no_grad()
def fold_gates(blocks: Sequence[Gated]) -> None:
    """What :func:`fold_rescale` does, for the given gates; name, block and gate of each.

    Raises:
        ValueError: as there.
    """
    factors = [gate.eval_scale for _, _, gate in blocks]  # before the first is changed: blocks can share a gate
    scalings = _scalings(blocks, factors)
    for (_, _, gate), scaling, factor in zip(blocks, scalings, factors, strict=True):
        for tensor, power in scaling:
            tensor.copy_(_times(tensor, factor, power))
        gate.rescale = "none"


def _source_scales(
    model: nn.Module, blocks: Sequence[Gated], scales: Sequence[float] | Mapping[str, float] | None
) -> list[float]:
    """Scale that the source gives the branch of each gate of ``model``."""
    if scales is None:
        return [1.0] * len(blocks)
    if isinstance(scales, Mapping):
        noted: dict[str, list[float]] = {}
        for gate, scale in scales.items():
            noted.setdefault(_block_name(gate), []).append(scale)
        modules = {_block_name(f"{name}.gate"): module for name, module in model.named_modules(remove_duplicate=False)}
        if noted.keys() <= modules.keys():
            return _scales_by_name(modules, blocks, noted)
        scales = list(scales.values())
    if len(scales) != len(blocks):
        raise ValueError(
            f"the source has {len(scales)} stochastic blocks, the model {len(blocks)}; for a plain model, load into a "
            "stochastic one and use to_torchvision"
        )
    return list(scales)


def _scales_by_name(
    modules: Mapping[str, nn.Module], blocks: Sequence[Gated], noted: Mapping[str, list[float]]
) -> list[float]:
    gates: dict[nn.Module, list[StochasticResidual]] = {}
    for _, block, gate in blocks:
        gates.setdefault(block, []).append(gate)
    found: dict[tuple[nn.Module, StochasticResidual], float] = {}
    for name, scales in noted.items():
        block = modules[name]
        own = gates.get(block, [])
        if len(own) != len(scales) and any(scale != 1.0 for scale in scales):
            raise ValueError(
                f"the source scales {name or 'the model'} by {', '.join(f'{scale:g}' for scale in scales)} in "
                f"evaluation, and the model has {len(own)} stochastic branches there, not {len(scales)}; for a plain "
                "model, load into a stochastic one and use to_torchvision"
            )
        found.update({(block, gate): scale for gate, scale in zip(own, scales, strict=False)})
    return [found.get((block, gate), 1.0) for _, block, gate in blocks]


def _block_name(gate: str) -> str:
    """This package's name of the block that a gate belongs to."""
    return canonical(gate).rpartition(".")[0]


def _ratio(name: str, gate: StochasticResidual, source: float) -> float:
    """Factor between the scale that a source has and that of the gate."""
    if source == gate.eval_scale:
        return 1.0
    if gate.eval_scale == 0.0:
        raise ValueError(
            f"{name} scales its branch by {source:g} in the source and by survival_prob=0 here, which no weights "
            "make up for: choose a survival probability above 0, or rescale='train' or 'none'"
        )
    return source / gate.eval_scale


def _scalings(blocks: Sequence[Gated], factors: Sequence[float]) -> list[Scaling]:
    """The weights that scale each branch; none for the factor 1.

    Raises:
        ValueError: a branch cannot be scaled, or not without another one.
    """
    scalings = [
        _scaling(*gated) if factor != 1.0 else _scaling_if_known(*gated)
        for gated, factor in zip(blocks, factors, strict=True)
    ]
    first: dict[int, int] = {}  # the weights are alive: ids are compared
    for index, scaling in enumerate(scalings):
        for tensor, _ in scaling:
            other = first.setdefault(id(tensor), index)
            if other != index and not factors[other] == factors[index] == 1.0:
                name, block = blocks[other][0], blocks[index][0]
                raise ValueError(
                    f"the evaluation scale of {name} cannot be folded into its weights: {name} and {block} share "
                    "them; use rescale='train', or give each its own"
                )
    return [scaling if factor != 1.0 else [] for scaling, factor in zip(scalings, factors, strict=True)]


def _scaling_if_known(name: str, block: nn.Module, gate: StochasticResidual) -> Scaling:
    try:
        return _scaling(name, block, gate)
    except Exception:  # whatever a function of the user's raises; its result is not needed
        return []


def _scaling(name: str, block: nn.Module, gate: StochasticResidual) -> Scaling:
    """The weights that scale the branch of one gate."""
    remedy = "name the layer in register_block(..., last_norm=...)"
    try:
        if isinstance(block, GatedBlock):
            if original_class(type(block)).__module__.startswith(("torchvision.", "timm.")):
                remedy = "leave the block out with target_layer_name"
            return block.stodepth_connections[block.stodepth_gates.index(gate)].scaling(block)
        remedy = "give each a block of its own"
        _check_alone(block)
        remedy = "name the layer in an attribute `last_norm` of the block"
        return affine(_last_norm(block))
    except ValueError as error:
        raise ValueError(
            f"the evaluation scale of {name or 'the model'} cannot be folded into its weights: {error}; "
            f"use rescale='train', or {remedy}"
        ) from None


def _check_alone(block: nn.Module) -> None:
    gates = sum(isinstance(child, StochasticResidual) for child in block.children())
    if gates > 1:
        raise ValueError(f"{type(block).__name__} has {gates} gates, and `last_norm` is one layer")


def _last_norm(block: nn.Module) -> nn.Module | None:
    """The layer that the block's class names, unless a subclass has changed the branch since."""
    definers = [cls for cls in type(block).__mro__ if {"branch", "last_norm"} & {*vars(cls)}]
    is_property = hasattr(type(block), "last_norm")  # not a submodule of that name
    changed = is_property and "last_norm" not in vars(definers[0])
    return None if changed else getattr(block, "last_norm", None)


def _times(tensor: Tensor, factor: float, power: int) -> Tensor:
    """The product with a power of the factor, computed in double precision and rounded once."""
    if factor == 0.0 and power <= 0:  # the branch is gone, whatever the rest of it computes
        return tensor
    return (tensor.double() * factor**power).to(tensor.dtype)
