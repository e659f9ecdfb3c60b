"""A whole run: check, load, train, evaluate, record."""

import os
from contextlib import nullcontext

import torch
from accelerate import Accelerator

from ..config import TrainConfig
from ..data.datasets import load_data
from ..errors import Interrupted, SettingsError
from .folder import RunFolder
from .machine import any_process, make_accelerator
from .model import check_model
from .signals import StopRequest
from .steps import Run

__all__ = ["EXIT_RESUME_ME", "train"]

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
    folder.check(config, int(os.environ.get("WORLD_SIZE", "1")))
    check_model(folder.model(config))
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
    folder.check_data(data)
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
            accelerator.end_training()
    return 0
