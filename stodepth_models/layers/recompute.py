"""Activation checkpointing: a stage of residual blocks that recomputes activations in the backward pass.

Whatever is called in a forward pass, hooks of the user among it, is called a second time then.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from math import ceil, isqrt
from typing import Any

import torch.fx
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .branch import BATCH_NORMS
from .residual import StochasticGate, draws_anywhere

# Of a gate. A schedule, or the user, may set them anew between the two passes.
SETTINGS = ("survival_prob", "mode", "rescale")


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
        recomputes = self.checkpoint and self.training and torch.is_grad_enabled()
        if isinstance(x, torch.fx.Proxy) or not recomputes:
            return super().forward(x)
        if torch.compiler.is_compiling() and not draws_anywhere(self):
            # Without contexts for the second pass: the compiler counts a batch once, however often it recomputes.
            for segment in self._segments():
                x = checkpoint(partial(_run, segment), x, use_reentrant=False)
            return x
        return self._forward_twice(x)

    @torch.compiler.disable
    def _forward_twice(self, x: Tensor) -> Tensor:
        for segment in self._segments():
            x = checkpoint(
                partial(_run, segment),
                x,
                use_reentrant=False,
                context_fn=partial(_passes, segment),
            )
        return x

    def _segments(self) -> list[list[nn.Module]]:
        blocks = list(self.children())
        # About sqrt(n) segments of sqrt(n) blocks keep the fewest activations (arXiv:1604.06174, sec. 4.1).
        count = max(1, isqrt(len(blocks)))
        size = ceil(len(blocks) / count)
        return [blocks[start : start + size] for start in range(0, len(blocks), size)]


def _run(blocks: list[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _passes(blocks: list[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and of the second forward pass."""
    return nullcontext(), _SecondPass(blocks)


class _SecondPass(AbstractContextManager[None]):
    """Compute what the first pass computed, also where gates were set anew since, and count no batch again.

    Made at the first pass, and entered at each backward pass through it.
    """

    def __init__(self, blocks: list[nn.Module]) -> None:
        self._norms: list[Any] = []
        self._settings: list[tuple[nn.Module, str, Any]] = []
        for module in nn.ModuleList(blocks).modules():
            if isinstance(module, StochasticGate):
                self._remember(module)
            elif isinstance(module, BATCH_NORMS) and module.num_batches_tracked is not None:
                self._norms.append(module)
        # A graph that is retained passes here more than once, and passes can lie within one another.
        self._entered: list[ExitStack] = []

    def _remember(self, gate: StochasticGate) -> None:
        for name in SETTINGS:
            if hasattr(gate, name):
                self._settings.append((gate, name, getattr(gate, name)))

    def __enter__(self) -> None:
        undo = ExitStack()
        for gate, name, value in self._settings:
            undo.callback(setattr, gate, name, getattr(gate, name))
            setattr(gate, name, value)
        for norm in self._norms:
            # A momentum of 0 leaves running mean and variance as they are; the counter is set back at the end.
            undo.callback(setattr, norm, "momentum", norm.momentum)
            undo.callback(norm.num_batches_tracked.copy_, norm.num_batches_tracked.clone())
            norm.momentum = 0.0
        self._entered.append(undo)

    def __exit__(self, *_: object) -> None:
        self._entered.pop().close()
