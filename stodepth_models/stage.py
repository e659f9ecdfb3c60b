"""A stage of residual blocks, with activation checkpointing."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import ceil, isqrt
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["Stage"]


class Stage(nn.Sequential):
    """Residual blocks that can trade a second forward pass for the memory of their activations.

    The second pass replays the gates of the first: a dropped branch is not recomputed either. It leaves the
    batch-norm statistics alone.

    Args:
        *blocks: the blocks, input side first.
        checkpoint: in training, keep the activations of about the square root of the number of blocks at a time
            (Chen et al., arXiv:1604.06174) and recompute the others in the backward pass.
    """

    def __init__(self, *blocks: nn.Module, checkpoint: bool = False) -> None:
        super().__init__(*blocks)
        self.checkpoint = checkpoint

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, slice):
            found.checkpoint = self.checkpoint
        return found

    def forward(self, x: Tensor) -> Any:
        """Return the output of the last block for ``x``, ``(N, C, H, W)``."""
        if isinstance(x, torch.fx.Proxy) or not (self.checkpoint and self.training and torch.is_grad_enabled()):
            return super().forward(x)
        blocks = list(self.children())
        size = ceil(len(blocks) / max(1, isqrt(len(blocks))))
        for start in range(0, len(blocks), size):
            segment = nn.Sequential(*blocks[start : start + size])
            x = checkpoint(segment, x, use_reentrant=False, context_fn=partial(_passes, segment))
        return x


def _passes(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and of the second forward pass."""
    return nullcontext(), _without_statistics(segment)


@contextmanager
def _without_statistics(segment: nn.Module) -> Iterator[None]:
    """Normalise by the batch, as the first pass did, but do not count the batch again."""
    norms: list[Any] = [m for m in segment.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None]
    before = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
