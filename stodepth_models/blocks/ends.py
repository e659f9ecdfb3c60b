"""What ends a branch: the weights that scale its output."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

ScalableWeights = list[tuple[Tensor, int]]
"""Weights to multiply by powers of a factor, so that a branch's output is multiplied by the factor."""


def scalable_weights(layer: Any) -> ScalableWeights:
    """Return the weights of a layer whose output is linear in its weight and bias, such as a normalisation.

    Raises:
        ValueError: ``layer`` has no weight, or more than weight and bias (adapters, parametrizations), or is None: not
            known.
    """
    if layer is None:
        raise ValueError("it does not end in a layer that is known")
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"it ends in {type(layer).__name__} without a weight")
    if any(parameter is not weight and parameter is not bias for parameter in layer.parameters()):
        raise ValueError(
            f"it ends in {type(layer).__name__} with parameters beside weight and bias: merge those of an adapter"
        )
    scalable = [(weight, 1)]
    if isinstance(bias, Tensor):
        scalable.append((bias, 1))
    return scalable


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


def last_norm_of(block: nn.Module) -> nn.Module | None:
    """Return the layer that a block's class names as ``last_norm``, unless a subclass has changed the branch since."""
    definers = [cls for cls in type(block).__mro__ if {"branch", "last_norm"} & {*vars(cls)}]
    is_property = hasattr(type(block), "last_norm")  # not a submodule of that name
    if is_property and "last_norm" not in vars(definers[0]):
        return None
    return getattr(block, "last_norm", None)
