"""What ends a branch of a timm block: the weights that scale it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from .gated import ScalableWeights, scalable_weights


def ends_in(*paths: str) -> Callable[[Any], ScalableWeights]:
    """Return a function of a block: the weights of the first of these layers or parameters that it has.

    Args:
        *paths: names from the block on, such as ``"mlp.fc2"``, the last layer first.
    """

    def weights_of(block: Any) -> ScalableWeights:
        for path in paths:
            layer = _get(block, path)
            if isinstance(layer, nn.Parameter):
                return [(layer, 1)]
            if layer is not None and not isinstance(layer, nn.Identity):
                return _linear_weights(layer)
        return scalable_weights(None)

    return weights_of


def ends_in_all(*paths: str) -> Callable[[Any], ScalableWeights]:
    """Return a function of a block: the weights of all these layers, whose outputs are added or lie side by side."""

    def weights_of(block: Any) -> ScalableWeights:
        weights: ScalableWeights = []
        for path in paths:
            weights += ends_in(path)(block)
        return weights

    return weights_of


def unless(path: str, weights_of: Callable[[Any], ScalableWeights]) -> Callable[[Any], ScalableWeights]:
    """Return ``weights_of``, but refuse a block that has a layer at ``path``, which a scaled input would change."""

    def checked(block: Any) -> ScalableWeights:
        layer = _get(block, path)
        if layer is not None and not isinstance(layer, nn.Identity):
            raise ValueError(f"it ends in {type(layer).__name__}, which a scaled input would change")
        return weights_of(block)

    return checked


def _get(block: Any, path: str) -> Any:
    for name in path.split("."):
        block = getattr(block, name, None)
    return block


def _linear_weights(layer: nn.Module) -> ScalableWeights:
    kind = type(layer).__name__
    if "StdConv" in kind:
        raise ValueError(f"it ends in {kind}, which standardises its weight")
    activation = getattr(layer, "act", None)
    if activation is not None and not isinstance(activation, nn.Identity):
        raise ValueError(f"it ends in {kind} with an activation")
    return scalable_weights(layer)
