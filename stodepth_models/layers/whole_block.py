"""A module that leaves out a whole block at random."""

import torch
import torch.fx
from torch import Tensor, nn

from .branch import call_with_one_row, keep_in_ddp_graph, refuse_collectives
from .draw import check_probability, draw_batch
from .eager import EAGER_DEVICES, call_eagerly
from .stochastic_gate import StochasticGate
from .tracing import trace_as_leaf

__all__ = ["StochasticDepthBlock"]


class StochasticDepthBlock(StochasticGate):
    """Leave out a whole block at random, down to its shortcut.

    In training the block, or with probability ``1 - stoch_depth_probability`` its shortcut alone: one gate a forward
    pass. In evaluation the block, unscaled.

    Args:
        block: module with a ``shortcut`` (or ``downsample``) module; None stands for the identity.
        stoch_depth_probability: chance in ``[0, 1]`` that the block is kept.
        sync_gates: see :class:`StochasticGate`.

    Raises:
        TypeError: ``block`` has no ``shortcut`` and no ``downsample``, or the probability is no number.
        ValueError: ``stoch_depth_probability`` outside ``[0, 1]`` or nan.
    """

    def __init__(self, block: nn.Module, stoch_depth_probability: float, *, sync_gates: bool = False) -> None:
        check_probability("stoch_depth_probability", stoch_depth_probability)
        if not (hasattr(block, "shortcut") or hasattr(block, "downsample")):
            raise TypeError(f"block must have a shortcut or a downsample, got {type(block).__name__} without either")
        super().__init__(stoch_depth_probability, sync_gates)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return ``block(x)``, or in training at random ``shortcut(x)``; ``x`` is ``(N, ...)``."""
        if isinstance(x, torch.fx.Proxy):
            return trace_as_leaf(self, x)
        return self._forward_gated(x) if self.draws() else self.block(x)

    @torch.compiler.disable(recursive=False)
    def _forward_gated(self, x: Tensor) -> Tensor:
        if self._survives():
            if len(x) == 1:
                return call_with_one_row(self.block, x)
            return call_eagerly(self.block, x) if x.device.type in EAGER_DEVICES else self.block(x)
        shortcut = getattr(self.block, "shortcut", None) or getattr(self.block, "downsample", None)
        return self._shortened(x, x if shortcut is None else shortcut(x))

    @torch.compiler.disable
    def _survives(self) -> bool:
        if not self.sync_gates:
            refuse_collectives(self.block)
        survives = draw_batch(self.survival_prob, self.sync_gates)
        self.last_share = float(survives)
        return survives

    @torch.compiler.disable
    def _shortened(self, x: Tensor, out: Tensor) -> Tensor:
        # A copy of the input: what follows may write in place, and autograd, or a caller, still need the input.
        return keep_in_ddp_graph(out.clone() if out is x else out, self.block)

    def extra_repr(self) -> str:
        return f"survival_prob={self.survival_prob:.4g}"
