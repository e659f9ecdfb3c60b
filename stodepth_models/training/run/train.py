"""A whole run: check, load, then train, evaluate and record epoch after epoch, and keep the best weights."""

import dataclasses
import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from ...survival import set_survival_probs
from ...weights.checkpoint import read_file, write_file
from ...weights.scales import own_scales, with_scales
from ..config import TrainConfig
from ..data.batches import EvaluationBatches
from ..data.datasets import Data, load_data
from ..data.splits import Split
from ..errors import Diverged, Interrupted, SettingsError
from .differences import flat_settings
from .folder import RunFolder
from .learner import check_timm
from .libraries import describe
from .machine import any_process, device_name, make_accelerator, peak_memory
from .metrics import Figures, chance, evaluate, near_chance
from .model import check_model
from .signals import StopRequest
from .trackers import end_trackers, start_trackers, tracked
from .trainer import Trainer

EXIT_RESUME_ME = 75  # EX_TEMPFAIL: stopped by a signal, a checkpoint is written, run again with --resume


def train(config: TrainConfig) -> int:
    """Run a training to its end, or to a signal.

    Returns:
        Exit code: 0, or ``EXIT_RESUME_ME``.

    Raises:
        SettingsError: ``output`` or the options of the model cannot be used, or another run writes into ``output``;
            nothing has been computed.
        ValueError: the data or the weights cannot be used.
        Diverged: the loss is not a number, or accuracy stays at chance.
    """
    folder = RunFolder(config.output.expanduser())
    try:
        return _train_in(folder, config)
    except Exception:
        folder.discard()
        raise


def _train_in(folder: RunFolder, config: TrainConfig) -> int:
    folder.check(config, int(os.environ.get("WORLD_SIZE", "1")))
    check_model(folder.model(config))
    check_timm(config)
    accelerator = make_accelerator(config.cpu, config.precision, config.trackers, folder.path)
    torch.backends.cudnn.deterministic = config.deterministic
    torch.backends.cudnn.benchmark = not config.deterministic
    with folder.lock() if accelerator.is_main_process else nullcontext(True) as free:
        # Asking all waits for all: each has looked into the folder before the first one writes.
        if any_process(accelerator, not free)[0]:
            raise SettingsError(f"output: {folder.path} is being written by another run: give another folder, or wait")
        return _train(config, accelerator, folder)


def _train(config: TrainConfig, accelerator: Accelerator, folder: RunFolder) -> int:
    with accelerator.local_main_process_first():  # which unpacks archives for the others
        data = load_data(config.data)
    folder.check_data(config, data)
    outputs, classes = config.model.num_classes, len(data.classes)
    if outputs is not None and outputs < classes:
        raise ValueError(f"model.num_classes must be at least {classes}, the classes of the data, got {outputs}")
    with StopRequest() as stop:
        run = Run(config, accelerator, data, folder, stop)
        try:
            run.fit()
        except Interrupted as reason:
            accelerator.print(f"{reason}; go on with --resume", flush=True)
            return EXIT_RESUME_ME
        finally:
            end_trackers(accelerator)
    return 0


class Run:
    """A trainer with its evaluations and its records.

    Args:
        config: settings.
        accelerator: device and processes.
        data: images.
        folder: where the run is recorded.
        stop: asked at every step whether to go on.
    """

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, data: Data, folder: RunFolder, stop: StopRequest
    ) -> None:
        self.config, self.accelerator, self.data, self.folder = config, accelerator, data, folder
        self.trainer = Trainer(config, accelerator, data, folder, stop)
        self.main = accelerator.is_main_process
        if config.resume:
            self.trainer.resume()
        best = self.trainer.progress.best_epoch
        if best > 0 and not folder.best.exists():
            raise SettingsError(
                f"resume: {folder.best} is missing, the weights of epoch {best}: put it back, or remove "
                f"{folder.checkpoints} to start afresh"
            )
        progress = self.trainer.progress
        # Before the folder holds a run: a tracker that does not start leaves none behind.
        start_trackers(accelerator, flat_settings(config), folder.path, progress.run, progress.step)
        if self.main:
            if not self._is_finished():
                folder.result.unlink(missing_ok=True)  # of a run whose checkpoints have been removed
            folder.claim(config, accelerator.num_processes, data, progress.run)
            folder.restore_rows(progress.rows, progress.epoch, accelerator.print)
            progress.rows = folder.rows()

    def fit(self) -> None:
        """Train to the end, and evaluate the weights of the last and of the best epoch.

        Raises:
            Interrupted: a signal came; a checkpoint is written.
            Diverged: the loss is not a number, or accuracy stays at chance.
        """
        while not self._is_finished():
            self._epoch()
            self.trainer.stop_between_epochs()
        progress = self.trainer.progress
        self._write_weights(self.folder.last, progress.epoch)
        last = self._evaluate(self.data.test)
        self._load_best()
        best = self._evaluate(self.data.test)
        if self.main:
            result = self._result(best, last)
            self.folder.finish(result)
            self.accelerator.print(summary(result), flush=True)

    def _is_finished(self) -> bool:
        """Whether all epochs are done, or validation accuracy has not risen for ``patience`` of them."""
        progress, patience = self.trainer.progress, self.config.patience
        # Counted from what a checkpoint holds: a run that is resumed stops where it would have.
        has_stopped_early = 0 < patience <= progress.epoch - progress.best_epoch
        return has_stopped_early or progress.epoch >= self.config.epochs

    def _epoch(self) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        row: dict[str, Any] = {"epoch": progress.epoch + 1, "train": trainer.train_epoch(), "step": progress.step}
        self._share_buffers()
        valid = self._evaluate(self.data.valid)
        assert valid is not None  # load_data holds images back
        self._refuse_diverged(valid)
        probs = progress.survival_at_start
        row |= {"valid": dataclasses.asdict(valid), "lr": progress.lr_at_start, "survival": probs}
        row |= {"mean_survival": sum(probs or [1.0]) / len(probs or [1.0]), "flops_share": trainer.epoch_flops_share()}
        if self.config.test_each_epoch and self.data.test is not None:
            row["test"] = dataclasses.asdict(self._evaluate(self.data.test))  # type: ignore[arg-type]
        if valid.top1 > progress.best_top1:
            progress.best_top1, progress.best_epoch = valid.top1, progress.epoch + 1
            self._write_weights(self.folder.best, progress.best_epoch)
        progress.peak_memory_mib = self._peak_memory()
        self._record(row)
        self._refuse_chance(row["train"]["top1"], valid)
        trainer.end_epoch()
        trainer.save()

    def _record(self, row: dict[str, Any]) -> None:
        self.trainer.progress.rows.append(row)
        if self.main:
            self.folder.add_row(row)
        self.accelerator.log(tracked(row), step=row["step"])
        self.accelerator.print(
            f"epoch {row['epoch']}/{self.config.epochs}: loss {row['train']['loss']:.4f}, training accuracy "
            f"{row['train']['top1']:.2%}, validation accuracy {row['valid']['top1']:.2%}, "
            f"{row['train']['images_per_second']:.0f} images/s, mean survival {row['mean_survival']:.3f}",
            flush=True,
        )

    def _refuse_diverged(self, valid: Figures) -> None:
        """Stop before weights are kept that the last steps of the epoch have spoilt: no loss has shown it yet."""
        if not math.isfinite(valid.nll):
            raise self._diverged(f"the validation loss is {valid.nll}")

    def _refuse_chance(self, train_top1: float, valid: Figures) -> None:
        """Stop where neither training nor validation accuracy leaves that of always naming the commonest class."""
        progress = self.trainer.progress
        assert self.data.train is not None
        assert self.data.valid is not None
        train_labels, valid_labels = self.data.train.labels, self.data.valid.labels
        if train_top1 <= near_chance(train_labels) and valid.top1 <= near_chance(valid_labels):
            progress.epochs_at_chance += 1
        else:
            progress.epochs_at_chance = 0
        if 0 < self.config.stop_at_chance <= progress.epochs_at_chance:
            level = chance(train_labels)
            raise self._diverged(f"accuracy is at chance ({level:.1%}) for {progress.epochs_at_chance} epochs")

    def _diverged(self, what: str) -> Diverged:
        return Diverged(f"{what} at step {self.trainer.progress.step}", self.trainer.last_checkpoint())

    def _evaluate(self, split: Split | None) -> Figures | None:
        if split is None:
            return None
        accelerator = self.accelerator
        batches = EvaluationBatches(
            self.data, split, 2 * self.config.batch_size, accelerator.device, self.config.data.workers,
            accelerator.process_index, accelerator.num_processes,
        )  # fmt: skip
        return evaluate(self.trainer.learner.evaluated, batches, accelerator)

    def _share_buffers(self) -> None:
        """Give all processes the batch-norm statistics of the first, which are the ones that are saved."""
        if self.accelerator.num_processes > 1:
            for buffer in self.trainer.learner.evaluated.buffers():
                buffer.copy_(broadcast(buffer))

    def _write_weights(self, path: Path, epoch: int) -> None:
        if not self.main:
            return
        model = self.trainer.learner.evaluated
        config = describe(model, self.config.model)
        classes = list(self.data.classes)
        config["categories"] = classes if len(classes) == config["num_classes"] else None
        config["training"] = {"epoch": epoch, "mean": self.data.mean.tolist(), "std": self.data.std.tolist(),
                              "image_size": self.data.image_size, "resize": self.data.resize,
                              "data": self.config.data.name}  # fmt: skip
        write_file(path, model.state_dict(), config)

    def _load_best(self) -> None:
        self.accelerator.wait_for_everyone()
        best = read_file(self.folder.best, str(self.folder.best))
        model = self.trainer.learner.evaluated
        model.load_state_dict(with_scales(best.state_dict, own_scales(model)))  # literally: the scales follow
        if best.config is not None and best.config["survival_probs"]:
            set_survival_probs(model, best.config["survival_probs"])

    def _peak_memory(self) -> float:
        """In MiB, over all processes that the run has gone through one after another."""
        return max(self.trainer.progress.peak_memory_mib, peak_memory(self.accelerator.device))

    def _result(self, best: Figures | None, last: Figures | None) -> dict[str, Any]:
        progress = self.trainer.progress
        return {
            "best_epoch": progress.best_epoch,
            "best_valid_error": 100 * (1 - progress.best_top1),
            "test_error_best": best and best.error,
            "test_error_last": last and last.error,
            "test_best": best and dataclasses.asdict(best),
            "test_last": last and dataclasses.asdict(last),
            "train_seconds": progress.seconds,
            "processor_seconds": progress.processor_seconds,
            "expected_flops_share": progress.flops_share / progress.epoch,
            "executed_flops_share": progress.executed_share / progress.epoch,
            "peak_memory_mib": self._peak_memory(),
            "steps": progress.step,
            "device": device_name(self.accelerator.device),
            "processes": self.accelerator.num_processes,
        }


def summary(result: dict[str, Any]) -> str:
    """Return the final figures as one line."""
    test = "no test images"
    if result["test_error_best"] is not None:
        test = (
            f"test error {result['test_error_best']:.2f} % there, {result['test_error_last']:.2f} % at the last epoch"
        )
    return (
        f"best validation error {result['best_valid_error']:.2f} % at epoch {result['best_epoch']}: {test}; "
        f"{result['train_seconds']:.0f} s of training, {result['executed_flops_share']:.1%} of the forward FLOPs "
        f"executed, peak memory {result['peak_memory_mib']:.0f} MiB"
    )
