"""Stochastic depth as a callback of Lightning. Imports ``lightning``."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from .base import CallbackBase


class StochasticDepth(CallbackBase, Callback):
    """Apply stochastic depth at the start of a fit, and let it grow over a share of the training.

    Logs, at every training batch, ``stochastic_depth/survival_prob``, the mean over the blocks, and
    ``stochastic_depth/flops`` and ``stochastic_depth/flops_share``, what a forward pass executes, expected over the
    gates. The schedule is saved in the trainer's checkpoints and goes on from there. After the fit the model stays
    stochastic; :func:`remove_stochastic_depth` makes it plain.

    Args:
        *args: those of :class:`CallbackBase`.
        submodule: name of the part of the LightningModule that holds the blocks; None: all of it. Each part can have
            a callback of its own: what it logs is ``stochastic_depth/<submodule>/survival_prob`` and so on.
        total_steps: optimizer steps of the training, at least 1; None: Lightning's estimate.
        **kwargs: those of :class:`CallbackBase`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value that is not allowed.
    """

    def __init__(
        self,
        *args: Any,
        submodule: str | None = None,
        total_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.submodule = submodule
        self.total_steps = total_steps
        self._restored: dict[str, Any] | None = None
        self._seen_steps = 0

    @property
    def state_key(self) -> str:
        """Name of the callback's state in a checkpoint: one for each submodule."""
        if self.submodule is None:
            return super().state_key
        return self._generate_state_key(submodule=self.submodule)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the model stochastic."""
        model: nn.Module = pl_module
        if self.submodule is not None:
            model = pl_module.get_submodule(self.submodule)
        self._begin(model, self._steps_of(trainer))
        # A LightningModule may call its networks in training_step alone: then there is no pass to count.
        if type(model).forward is LightningModule.forward:
            self._leave_out_flops("it has no forward: name the network in it, StochasticDepth(submodule=...)")
        self._restore()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where the training resumes."""
        self._seen_steps = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log what this batch is trained with."""
        if not self._has_counted:
            self._count_flops_of_batch(batch)
        pl_module.log_dict(self._metrics(self.submodule), batch_size=1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take a step of the schedule after each step of the optimizer."""
        # Gradients may be accumulated over several batches: not each batch has a step.
        if trainer.global_step != self._seen_steps:
            self._seen_steps = trainer.global_step
            self._step()

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule's state."""
        if self._schedule is None:
            return {}
        return {"schedule": self._schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a schedule's state, now or when the fit starts."""
        self._restored = state_dict.get("schedule")
        self._restore()

    def _restore(self) -> None:
        # Lightning loads the state before the fit starts, and with it the schedule.
        if self._restored is not None and self._schedule is not None:
            self._schedule.load_state_dict(self._restored)
            self._restored = None

    def _count_flops_of_batch(self, batch: Any) -> None:
        size = self.input_size or _size(batch)
        if size is None:
            reason = "the first value of a batch is no tensor: give StochasticDepth(input_size=(N, C, H, W))"
            self._leave_out_flops(reason)
        else:
            self._count_flops_of_images(size)

    def _steps_of(self, trainer: Trainer) -> int:
        """The optimizer steps of the training; 1 where no schedule needs them."""
        if self.total_steps is not None:
            return self.total_steps
        if self.drop_warmup == 0.0:
            return 1  # the estimate would load the data
        estimate = trainer.estimated_stepping_batches
        if estimate == float("inf"):
            raise ValueError("drop_warmup is a share of a training without end: give StochasticDepth(total_steps=...)")
        return int(estimate)


def _size(batch: Any) -> Sequence[int] | None:
    """Return the shape of the first tensor of a batch; None where the batch begins with something else."""
    first = batch
    if isinstance(batch, Mapping):
        batch = list(batch.values())
        first = None
    if isinstance(batch, (list, tuple)) and batch:
        first = batch[0]
    if isinstance(first, Tensor):
        return first.shape
    return None
