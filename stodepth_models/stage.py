"""A stage of residual blocks, with activation checkpointing."""

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

__all__ = ["Stage"]


class Stage(nn.Sequential):
    """Residual blocks that can trade a second forward pass for the memory of their activations.

    The second pass replays the gates of the first: a dropped branch is not recomputed either.

    Args:
        *blocks: the blocks, input side first.
        checkpoint: in training, keep the activations of about the square root of the number of blocks at a time
            (Chen et al., arXiv:1604.06174) and recompute the others in the backward pass.
    """

    def __init__(self, *blocks: nn.Module, checkpoint: bool = False) -> None:
        super().__init__(*blocks)
        self.checkpoint = checkpoint

    def forward(self, x: Tensor) -> Any:
        """Return the output of the last block for ``x``, ``(N, C, H, W)``."""
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint_sequential(self, max(2, isqrt(len(self))), x, use_reentrant=False)
        return super().forward(x)
