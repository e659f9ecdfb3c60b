"""Evaluation scales folded into weights: another configuration, the same evaluation function.

A block computes ``identity + s * branch(x)`` in evaluation, and its branch ends in a normalisation. Multiplying that
layer's weight and bias multiplies the branch, so a scale can move between the gate and the weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import StochasticResidual

__all__ = ["fold_into", "fold_rescale", "gated_blocks"]


def gated_blocks(model: nn.Module) -> list[tuple[str, nn.Module, StochasticResidual]]:
    """Return name, block and gate of every gated residual, in forward order."""
    return [
        (name, block, gate)
        for name, block in model.named_modules()
        for gate in block.children()
        if isinstance(gate, StochasticResidual)
    ]


def fold_into(state: dict[str, Tensor], model: nn.Module, scales: Sequence[float] | None) -> dict[str, Tensor]:
    """Return weights that give ``model`` the evaluation function they gave their source.

    Args:
        state: weights of the source under the names of ``model``; its tensors are left as they are.
        model: the target.
        scales: evaluation scale of each gated block of the source, in forward order; None: 1 for all of them.

    Raises:
        ValueError: a list of another length, a target that scales a living branch by 0, or a branch without a
            normalisation to fold a scale into.
    """
    blocks = gated_blocks(model)
    sources = [1.0] * len(blocks) if scales is None else list(scales)
    if len(sources) != len(blocks):
        raise ValueError(f"the source has {len(sources)} stochastic blocks, the model {len(blocks)}")
    folded = dict(state)
    for (name, block, gate), source in zip(blocks, sources, strict=True):
        if source == gate.eval_scale:
            continue
        if gate.eval_scale == 0.0:
            raise ValueError(
                f"{name} scales its branch by {source:g} in the source and by survival_prob=0 here, which no weights "
                "make up for: choose a survival probability above 0, or rescale='train' or 'none'"
            )
        for key in _affine_names(name, block):
            if key in folded:
                folded[key] = _times(folded[key], source / gate.eval_scale)
    return folded


@torch.no_grad()
def fold_rescale(model: nn.Module) -> None:
    """Move every evaluation scale into the weights, in place: ``rescale="none"``, same evaluation outputs.

    Args:
        model: a model with stochastic residuals, such as those of this package's builders.

    Raises:
        ValueError: a scaled branch does not end in a normalisation. The model is left as it was.
    """
    blocks = gated_blocks(model)
    norms = [_affine(name, block) if gate.eval_scale != 1.0 else [] for name, block, gate in blocks]
    for (_, _, gate), tensors in zip(blocks, norms, strict=True):
        for tensor in tensors:
            tensor.copy_(_times(tensor, gate.eval_scale))
        gate.rescale = "none"


def _affine(name: str, block: nn.Module) -> list[Tensor]:
    """Weight and bias of the normalisation that ends the branch; a bias may be missing, a weight may not."""
    norm = getattr(block, "last_norm", None)
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if not isinstance(weight, Tensor):
        raise ValueError(
            f"{name} must end its branch in a normalisation with a weight, into which its evaluation scale is folded; "
            f"got {type(norm).__name__}"
        )
    return [weight, bias] if isinstance(bias, Tensor) else [weight]


def _affine_names(name: str, block: nn.Module) -> list[str]:
    """Names in the state dict of what :func:`_affine` returns."""
    wanted = {id(tensor) for tensor in _affine(name, block)}
    held = [*block.named_parameters(remove_duplicate=False), *block.named_buffers(remove_duplicate=False)]
    return [f"{name}.{key}" if name else key for key, tensor in held if id(tensor) in wanted]


def _times(tensor: Tensor, factor: float) -> Tensor:
    """The product, computed in double precision and rounded once."""
    return (tensor.double() * factor).to(tensor.dtype)
