"""Stochastic depth over the course of one training: what the callbacks of all trainers do."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..gates import check_probability
from ..schedules import SurvivalSchedule
from ..surgery import apply_stochastic_depth
from ..survival import count_flops, survival_probs

__all__ = ["Course"]


class Course:
    """Apply, schedule and measure.

    Args:
        drop_rate: that of :func:`apply_stochastic_depth`; None: the stochastic blocks of the model stay as they are.
        drop_warmup: share of the training, in ``[0, 1]``, over which the survival probabilities fall from 1 to their
            values; 0: they have them from the start.
        input_size: ``(N, C, H, W)`` for counting FLOPs; None: that of the first batch.
        options: other arguments of :func:`apply_stochastic_depth`.

    Raises:
        TypeError: a rate of the wrong type.
        ValueError: a rate outside ``[0, 1]`` or nan.
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
        self.drop_rate = drop_rate
        self.drop_warmup = check_probability("drop_warmup", drop_warmup)
        self.input_size = input_size
        self.options = options
        self.schedule: SurvivalSchedule | None = None
        self._model: nn.Module | None = None
        self._flops: tuple[int, list[int]] | None = None

    def begin(self, model: nn.Module, total_steps: int) -> None:
        """Make the model stochastic and start the schedule.

        Args:
            model: what is trained.
            total_steps: optimizer steps of the training.

        Raises:
            ValueError: the model has no known block, or with ``drop_rate=None`` no stochastic one.
        """
        if self.drop_rate is not None:
            apply_stochastic_depth(model, drop_rate=self.drop_rate, **self.options)
        elif not survival_probs(model):
            raise ValueError(f"drop_rate=None needs a model with stochastic blocks, got {type(model).__name__}")
        self._model, self._flops = model, None
        self.schedule = SurvivalSchedule(model, total_steps, share=self.drop_warmup) if self.drop_warmup else None

    def count(self, input_size: Sequence[int]) -> None:
        """Count the FLOPs of a forward pass of this size, or of the size given at construction; once."""
        if self._model is not None and self._flops is None:
            self._flops = count_flops(self._model, self.input_size or input_size)

    @property
    def counted(self) -> bool:
        """Whether the FLOPs have been counted."""
        return self._flops is not None

    def step(self) -> None:
        """Take one step of the schedule."""
        if self.schedule is not None:
            self.schedule.step()

    def metrics(self) -> dict[str, float]:
        """Return the mean survival probability, and the FLOPs that a forward pass executes, expected over the gates."""
        if self._model is None:
            return {}
        probs = survival_probs(self._model)
        metrics = {"stochastic_depth/survival_prob": sum(probs) / len(probs)}
        if self._flops is not None:
            full, gated = self._flops
            executed = full - sum((1.0 - prob) * flops for prob, flops in zip(probs, gated, strict=True))
            metrics["stochastic_depth/flops"] = executed
            metrics["stochastic_depth/flops_share"] = executed / full if full else 1.0
        return metrics
