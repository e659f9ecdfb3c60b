"""All that a run has to remember to go on as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

__all__ = ["Progress", "get_rng", "load_parts", "save_parts", "seed_gates", "set_rng"]


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: epochs done.
        step_in_epoch: optimizer steps done of the epoch begun.
        step: optimizer steps done in all.
        sums: loss, right answers, images, and images times their share of the forward FLOPs executed, of the epoch
            begun, over all processes.
        epoch_seconds: time spent on the epoch begun.
        epoch_processor_seconds: processor time of it, over the threads of this process.
        seconds: time spent on training, without evaluation, in all.
        processor_seconds: processor time of it, over the threads of this process.
        share_at_start: expected share of the forward FLOPs executed, as the epoch begun started.
        lr_at_start: learning rate then.
        survival_at_start: survival probability of each block then.
        flops_share: expected share of the forward FLOPs executed, summed over the epochs done.
        executed_share: share of them that the gates drawn left, summed over the epochs done.
        best_epoch: epoch of the best validation accuracy, counting from 1; 0 before there is one.
        best_top1: that accuracy, in [0, 1].
        epochs_at_chance: epochs in a row at chance accuracy.
        peak_memory_mib: peak so far, of this process and of those before a resume.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    epoch_seconds: float = 0.0
    epoch_processor_seconds: float = 0.0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    share_at_start: float = 1.0
    lr_at_start: float = 0.0
    survival_at_start: list[float] = field(default_factory=list)
    flops_share: float = 0.0
    executed_share: float = 0.0
    best_epoch: int = 0
    best_top1: float = -1.0
    epochs_at_chance: int = 0
    peak_memory_mib: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name in asdict(self):
            setattr(self, name, state[name])


def save_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of each part by name; None for a part that the run does without."""
    return {name: None if part is None else part.state_dict() for name, part in parts.items()}


def load_parts(parts: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Give each part its state back."""
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(saved[name])


def seed_gates(seed: int, rank: int) -> None:
    """Start this process's stream of gates: each process draws its own."""
    torch.manual_seed((seed * 1_048_583 + rank + 1) * 7919)


def get_rng(accelerator: Accelerator) -> list[dict[str, Any]]:
    """Return the states of the random-number generators of every process; all of them must call."""
    mine: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    return gather_object([mine])


def set_rng(states: list[dict[str, Any]], accelerator: Accelerator) -> None:
    """Continue the streams of this process."""
    mine = states[accelerator.process_index]
    torch.set_rng_state(mine["cpu"])
    if "cuda" in mine:
        torch.cuda.set_rng_state(mine["cuda"], accelerator.device)
