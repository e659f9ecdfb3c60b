"""The loop: steps, epochs, checkpoints. Reads from top to bottom as a run goes."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ...survival import survival_probs
from ..config import TrainConfig
from ..data.augmentation import make_transform
from ..data.batches import Batch, TrainBatches
from ..data.datasets import Data
from ..data.order import SampleOrder
from ..errors import Diverged, Interrupted, SettingsError
from .folder import RunFolder
from .learner import Learner
from .machine import any_process
from .progress import EpochBar, Progress, Speed
from .signals import StopRequest
from .state import (
    checkpoints,
    get_rng,
    load_last_checkpoint,
    load_parts,
    save_checkpoint,
    save_parts,
    seed_gates,
    set_rng,
)


class Trainer:
    """A model, its optimizer and its data, step by step.

    Args:
        config: settings.
        accelerator: device and processes.
        data: images.
        folder: where checkpoints go.
        stop: asked at every step whether to go on.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, data: Data, folder: RunFolder, stop: StopRequest
    ) -> None:
        self.config, self.accelerator, self.data, self.folder, self.stop = config, accelerator, data, folder, stop
        self.batches = self._make_batches()
        self.steps_per_epoch = self.batches.order.steps
        self.learner = Learner(config, folder.model(config), accelerator, data, self.steps_per_epoch)
        self.progress = Progress()
        self._record_start()
        self.saved = time.monotonic()
        seed_gates(config.seed, accelerator.process_index)

    def _make_batches(self) -> TrainBatches:
        config, data, accelerator = self.config, self.data, self.accelerator
        assert data.train is not None
        labels, weights = data.train.labels, None
        if config.data.sampling == "balanced":
            weights = 1 / labels.bincount()[labels]
        order = SampleOrder(
            len(labels), config.batch_size, config.seed, accelerator.process_index, accelerator.num_processes,
            config.optim.accumulate, config.data.mixes, weights,
        )  # fmt: skip
        transform = make_transform(config.data, data) if config.data.uses_timm else None
        return TrainBatches(data, order, accelerator.device, config.data.workers, transform)

    def train_epoch(self) -> dict[str, float]:
        """Train to the end of the epoch begun, and return its mean loss, accuracy, time and rate.

        Raises:
            Interrupted: a signal came; a checkpoint is written.
            Diverged: the loss is not a number.
        """
        progress, speed = self.progress, Speed()
        self.learner.train()
        self.pending: list[Tensor] = []
        before, processor_before = progress.epoch_seconds, progress.epoch_processor_seconds
        show = self.config.progress and self.accelerator.is_main_process
        bar = EpochBar(progress.epoch + 1, self.config.epochs, self.steps_per_epoch, progress.step_in_epoch, show)
        try:
            for batch in self.batches.epoch(progress.epoch, progress.step_in_epoch):
                self._step(batch)
                speed.images += batch.size
                progress.epoch_seconds = before + speed.seconds
                progress.epoch_processor_seconds = processor_before + speed.processor_seconds
                self._check_progress(bar, speed)
        finally:
            bar.close()
        loss, right, count, computed = progress.sums
        return {
            "loss": loss / count, "top1": right / count, "seconds": progress.epoch_seconds,
            "processor_seconds": progress.epoch_processor_seconds, "images_per_second": speed.images_per_second,
            "executed_flops_share": computed / count,
        }  # fmt: skip

    def _step(self, batch: Batch) -> None:
        sums = torch.zeros(4, device=self.accelerator.device)
        learner, order, world = self.learner, self.batches.order, self.accelerator.num_processes
        first = self.progress.step_in_epoch * order.parts + order.rank * order.accumulate
        for number, (images, labels) in enumerate(batch.parts):
            images, targets = learner.objective.mix(images, labels, self.progress.epoch, first + number)
            last = number == len(batch.parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(learner.model):
                logits = learner.model(images).float()
                computed = len(labels) * learner.shares.executed()
                # The mean over the global batch: processes may hold different numbers of its images.
                loss = learner.objective.loss(logits, targets)
                self.accelerator.backward(loss * (world / batch.size))
            right = (logits.detach().argmax(1) == labels).sum()
            sums += torch.stack([loss.detach(), right, *loss.new_tensor([len(labels), computed])])
        self.progress.step += 1
        self.progress.step_in_epoch += 1
        self.learner.step(self.progress.step)
        self.pending.append(sums)

    def _check_progress(self, bar: EpochBar, speed: Speed) -> None:
        """Check the loss every ``log_steps``; save where the clock, ``checkpoint_steps`` or a signal asks for it."""
        progress, config = self.progress, self.config
        last = progress.step_in_epoch == self.steps_per_epoch
        due = last or progress.step_in_epoch % config.log_steps == 0
        by_step = config.checkpoint_steps > 0 and progress.step % config.checkpoint_steps == 0
        if due or by_step:
            steps = self._collect()
            loss, right, count, _ = progress.sums
            probs = survival_probs(self.learner.bare) or [1.0]
            bar.update(steps, loss / count, right / count, speed.images_per_second, sum(probs) / len(probs))
        stopping, by_clock = self._agree_on_stop(due)
        if not last and (stopping or by_clock or by_step):  # the end of an epoch writes a checkpoint anyway
            path = self.save()
            if stopping:
                raise Interrupted(f"stopped by {self.stop.name or 'a signal'} at step {progress.step}: saved {path}")

    def stop_between_epochs(self) -> None:
        """Stop between two epochs, where a checkpoint has just been written.

        Raises:
            Interrupted: a signal came, and there are epochs left.
        """
        stopping, _ = self._agree_on_stop(due=True)
        if stopping and self.progress.epoch < self.config.epochs:
            raise Interrupted(f"stopped by {self.stop.name or 'a signal'} after epoch {self.progress.epoch}")

    def _agree_on_stop(self, due: bool) -> tuple[bool, ...]:
        """Return whether to stop and whether to save: the same on all processes, which communicate only when due."""
        if not due and self.accelerator.num_processes > 1:
            return False, False
        by_clock = time.monotonic() - self.saved > 60 * self.config.checkpoint_minutes
        return any_process(self.accelerator, bool(self.stop.name), by_clock)

    def _collect(self) -> int:
        """Add up the steps since the last call over all processes, and return their number."""
        if not self.pending:
            return 0
        sums = self.accelerator.reduce(torch.stack(self.pending), "sum").double().cpu()
        self.pending = []
        wrong = (~sums[:, 0].isfinite()).nonzero()
        if len(wrong):
            step = self.progress.step - len(sums) + int(wrong[0]) + 1
            raise Diverged(f"the loss is {sums[wrong[0], 0].item()} at step {step}", self.last_checkpoint())
        for index, more in enumerate(sums.sum(0).tolist()):
            self.progress.sums[index] += more
        return len(sums)

    def end_epoch(self) -> None:
        """Move on to the next epoch."""
        progress = self.progress
        progress.flops_share += self.epoch_flops_share()
        progress.executed_share += progress.sums[3] / progress.sums[2]
        progress.seconds += progress.epoch_seconds
        progress.processor_seconds += progress.epoch_processor_seconds
        progress.epoch += 1
        progress.step_in_epoch, progress.sums = 0, [0.0] * 4
        progress.epoch_seconds = progress.epoch_processor_seconds = 0.0
        # Only now: the epoch was evaluated, and its weights were written, under the probabilities it was trained with.
        if progress.epoch < self.config.epochs:
            self.learner.end_epoch(progress.epoch)
        self._record_start()

    def epoch_flops_share(self) -> float:
        """Expected share of the forward FLOPs of the epoch done: probabilities stay within it, or move linearly."""
        return (self.progress.share_at_start + self.learner.shares.expected()) / 2

    def _record_start(self) -> None:
        """Record what the epoch starts with, so that a run that is resumed within it reports the same."""
        progress = self.progress
        progress.share_at_start = self.learner.shares.expected()
        progress.lr_at_start = max(group["lr"] for group in self.learner.optimizer.param_groups)
        progress.survival_at_start = survival_probs(self.learner.bare)

    def last_checkpoint(self) -> Path | None:
        """Return the path of the newest checkpoint, None where there is none."""
        return next(iter(checkpoints(self.folder.checkpoints)), None)

    def save(self) -> Path | None:
        """Write a checkpoint from the main process and return its path; all processes must call."""
        self._collect()
        state = save_parts(self._parts()) | {"rng": get_rng(self.accelerator)}
        self.saved = time.monotonic()
        if not self.accelerator.is_main_process:
            return None
        return save_checkpoint(self.folder.checkpoints, self.progress.step, state)

    def resume(self) -> None:
        """Go on from the last checkpoint that can be used, where there is one.

        Raises:
            SettingsError: the processes do not read the same checkpoint.
            ValueError: there are checkpoints, and none of them can be used.
        """
        load_last_checkpoint(self.folder.checkpoints, self._load, self.accelerator.print)
        steps = gather_object([self.progress.step])
        if len(set(steps)) > 1:
            raise SettingsError(
                f"resume: the processes read checkpoints of different steps ({', '.join(map(str, steps))}): "
                f"{self.folder.path} must be on a file system that all machines see"
            )

    def _load(self, state: Any) -> None:
        """Take over a checkpoint; what it leaves half done when it fails, the next one overwrites."""
        parts = self._parts()
        missing = [name for name in (*parts, "rng") if not isinstance(state, dict) or name not in state]
        if missing:
            raise ValueError(f"it holds no {', '.join(missing)}")
        run, known = state["progress"].get("run"), self.folder.run_name()
        if None not in (run, known) and run != known:
            raise ValueError(f"it is of the run {run}, this is {known}")
        load_parts(parts, state)
        set_rng(state["rng"], self.accelerator)

    def _parts(self) -> dict[str, Any]:
        return {**self.learner.parts(), "progress": self.progress}
