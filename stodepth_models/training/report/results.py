"""Finished runs, read from their folders."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.archives import ARCHIVES
from ..run.folder import RunFolder, same_computation

__all__ = ["Record", "flops_share", "read_runs"]

_NAMES = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "cinic10": "CINIC-10", "imagenet": "ImageNet",
    "fashion_mnist": "Fashion-MNIST", "digits": "Digits (8x8)", "fake": "Made-up images",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        folder: of the run.
        settings: by dotted name.
        dataset: what tables call it.
        rows: metrics, one dict an epoch.
        result: final figures.
        seconds: spent on training, on the clock that was asked for.
    """

    folder: Path
    settings: dict[str, Any]
    dataset: str
    rows: list[dict[str, Any]]
    result: dict[str, Any]
    seconds: float

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.settings["seed"]

    @property
    def split(self) -> str:
        """Images of the final error: ``"test"``, or ``"validation"`` where there are no test images."""
        return "validation" if self.result["test_error_best"] is None else "test"

    @property
    def best_error(self) -> float:
        """Error in percent at the best validation epoch."""
        return self.result["best_valid_error" if self.split == "validation" else "test_error_best"]

    @property
    def last_error(self) -> float:
        """Error in percent at the last epoch."""
        return self.curve[-1] if self.split == "validation" else self.result["test_error_last"]

    @property
    def flops_share(self) -> float:
        """Share of the forward FLOPs that was executed; expected over the gates where the run did not count them."""
        return flops_share(self.result)

    @property
    def curve(self) -> list[float]:
        """Error in percent after each epoch, on test images where they were evaluated each time."""
        key = "test" if all("test" in row for row in self.rows) else "valid"
        return [100 * (1 - row[key]["top1"]) for row in self.rows]

    @property
    def curve_split(self) -> str:
        """Images of the curve."""
        return "test" if all("test" in row for row in self.rows) else "validation"


def flops_share(result: dict[str, Any]) -> float:
    """Return the share that was counted, else the expected one, of a run's ``result.json``."""
    return float(result.get("executed_flops_share", result["expected_flops_share"]))


def read_runs(folder: Path, processor_time: bool = False) -> tuple[list[Record], list[Path]]:
    """Return the finished runs below a folder, and the folders of those that are not finished.

    Args:
        folder: of runs, at any depth.
        processor_time: take what the processor spent on a run instead of what the clock showed.

    Raises:
        ValueError: there is no run at all.
    """
    found = sorted(path.parent for path in folder.rglob("config.json") if path.with_name("metrics.jsonl").exists())
    if not found:
        raise ValueError(f"{folder} holds no run (no config.json beside a metrics.jsonl)")
    unfinished = [path for path in found if not _is_finished(RunFolder(path))]
    clock = "processor_seconds" if processor_time else "train_seconds"
    return [_read(RunFolder(path), clock, folder) for path in found if path not in unfinished], unfinished


def _is_finished(folder: RunFolder) -> bool:
    return folder.result.exists() and len(folder.rows()) > 0


def _read(folder: RunFolder, clock: str, runs: Path) -> Record:
    saved, result = _parse(folder.config)["settings"], _parse(folder.result)
    data = saved["data"]
    dataset = data.get("label") or _NAMES.get(data["name"]) or _without_suffix(Path(str(data["root"])).name) or "images"
    settings = same_computation(saved)
    settings["model.weights"] = _start(settings["model.weights"], settings["seed"], runs)
    return Record(folder.path, settings, dataset, folder.rows(), result, result[clock])


def _start(weights: str | None, seed: int, runs: Path) -> str | None:
    """The weights that a run began with: a run of each seed may go on with a run of that seed."""
    if weights is None or "://" in weights:
        return weights
    place, base = Path(weights), Path(os.path.abspath(runs))
    place = place.relative_to(base) if base in place.parents else place
    return Path(*("seed*" if part == f"seed{seed}" else part for part in place.parts)).as_posix()


def _without_suffix(name: str) -> str:
    suffix = next((suffix for suffix in ARCHIVES if name.endswith(suffix)), "")
    return name.removesuffix(suffix)


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or move its run away") from None
