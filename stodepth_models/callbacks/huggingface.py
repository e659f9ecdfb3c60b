"""Stochastic depth as a callback of the Hugging Face ``Trainer``. Imports ``transformers``."""

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from .base import CallbackBase


class StochasticDepthCallback(CallbackBase, TrainerCallback, ExportableState):
    """Apply stochastic depth when training begins, and let it grow over a share of the training.

    Adds to every training log ``stochastic_depth/survival_prob``, the mean over the blocks, and
    ``stochastic_depth/flops`` and ``stochastic_depth/flops_share``, what a forward pass executes, expected over the
    gates. They are in ``trainer.state.log_history`` and reach the callbacks behind this one; reporters such as
    TensorBoard run first, unless this one is put before them:
    ``trainer.callback_handler.callbacks.insert(0, callback)``. A training that resumes from a checkpoint goes on at
    its step of the schedule. After the training the model stays stochastic.

    The arguments are those of :class:`CallbackBase`. With ``input_size`` the FLOPs are those of a model that takes one
    tensor; without it those of the first batch, with whatever else enters the model.
    """

    # Of a checkpoint, from which the trainer sets it before the training begins.
    schedule_state: dict[str, Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the model stochastic."""
        model: nn.Module = kwargs["model"]
        self._begin(model, state.max_steps)
        if self._schedule is not None and self.schedule_state is not None:
            self._schedule.load_state_dict(self.schedule_state)
            self.schedule_state = None  # the next training of this trainer begins at its own start
        else:
            # The checkpoint was written without this callback: the schedule follows the steps of the trainer.
            for _ in range(state.global_step):
                self._step()
        self._count_at_first_forward(model)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take a step of the schedule after each step of the optimizer."""
        self._step()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add to the logs of a training step."""
        # The trainer has put a copy of the logs into its history before it calls this.
        if logs is not None and "loss" in logs:
            logs.update(self._metrics())
            state.log_history[-1].update(self._metrics())

    def state(self) -> dict[str, Any]:
        """Return what ``restore_callback_states_from_checkpoint`` brings back."""
        # The trainer writes JSON, which has no classes: one is found again by its name.
        target = self.target_layer_name
        if isinstance(target, type):
            target = target.__name__
        arguments = {
            "target_layer_name": target,
            "stochastic_method": self.stochastic_method,
            "drop_rate": self.drop_rate,
            "drop_distribution": self.drop_distribution,
            "drop_warmup": self.drop_warmup,
            "rescale": self.rescale,
            "sync_gates": self.sync_gates,
            "input_size": self.input_size,
        }
        schedule_state = None
        if self._schedule is not None:
            schedule_state = self._schedule.state_dict()
        return {"args": arguments, "attributes": {"schedule_state": schedule_state}}

    def _count_at_first_forward(self, model: nn.Module) -> None:
        """Count the FLOPs when the model is called first: the arguments of its forward pass are known only then."""

        def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            handle.remove()  # before the model is copied, with its hooks
            if self.input_size is None:
                self._count_flops(*args, **kwargs)
            else:
                self._count_flops_of_images(self.input_size)

        handle = model.register_forward_pre_hook(count, with_kwargs=True)
