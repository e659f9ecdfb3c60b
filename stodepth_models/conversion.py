"""Plain torchvision models out of ours."""

import copy

from torch import nn
from torchvision.models import ResNet

from .fold import fold_rescale, gated_blocks
from .layers import StochasticGate
from .recipe import Recorded

__all__ = ["to_torchvision"]


def to_torchvision(model: nn.Module) -> ResNet:
    """Return a plain ``torchvision.models.ResNet`` with the same evaluation outputs; ``model`` is left as it is.

    Evaluation scales are folded into the weights. The result needs nothing of this package, also when pickled.

    Args:
        model: a model of the ImageNet family.

    Raises:
        TypeError: ``model`` is not a torchvision ResNet.
        ValueError: a model of the CIFAR family, which torchvision has no class for, or one with gates in other places
            than its residual blocks.
    """
    if not isinstance(model, ResNet):
        kind = type(model).__name__
        if isinstance(model, Recorded):
            raise ValueError(
                f"model must be of the ImageNet family, torchvision has no {kind}: use fold_rescale(model)"
            )
        raise TypeError(f"model must be a torchvision ResNet with stochastic depth, got {kind}")
    plain = copy.deepcopy(model)
    fold_rescale(plain)
    for _, block, gate in gated_blocks(plain):
        _become_torchvision(block)
        del block._modules[next(name for name, child in block.named_children() if child is gate)]
    others = [name for name, module in plain.named_modules() if isinstance(module, StochasticGate)]
    if others:
        raise ValueError(f"gates must sit in torchvision's residual blocks, got others at {', '.join(others)}")
    _become_torchvision(plain)
    for attribute in ("recipe", "categories", "_hub_mixin_config"):
        plain.__dict__.pop(attribute, None)
    return plain


def _become_torchvision(module: nn.Module) -> None:
    """Make a module of a class derived from torchvision's one of torchvision's."""
    base = next((cls for cls in type(module).__mro__ if cls.__module__.startswith("torchvision.")), None)
    if base is None:
        raise ValueError(f"gates must sit in torchvision's residual blocks, got one in {type(module).__name__}")
    module.__class__ = base
