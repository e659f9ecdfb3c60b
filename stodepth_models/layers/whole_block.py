"""A gate around a whole block, down to its shortcut."""

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

from ..checks import check_probability
from .branch import refuse_collectives, zero_gradients_for_ddp
from .draw import draw_batch, has_other_ranks
from .residual import StochasticGate, call_branch
from .tracing import trace_as_leaf


class StochasticDepthBlock(StochasticGate):
    """Leave out a whole block at random, down to its shortcut.

    In training the block, or with probability ``1 - stoch_depth_probability`` its shortcut alone: one gate a forward
    pass. In evaluation the block, unscaled.

    Args:
        block: module with a ``shortcut`` (or ``downsample``) module; None stands for the identity.
        stoch_depth_probability: chance in ``[0, 1]`` that the block is kept; can be read and set later.
        sync_gates: see :class:`StochasticGate`.

    Raises:
        TypeError: ``block`` has no ``shortcut`` and no ``downsample``, or the probability is no number.
        ValueError: ``stoch_depth_probability`` outside ``[0, 1]`` or nan.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> block = torch.nn.Linear(2, 2)
        >>> block.shortcut = None  # the identity
        >>> layer = sdm.StochasticDepthBlock(block, 0.0)
        >>> layer(torch.ones(1, 2))  # in training the block is always left out
        tensor([[1., 1.]])
        >>> layer.stoch_depth_probability = 0.8
    """

    def __init__(self, block: nn.Module, stoch_depth_probability: float, *, sync_gates: bool = False) -> None:
        check_probability("stoch_depth_probability", stoch_depth_probability)
        if not (hasattr(block, "shortcut") or hasattr(block, "downsample")):
            raise TypeError(f"block must have a shortcut or a downsample, got {type(block).__name__} without either")
        super().__init__(stoch_depth_probability, sync_gates)
        self.block = block

    @property
    def stoch_depth_probability(self) -> float:
        """Chance in ``[0, 1]`` that the block is kept; another name of ``survival_prob``."""
        return self.survival_prob

    @stoch_depth_probability.setter
    def stoch_depth_probability(self, value: float) -> None:
        self.survival_prob = check_probability("stoch_depth_probability", value)

    def forward(self, x: Tensor) -> Any:
        """Return ``block(x)``, or in training at random ``shortcut(x)``; ``x`` is ``(N, ...)``."""
        if isinstance(x, torch.fx.Proxy):
            return trace_as_leaf(self, x)
        if self.draws():
            return self._forward_gated(x)
        return self.block(x)

    @torch.compiler.disable
    def _forward_gated(self, x: Tensor) -> Tensor:
        if not self.sync_gates and has_other_ranks():
            refuse_collectives(self.block)
        survives = draw_batch(self.survival_prob, self.sync_gates)
        self.last_share = float(survives)
        if survives:
            return call_branch(self.block, x)
        # Either may be there and be None, or an empty nn.Sequential, which is false too: both are the identity.
        shortcut = getattr(self.block, "shortcut", None) or getattr(self.block, "downsample", None)
        if shortcut is not None:
            return zero_gradients_for_ddp(shortcut(x), self.block)
        # A copy: what follows may write in place, and autograd, or a caller, still need the input.
        return zero_gradients_for_ddp(x.clone(), self.block)

    def extra_repr(self) -> str:
        return f"survival_prob={self.survival_prob:.4g}"
