"""What a person sees of a run while it computes: a progress bar and the trackers."""

import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

__all__ = ["EpochBar", "Speed", "start_trackers", "tracked"]


class Speed:
    """Images a second since the epoch, or its resumed rest, began."""

    def __init__(self) -> None:
        self.start, self.processor_start, self.images = time.perf_counter(), time.process_time(), 0

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.start

    @property
    def processor_seconds(self) -> float:
        """Time that this process's threads have computed since the start: what others compute does not count."""
        return time.process_time() - self.processor_start

    @property
    def images_per_second(self) -> float:
        """Mean rate."""
        return self.images / max(self.seconds, 1e-9)


class EpochBar:
    """Progress of an epoch, on the main process.

    Args:
        epoch: counts from 1.
        epochs: of the run.
        steps: of the epoch.
        done: steps done before a resume.
        show: False stays silent.
    """

    def __init__(self, epoch: int, epochs: int, steps: int, done: int, show: bool) -> None:
        self.remaining_epochs, self.steps = epochs - epoch, steps
        self.bar = tqdm(
            total=steps, initial=done, desc=f"epoch {epoch}/{epochs}", unit="step", leave=False, disable=not show
        )

    def update(self, steps: int, loss: float, top1: float, speed: float, survival: float) -> None:
        """Show the figures after some more steps; the last is the mean survival probability."""
        self.bar.update(steps)
        rate = self.bar.format_dict["rate"] or 0.0
        left = (self.steps - self.bar.n + self.remaining_epochs * self.steps) / rate if rate else 0.0
        self.bar.set_postfix_str(
            f"loss {loss:.3f}, acc {top1:.1%}, {speed:.0f} images/s, survival {survival:.2f}, "
            f"run ETA {tqdm.format_interval(left)}"
        )

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()


def tracked(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a row of metrics by dotted name."""
    flat: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= tracked(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            flat[f"{prefix}{key}"] = value
    return flat


def start_trackers(accelerator: Accelerator, settings: dict[str, Any], folder: Path) -> None:
    """Start the trackers that the accelerator was made with, under the settings of the run, in its folder."""
    if accelerator.log_with:
        accelerator.init_trackers("stodepth", settings, {"wandb": {"dir": str(folder), "name": folder.name}})
