"""Evaluation scales folded into weights: another configuration, the same evaluation function.

A block computes ``identity + s * branch(x)`` in evaluation, and its branch ends in a normalisation. Multiplying that
layer's weight and bias multiplies the branch, so a scale can move between the gate and the weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.residual import StochasticResidual
from .ends import ScalableWeights, last_norm_of, scalable_weights
from .gated import GatedBlock

Gated = tuple[str, nn.Module, StochasticResidual]


def gated_blocks(model: nn.Module) -> list[Gated]:
    """Return name, block and gate of every gated residual, in forward order."""
    found: list[Gated] = []
    for name, block in model.named_modules():
        for gate in block.children():
            if isinstance(gate, StochasticResidual):
                found.append((name, block, gate))
    return found


def fold_rescale(model: nn.Module) -> None:
    """Move every evaluation scale into the weights, in place: ``rescale="none"``, same evaluation outputs.

    Args:
        model: a model with stochastic residuals, of this package's builders or after
            :func:`apply_stochastic_depth`.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a scaled branch does not end in a layer with a weight of its own. The model is left as it was.

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.resnet18_stodepth_lineardecay(rescale="eval")
        >>> sdm.fold_rescale(model)
        >>> model.layer4[1].residual
        StochasticResidual(survival_prob=0.5, mode='batch', rescale='none')
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    fold_gates(gated_blocks(model))


@torch.no_grad()
def fold_gates(blocks: Sequence[Gated]) -> None:
    """What :func:`fold_rescale` does, for the given gates; name, block and gate of each.

    Raises:
        ValueError: as there.
    """
    factors = [gate.eval_scale for _, _, gate in blocks]  # before the first is changed: blocks can share a gate
    scalings = scalings_of(blocks, factors)
    for (_, _, gate), scaling, factor in zip(blocks, scalings, factors, strict=True):
        for tensor, power in scaling:
            tensor.copy_(times(tensor, factor, power))
        gate.rescale = "none"


def scalings_of(blocks: Sequence[Gated], factors: Sequence[float]) -> list[ScalableWeights]:
    """Return the weights that scale each branch; none for the factor 1.

    Raises:
        ValueError: a branch cannot be scaled, or not without another one.
    """
    scalings: list[ScalableWeights] = []
    for (name, block, gate), factor in zip(blocks, factors, strict=True):
        # Branches that keep their scale are asked, too: another branch may share their weights.
        ask = _scaling_of if factor != 1.0 else _scaling_if_known
        scalings.append(ask(name, block, gate))
    _refuse_shared(blocks, factors, scalings)
    return [scaling if factor != 1.0 else [] for scaling, factor in zip(scalings, factors, strict=True)]


def _refuse_shared(blocks: Sequence[Gated], factors: Sequence[float], scalings: Sequence[ScalableWeights]) -> None:
    first: dict[int, int] = {}  # the weights are alive: ids are compared
    for index, scaling in enumerate(scalings):
        for tensor, _ in scaling:
            other = first.setdefault(id(tensor), index)
            if other == index or factors[other] == factors[index] == 1.0:
                continue
            name, block = blocks[other][0], blocks[index][0]
            raise ValueError(
                f"the evaluation scale of {name} cannot be folded into its weights: {name} and {block} share "
                "them; use rescale='train', or give each its own"
            )


def _scaling_if_known(name: str, block: nn.Module, gate: StochasticResidual) -> ScalableWeights:
    try:
        return _scaling_of(name, block, gate)
    except Exception:  # whatever a function of the user's raises; its result is not needed
        return []


def _scaling_of(name: str, block: nn.Module, gate: StochasticResidual) -> ScalableWeights:
    """The weights that scale the branch of one gate."""
    try:
        if isinstance(block, GatedBlock):
            residual = block.stodepth_spec.residuals[block.stodepth_gates.index(gate)]
            if residual.is_there is not None and not residual.is_there(block):
                return []
            return residual.scalable_weights(block)
        gates = sum(isinstance(child, StochasticResidual) for child in block.children())
        if gates > 1:
            raise ValueError(f"{type(block).__name__} has {gates} gates, and `last_norm` is one layer")
        return scalable_weights(last_norm_of(block))
    except ValueError as error:
        raise ValueError(
            f"the evaluation scale of {name or 'the model'} cannot be folded into its weights: {error}; "
            f"use rescale='train', or {_remedy(block)}"
        ) from None


def _remedy(block: nn.Module) -> str:
    if not isinstance(block, GatedBlock) or block.stodepth_gate_names == ("residual",):
        if sum(isinstance(child, StochasticResidual) for child in block.children()) > 1:
            return "give each a block of its own"
        return "name the layer in an attribute `last_norm` of the block"
    if block.stodepth_original.__module__.split(".")[0] in ("torchvision", "timm", "transformers"):
        return "leave the block out with target_layer_name"
    return "name the layer in register_block(..., last_norm=...)"


def times(tensor: Tensor, factor: float, power: int) -> Tensor:
    """Return the product with a power of the factor, computed in double precision and rounded once."""
    if factor == 0.0 and power <= 0:  # the branch is gone, whatever the rest of it computes
        return tensor
    return (tensor.double() * factor**power).to(tensor.dtype)
