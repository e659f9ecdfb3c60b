"""Stochastic depth as a callback of Lightning. Imports ``lightning``."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from .course import Course


class StochasticDepth(Callback):
    """Apply stochastic depth at the start of a fit, and let it grow over a share of the training.

    Logs, at every training batch, ``stochastic_depth/survival_prob``, the mean over the blocks, and
    ``stochastic_depth/flops`` and ``stochastic_depth/flops_share``, what a forward pass executes, expected over the
    gates. The schedule is saved in the trainer's checkpoints and goes on from there. After the fit the model stays
    stochastic; :func:`remove_stochastic_depth` makes it plain.

    Args:
        target_layer_name: this and the next three as in :func:`apply_stochastic_depth`.
        stochastic_method: ``"block"``, ``"sample"``, ``"batch"``, ``"row"`` or ``"subset"``.
        drop_rate: chance in ``[0, 1]``; None: stochastic blocks stay as they are, and a model without any has the
            rates of the masks (drop path) that it carries.
        drop_distribution: ``"linear"`` or ``"uniform"``.
        drop_warmup: share of the training, in ``[0, 1]``, over which survival falls from 1 to its values.
        rescale: ``"train"``, ``"eval"`` or ``"none"``.
        sync_gates: all ranks draw the same gates.
        submodule: name of the part of the LightningModule that holds the blocks; None: all of it. Each part can have
            a callback of its own: what it logs is ``stochastic_depth/<submodule>/survival_prob`` and so on.
        total_steps: optimizer steps of the training; None: Lightning's estimate.
        input_size: ``(N, C, H, W)`` for counting FLOPs; None: the first tensor of the first batch.

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
        submodule: str | None = None,
        total_steps: int | None = None,
        input_size: Sequence[int] | None = None,
    ) -> None:
        options = {
            "target_layer_name": target_layer_name,
            "stochastic_method": stochastic_method,
            "drop_distribution": drop_distribution,
            "rescale": rescale,
            "sync_gates": sync_gates,
        }
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.submodule = submodule
        self.total_steps = total_steps
        self._course = Course(drop_rate, drop_warmup, input_size, options)
        self._restored: dict[str, Any] | None = None
        self._seen_steps = 0

    @property
    def state_key(self) -> str:
        """Name of the callback's state in a checkpoint: one for each submodule."""
        return super().state_key if self.submodule is None else self._generate_state_key(submodule=self.submodule)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the model stochastic."""
        model: nn.Module = pl_module if self.submodule is None else pl_module.get_submodule(self.submodule)
        self._course.begin(model, self._total_steps(trainer))
        if type(model).forward is LightningModule.forward:
            self._course.leave_out_flops("it has no forward: name the network in it, StochasticDepth(submodule=...)")
        self._restore()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where the training resumes."""
        self._seen_steps = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log what this batch is trained with."""
        if not self._course.counted:
            self._count_flops(batch)
        pl_module.log_dict(self._course.metrics(self.submodule), batch_size=1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a step of the schedule after each step of the optimizer."""
        if trainer.global_step != self._seen_steps:
            self._seen_steps = trainer.global_step
            self._course.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule's state."""
        schedule = self._course.schedule
        return {} if schedule is None else {"schedule": schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a schedule's state, now or when the fit starts."""
        self._restored = state_dict.get("schedule")
        self._restore()

    def _count_flops(self, batch: Any) -> None:
        size = self._course.input_size or _size(batch)
        if size is None:
            reason = "the first value of a batch is no tensor: give StochasticDepth(input_size=(N, C, H, W))"
            self._course.leave_out_flops(reason)
        else:
            self._course.count(torch.empty(tuple(size), device="meta"))

    def _restore(self) -> None:
        if self._restored is not None and self._course.schedule is not None:
            self._course.schedule.load_state_dict(self._restored)
            self._restored = None

    def _total_steps(self, trainer: Trainer) -> int:
        if self.total_steps is not None or not self._course.drop_warmup:
            return 1 if self.total_steps is None else self.total_steps
        estimate = trainer.estimated_stepping_batches
        if estimate == float("inf"):
            raise ValueError("drop_warmup is a share of a training without end: give StochasticDepth(total_steps=...)")
        return int(estimate)


def _size(batch: Any) -> Sequence[int] | None:
    """Return the shape of the first tensor of a batch; None where the batch begins with something else."""
    values = list(batch.values()) if isinstance(batch, Mapping) else batch
    first = values[0] if isinstance(values, (list, tuple)) and values else values
    if isinstance(first, Tensor):
        return first.shape
    return None
