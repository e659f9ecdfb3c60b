"""The baseline of comparisons: branches that are computed and then masked, as timm and torchvision do."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...blocks.resnet import StoDepthBasicBlock, StoDepthBottleneck
from ...layers.functional import drop_path

__all__ = ["mask_branches"]


def mask_branches(model: nn.Module, survival: Sequence[float]) -> None:
    """Zero random rows of each branch in training and divide the others by their survival probability.

    Args:
        model: a model of the zoo at constant depth; its weights keep their names.
        survival: survival probability of each block, in forward order.
    """
    blocks = [module for module in model.modules() if isinstance(module, (StoDepthBasicBlock, StoDepthBottleneck))]
    for block, survival_prob in zip(blocks, survival, strict=True):
        block.last_norm.register_forward_hook(partial(_mask, survival_prob))


def _mask(survival_prob: float, norm: nn.Module, inputs: Any, out: Tensor) -> Tensor:
    return drop_path(out, survival_prob) if norm.training else out
