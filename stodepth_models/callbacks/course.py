"""Stochastic depth over the course of one training: what the callbacks of all trainers do."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..blocks.surgery import apply_stochastic_depth, check_method
from ..checks import check_probability
from ..flops import FlopCount, count_flops
from ..schedules import SurvivalSchedule
from ..survival import survival_probs


class Course:
    """Apply, schedule and measure.

    Args:
        drop_rate: that of :func:`apply_stochastic_depth`; None: stochastic blocks stay as they are, and a model without
            any has the rates of the masks that it carries.
        drop_warmup: share of the training, in ``[0, 1]``, over which the survival probabilities fall from 1 to their
            values; 0: they have them from the start.
        input_size: ``(N, C, H, W)`` for counting FLOPs; None: that of the first batch.
        options: other arguments of :func:`apply_stochastic_depth`, all of them.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value that is not allowed.
    """

    def __init__(
        self,
        drop_rate: float | None,
        drop_warmup: float,
        input_size: Sequence[int] | None,
        options: dict[str, Any],
    ) -> None:
        if drop_rate is not None:
            check_probability("drop_rate", drop_rate)
        check_method(**{name: value for name, value in options.items() if name != "target_layer_name"})
        self.drop_rate = drop_rate
        self.drop_warmup = check_probability("drop_warmup", drop_warmup)
        self.input_size = input_size
        self.options = options
        self.schedule: SurvivalSchedule | None = None
        self._model: nn.Module | None = None
        self.counted = False
        self._flops: FlopCount | None = None

    def begin(self, model: nn.Module, total_steps: int) -> None:
        """Make the model stochastic and start the schedule.

        Args:
            model: what is trained.
            total_steps: optimizer steps of the training.

        Raises:
            ValueError: the model has no known block, or with ``drop_rate=None`` neither stochastic blocks nor masks.
        """
        if self.drop_rate is not None or not survival_probs(model):
            apply_stochastic_depth(model, drop_rate=self.drop_rate, **self.options)
        self._model, self._flops, self.counted = model, None, False
        self.schedule = SurvivalSchedule(model, total_steps, share=self.drop_warmup) if self.drop_warmup else None

    def count(self, *args: Any, **kwargs: Any) -> None:
        """Count the FLOPs of the model's forward pass with these arguments; once.

        Warns:
            UserWarning: the model does not take them, or not on the meta device; no FLOPs are logged then.
        """
        if self._model is None or self.counted:
            return
        self.counted = True
        try:
            self._flops = count_flops(self._model, *args, **kwargs)
        except Exception as error:  # whatever a model raises; it must not end a training
            reason = next(iter(str(error).splitlines()), "")
            self.leave_out_flops(f"{type(error).__name__}: {reason}")

    def leave_out_flops(self, reason: str) -> None:
        """Count no FLOPs in this training, and warn of it."""
        self.counted = True
        warnings.warn(f"the FLOPs of {type(self._model).__name__} are not logged: {reason}", stacklevel=3)

    def step(self) -> None:
        """Take one step of the schedule."""
        if self.schedule is not None:
            self.schedule.step()

    def metrics(self, part: str | None = None) -> dict[str, float]:
        """Return the mean survival probability, and the FLOPs that a forward pass executes, expected over the gates.

        Args:
            part: name for what is trained, in the names of the metrics; None: it needs none.
        """
        if self._model is None:
            return {}
        prefix = "stochastic_depth" if part is None else f"stochastic_depth/{part}"
        probs = survival_probs(self._model)
        metrics = {f"{prefix}/survival_prob": sum(probs) / len(probs)}
        if self._flops is not None:
            expected = self._flops.expected(probs)
            metrics[f"{prefix}/flops"] = expected.training
            metrics[f"{prefix}/flops_share"] = expected.share
        return metrics
