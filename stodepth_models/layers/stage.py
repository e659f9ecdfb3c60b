"""A stage of residual blocks, with activation checkpointing."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from math import ceil, isqrt
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .branch import BATCH_NORMS
from .residual import StochasticGate, draws_anywhere

SETTINGS = ("survival_prob", "mode", "rescale")  # of a gate, which a schedule may move before the backward pass


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
        if torch.compiler.is_compiling() and not draws_anywhere(self):
            for segment in self._segments():  # the compiler counts a batch once, however often it recomputes
                x = checkpoint(partial(_run, segment), x, use_reentrant=False)
            return x
        return self._forward_twice(x)

    @torch.compiler.disable
    def _forward_twice(self, x: Tensor) -> Tensor:
        for segment in self._segments():
            x = checkpoint(partial(_run, segment), x, use_reentrant=False, context_fn=partial(_passes, segment))
        return x

    def _segments(self) -> list[list[nn.Module]]:
        blocks = list(self.children())
        size = ceil(len(blocks) / max(1, isqrt(len(blocks))))
        return [blocks[start : start + size] for start in range(0, len(blocks), size)]


def _run(blocks: list[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _passes(blocks: list[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and of the second forward pass."""
    return nullcontext(), _SecondPass([module for block in blocks for module in block.modules()])


class _SecondPass(AbstractContextManager[None]):
    """Compute what the first pass computed, also where gates were set anew since, and count no batch again.

    Made at the first pass, and entered at each backward pass through it.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._norms: list[Any] = [
            m for m in modules if isinstance(m, BATCH_NORMS) and m.num_batches_tracked is not None
        ]
        gates = [module for module in modules if isinstance(module, StochasticGate)]
        settings = [(gate, name) for gate in gates for name in SETTINGS if hasattr(gate, name)]
        self._settings = [(gate, name, getattr(gate, name)) for gate, name in settings]
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        undo = ExitStack()
        for gate, name, value in self._settings:
            undo.callback(setattr, gate, name, getattr(gate, name))
            setattr(gate, name, value)
        for norm in self._norms:
            undo.callback(setattr, norm, "momentum", norm.momentum)
            undo.callback(norm.num_batches_tracked.copy_, norm.num_batches_tracked.clone())
            norm.momentum = 0.0
        self._entered.append(undo)

    def __exit__(self, *_: object) -> None:
        self._entered.pop().close()
