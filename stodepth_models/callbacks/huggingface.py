"""Stochastic depth as a callback of the Hugging Face ``Trainer``. Imports ``transformers``."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from .course import Course


class StochasticDepthCallback(TrainerCallback, ExportableState):
    """Apply stochastic depth when training begins, and let it grow over a share of the training.

    Adds to every training log ``stochastic_depth/survival_prob``, the mean over the blocks, and
    ``stochastic_depth/flops`` and ``stochastic_depth/flops_share``, what a forward pass executes, expected over the
    gates. They are in ``trainer.state.log_history`` and reach the callbacks behind this one; reporters such as
    TensorBoard run first, unless this one is put before them:
    ``trainer.callback_handler.callbacks.insert(0, callback)``. A training that resumes from a checkpoint goes on at
    its step of the schedule. After the training the model stays stochastic.

    Args:
        target_layer_name: this and the next three as in :func:`apply_stochastic_depth`.
        stochastic_method: ``"block"``, ``"sample"``, ``"batch"``, ``"row"`` or ``"subset"``.
        drop_rate: chance in ``[0, 1]``; None: stochastic blocks stay as they are, and a model without any has the
            rates of the masks (drop path) that it carries.
        drop_distribution: ``"linear"`` or ``"uniform"``.
        drop_warmup: share of the training, in ``[0, 1]``, over which survival falls from 1 to its values.
        rescale: ``"train"``, ``"eval"`` or ``"none"``.
        sync_gates: all ranks draw the same gates.
        input_size: ``(N, C, H, W)`` for counting FLOPs, of a model that takes one tensor; None: that of the first
            batch, with whatever else enters the model.

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
        self._options = {
            "target_layer_name": target_layer_name,
            "stochastic_method": stochastic_method,
            "drop_distribution": drop_distribution,
            "rescale": rescale,
            "sync_gates": sync_gates,
        }
        self._course = Course(drop_rate, drop_warmup, input_size, self._options)
        self.schedule_state: dict[str, Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the model stochastic."""
        model: nn.Module = kwargs["model"]
        self._course.begin(model, state.max_steps)
        if self._course.schedule is not None and self.schedule_state is not None:
            self._course.schedule.load_state_dict(self.schedule_state)
            self.schedule_state = None  # the next training of this trainer begins at its own start
        else:
            for _ in range(state.global_step):
                self._course.step()
        self._count_at_first_forward(model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take a step of the schedule after each step of the optimizer."""
        self._course.step()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add to the logs of a training step."""
        if logs is not None and "loss" in logs:
            logs.update(self._course.metrics())
            state.log_history[-1].update(self._course.metrics())

    def state(self) -> dict[str, Any]:
        """Return what ``restore_callback_states_from_checkpoint`` brings back."""
        target = self._options["target_layer_name"]
        arguments = {
            **self._options,
            "target_layer_name": target.__name__ if isinstance(target, type) else target,
            "drop_rate": self._course.drop_rate,
            "drop_warmup": self._course.drop_warmup,
            "input_size": self._course.input_size,
        }
        schedule = self._course.schedule
        return {
            "args": arguments,
            "attributes": {"schedule_state": None if schedule is None else schedule.state_dict()},
        }

    def _count_at_first_forward(self, model: nn.Module) -> None:
        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            handle.remove()  # before the model is copied
            if self._course.input_size is None:
                self._course.count(*args, **kwargs)
            else:
                self._course.count(torch.empty(tuple(self._course.input_size), device="meta"))

        handle = model.register_forward_pre_hook(count, with_kwargs=True)
