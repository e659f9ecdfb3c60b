"""Plain torchvision models out of ours."""

import copy

from torch import nn
from torchvision.models import ResNet

from ..layers.stochastic_gate import StochasticGate
from ..weights.config import Recorded
from .fold import fold_rescale, gated_blocks
from .registry import original_class
from .swap import check_swappable

__all__ = ["to_torchvision"]

NOTES = {"recipe", "categories", "checkpoint_stages", "_hub_mixin_config"}  # of builders, on the models they make


def to_torchvision(model: nn.Module) -> ResNet:
    """Return a plain ``torchvision.models.ResNet`` with the same evaluation outputs; ``model`` is left as it is.

    Evaluation scales are folded into the weights. The result needs nothing of this package, also when pickled, and
    keeps what others have noted on the model.

    Args:
        model: a model of the ImageNet family.

    Raises:
        TypeError: ``model`` is not a torchvision ResNet, or of a subclass of it.
        ValueError: a model of the CIFAR family, which torchvision has no class for, or one with gates in other places
            than its residual blocks, or in blocks that :func:`remove_stochastic_depth` refuses.
    """
    if not isinstance(model, ResNet):
        kind = type(model).__name__
        if isinstance(model, Recorded):
            raise ValueError(
                f"model must be of the ImageNet family, torchvision has no {kind}: use fold_rescale(model)"
            )
        raise TypeError(f"model must be a torchvision ResNet with stochastic depth, got {kind}")
    if _foreign_class(model) is not ResNet:
        raise TypeError(
            f"model must be a ResNet itself, got its subclass {type(model).__name__}, whose own code would be lost: "
            "use remove_stochastic_depth(model)"
        )
    check_swappable("", model)
    for name, block, _ in gated_blocks(model):
        check_swappable(name, block)
    plain = copy.deepcopy(model)
    fold_rescale(plain)
    for _, block, gate in gated_blocks(plain):
        del block._modules[next(name for name, child in block.named_children() if child is gate)]
        _check_torchvisions(block)
    others = [name for name, module in plain.named_modules() if isinstance(module, StochasticGate)]
    if others:
        raise ValueError(f"gates must sit in torchvision's residual blocks, got others at {', '.join(others)}")
    for module in plain.modules():
        module.__class__ = _foreign_class(module)
    if isinstance(model, Recorded):
        for attribute in vars(plain).keys() & NOTES:
            delattr(plain, attribute)
    return plain


def _foreign_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, or the nearest base that is not of this package."""
    return next(
        cls for cls in original_class(type(module)).__mro__ if cls.__module__.split(".")[0] != "stodepth_models"
    )


def _check_torchvisions(block: nn.Module) -> None:
    if not _foreign_class(block).__module__.startswith("torchvision."):
        raise ValueError(f"gates must sit in torchvision's residual blocks, got one in {type(block).__name__}")
