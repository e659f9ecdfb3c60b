"""What every module with a survival probability is."""

import torch
from torch import Tensor, nn

from .draw import check_flag, check_probability
from .eager import EAGER_DEVICES

__all__ = ["EVAL_SCALE", "StochasticGate", "draws_anywhere", "is_left_to_eager"]

EVAL_SCALE = "eval_scale"  # entry of a gate in the metadata of a state dict


class StochasticGate(nn.Module):
    """Base of every module with a survival probability: what :func:`survival_probs` and the schedules look for.

    Args:
        survival_prob: chance in ``[0, 1]`` that the gated work is done in a training step.
        sync_gates: all ranks of the default process group take the gates of rank 0. Needed where the gated work
            holds collectives (SyncBatchNorm, FSDP units), which would wait for ranks that skip it, and under FSDP2
            wherever its units are: it reduces the gradients that a rank has, position by position. Gates of rows
            need batches of one size on all ranks.

    Attributes:
        last_share: share in ``[0, 1]`` of the rows that survived when gates were last drawn.

    Raises:
        ValueError: ``survival_prob`` outside ``[0, 1]`` or nan.
    """

    def __init__(self, survival_prob: float = 1.0, sync_gates: bool = False) -> None:
        super().__init__()
        self.survival_prob = survival_prob
        self.sync_gates = check_flag("sync_gates", sync_gates)
        self.last_share = 1.0

    @property
    def survival_prob(self) -> float:
        """Chance in ``[0, 1]`` that the gated work is done in a training step."""
        return self._survival_prob

    @survival_prob.setter
    def survival_prob(self, value: float) -> None:
        self._survival_prob = check_probability("survival_prob", value)
        # Compiled code guards on this flag, so that a schedule that moves the probability does not recompile.
        self._always_survives = self._survival_prob == 1.0

    def draws(self) -> bool:
        """Return whether a forward pass draws gates now: in training, at a survival probability below 1.

        Raises:
            RuntimeError: the pass is being exported, which would freeze the gates.
        """
        if not self.training or self._always_survives:
            return False
        # The flag, not `is_exporting()`, which the compiler of torch 2.11 takes for true in any compilation.
        if torch.compiler._is_exporting_flag or torch.jit.is_tracing():
            raise RuntimeError("a training model would be exported with its gates frozen: call model.eval() first")
        return True


def draws_anywhere(model: nn.Module) -> bool:
    """Return whether a forward pass draws a gate.

    The compiler guards on every gate that is asked. The last one survives least, so it is the first to draw.
    """
    return any(isinstance(module, StochasticGate) and module.draws() for module in reversed([*model.modules()]))


def is_left_to_eager(model: nn.Module, x: Tensor) -> bool:
    """Return whether a compiler should leave the forward pass of a network alone: it draws gates, on a slow device."""
    return torch.compiler.is_compiling() and x.device.type in EAGER_DEVICES and draws_anywhere(model)
