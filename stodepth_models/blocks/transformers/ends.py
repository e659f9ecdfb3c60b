"""What follows attention or MLP in a block of transformers, and what ends its branches."""

from typing import Any

from torch import Tensor, nn

from ..ends import ScalableWeights, scalable_weights

MASK = "drop_path"


def finish(block: Any, out: Tensor, scale: str | None, dropout: str | None) -> Tensor:
    """Return the output of attention or MLP behind the dropout and the scale that these attributes name."""
    if dropout is not None:
        out = getattr(block, dropout)(out)
    if scale is None:
        return out
    factor = getattr(block, scale)
    if isinstance(factor, nn.Module):
        return factor(out)
    return factor * out


def last_weights(block: Any, scale: str | None, last: Any) -> ScalableWeights:
    """Return the weights of the scale that an attribute names, or of the last layer where there is none."""
    factor = getattr(block, scale) if scale is not None else None
    if isinstance(factor, nn.Module):
        factor = factor.lambda1  # of a LayerScale
    if isinstance(factor, Tensor):
        return [(factor, 1)]
    return scalable_weights(last)
