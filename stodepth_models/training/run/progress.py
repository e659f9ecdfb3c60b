"""Where a run stands, and the bar that shows it."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm import tqdm


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
        run: name of the run for trackers, the same after a resume.
        rows: metrics of the epochs done.
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
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    rows: list[dict[str, Any]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; checkpoints of version 0.1.0 have no ``run`` and no ``rows``.

        Raises:
            ValueError: a value is missing or of another type.
        """
        for name, default in asdict(self).items():
            if name in ("run", "rows") and name not in state:
                continue
            value = state.get(name)
            # A mean of nothing may be the whole number 0.
            known = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, known):
                raise ValueError(f"progress.{name} must be of type {type(default).__name__}, got {value!r:.50}")
            setattr(self, name, value)


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
