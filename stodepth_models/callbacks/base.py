"""What the callbacks of all trainers share: their arguments, and stochastic depth over the course of a training."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..blocks.surgery import apply_stochastic_depth, check_method
from ..checks import check_probability
from ..flops import FlopCount, count_flops, images_for
from ..schedules import SurvivalSchedule
from ..survival import survival_probs


class CallbackBase:
    """Make a model stochastic, let the survival probabilities fall over a share of the training, and measure.

    Args:
        target_layer_name: this and the next three as in :func:`apply_stochastic_depth`.
        stochastic_method: ``"block"``, ``"sample"``, ``"batch"``, ``"row"`` or ``"subset"``.
        drop_rate: chance in ``[0, 1]``; None: stochastic blocks stay as they are, and a model without any has the
            rates of the masks (drop path) that it carries.
        drop_distribution: ``"linear"`` or ``"uniform"``.
        drop_warmup: share of the training, in ``[0, 1]``, over which the survival probabilities fall from 1 to their
            values; 0: they have them from the start.
        rescale: ``"train"``, ``"eval"`` or ``"none"``.
        sync_gates: all ranks draw the same gates.
        input_size: ``(N, C, H, W)`` for counting FLOPs; None: that of the first batch.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value that is not allowed.
    """

    def __init__(
        self,
        target_layer_name: str | type[nn.Module] | None = None,
        stochastic_method: str = "block",
        drop_rate: float | None = 0.2,
        drop_distribution: str = "linear",
        drop_warmup: float = 0.0,
        *,
        rescale: str = "train",
        sync_gates: bool = False,
        input_size: Sequence[int] | None = None,
    ) -> None:
        if drop_rate is not None:
            check_probability("drop_rate", drop_rate)
        check_method(
            stochastic_method=stochastic_method,
            drop_distribution=drop_distribution,
            rescale=rescale,
            sync_gates=sync_gates,
        )
        self.target_layer_name = target_layer_name
        self.stochastic_method = stochastic_method
        self.drop_rate = drop_rate
        self.drop_distribution = drop_distribution
        self.drop_warmup = check_probability("drop_warmup", drop_warmup)
        self.rescale = rescale
        self.sync_gates = sync_gates
        self.input_size = input_size
        self._model: nn.Module | None = None  # what is trained, once a training has begun
        self._schedule: SurvivalSchedule | None = None
        self._flops: FlopCount | None = None
        self._has_counted = False

    def _begin(self, model: nn.Module, total_steps: int) -> None:
        """Make the model stochastic and start the schedule.

        Args:
            model: what is trained.
            total_steps: optimizer steps of the training.

        Raises:
            ValueError: the model has no known block, or with ``drop_rate=None`` neither stochastic blocks nor masks.
        """
        # A model that is stochastic already keeps its gates under drop_rate=None.
        if self.drop_rate is not None or not survival_probs(model):
            apply_stochastic_depth(
                model,
                target_layer_name=self.target_layer_name,
                stochastic_method=self.stochastic_method,
                drop_rate=self.drop_rate,
                drop_distribution=self.drop_distribution,
                rescale=self.rescale,
                sync_gates=self.sync_gates,
            )
        self._model = model
        self._flops = None
        self._has_counted = False
        self._schedule = None
        if self.drop_warmup > 0.0:
            self._schedule = SurvivalSchedule(model, total_steps, share=self.drop_warmup)

    def _step(self) -> None:
        """Take one step of the schedule."""
        if self._schedule is not None:
            self._schedule.step()

    def _count_flops(self, *args: Any, **kwargs: Any) -> None:
        """Count the FLOPs of the model's forward pass with these arguments; once.

        Warns:
            UserWarning: the model does not take them, or not on the meta device; no FLOPs are logged then.
        """
        if self._model is None or self._has_counted:
            return
        self._has_counted = True
        # A model may raise anything on the meta device, which it was not written for. The training goes on without.
        try:
            self._flops = count_flops(self._model, *args, **kwargs)
        except Exception as error:
            first_line = str(error).split("\n")[0]
            self._leave_out_flops(f"{type(error).__name__}: {first_line}")

    def _count_flops_of_images(self, input_size: Sequence[int]) -> None:
        """Count the FLOPs of a forward pass on images of this size; once."""
        if self._model is not None:
            self._count_flops(images_for(self._model, input_size))

    def _leave_out_flops(self, reason: str) -> None:
        """Count no FLOPs in this training, and warn of it."""
        self._has_counted = True
        warnings.warn(f"the FLOPs of {type(self._model).__name__} are not logged: {reason}", stacklevel=3)

    def _metrics(self, part: str | None = None) -> dict[str, float]:
        """Return the mean survival probability, and the FLOPs that a forward pass executes, expected over the gates.

        Args:
            part: name of the submodule that is trained, which the names of the metrics hold; None: the whole model.
        """
        if self._model is None:
            return {}
        prefix = "stochastic_depth"
        if part is not None:
            prefix = f"stochastic_depth/{part}"
        probs = survival_probs(self._model)
        metrics = {f"{prefix}/survival_prob": sum(probs) / len(probs)}
        # None before the first batch, and where the model could not run on the meta device.
        if self._flops is not None:
            expected = self._flops.expected(probs)
            metrics[f"{prefix}/flops"] = expected.training
            metrics[f"{prefix}/flops_share"] = expected.share
        return metrics
