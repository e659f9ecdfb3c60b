"""Finished runs, read from their folders."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.archives import ARCHIVES
from ..run.differences import same_computation
from ..run.folder import RunFolder

_NAMES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
    "cinic10": "CINIC-10",
    "imagenet": "ImageNet",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "Digits (8x8)",
    "fake": "Made-up images",
}


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        folder: of the run.
        settings: by dotted name.
        dataset: what tables call it.
        rows: metrics, one dict an epoch.
        result: final figures.
        seconds: training time, on the clock that :func:`read_runs` was given.
        images: number of images and fingerprint of each split, as far as the run recorded them.
    """

    folder: Path
    settings: dict[str, Any]
    dataset: str
    rows: list[dict[str, Any]]
    result: dict[str, Any]
    seconds: float
    images: dict[str, Any]

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.settings["seed"]

    @property
    def split(self) -> str:
        """Images of the final error: ``"test"``, or ``"validation"`` where there are no test images."""
        if self.result["test_error_best"] is None:
            return "validation"
        return "test"

    @property
    def best_error(self) -> float:
        """Error in percent at the best validation epoch."""
        if self.split == "validation":
            return self.result["best_valid_error"]
        return self.result["test_error_best"]

    @property
    def last_error(self) -> float:
        """Error in percent at the last epoch."""
        if self.split == "validation":
            return self.curve[-1]
        return self.result["test_error_last"]

    @property
    def flops_share(self) -> float:
        """Share of the forward FLOPs that was executed; expected over the gates where the run did not count them."""
        return flops_share(self.result)

    @property
    def curve(self) -> list[float]:
        """Error in percent after each epoch, on test images where they were evaluated each time."""
        key = "valid"
        if self.curve_split == "test":
            key = "test"
        return [100 * (1 - row[key]["top1"]) for row in self.rows]

    @property
    def curve_split(self) -> str:
        """Images of the curve: ``"test"`` where every epoch evaluated them, else ``"validation"``."""
        if all("test" in row for row in self.rows):
            return "test"
        return "validation"


def flops_share(result: dict[str, Any]) -> float:
    """Return the share that was counted, else the expected one, of a run's ``result.json``."""
    # The first runs did not count the FLOPs that they executed.
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
    clock = "train_seconds"
    if processor_time:
        clock = "processor_seconds"
    records = []
    unfinished = []
    for path in found:
        run = RunFolder(path)
        # The result is written last; the rows are missing where somebody has emptied the file.
        if run.result.exists() and run.metrics.stat().st_size > 0:
            records.append(_read(run, clock, folder))
        else:
            unfinished.append(path)
    return records, unfinished


def _read(folder: RunFolder, clock: str, runs: Path) -> Record:
    try:
        record = _record(folder, clock, runs)
        # What the report reads later: files without a checksum can lack any of it.
        _ = record.best_error, record.last_error, record.flops_share, record.curve
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        message = f"the records of {folder.path} are damaged ({reason}): restore them, or move the run away"
        raise ValueError(message) from None
    return record


def _record(folder: RunFolder, clock: str, runs: Path) -> Record:
    config = _parse(folder.config)
    result = folder.read_result()
    settings = same_computation(config["settings"])
    settings["model.weights"] = _start(settings["model.weights"], settings["seed"], runs)
    return Record(
        folder=folder.path,
        settings=settings,
        dataset=_dataset(config["settings"]["data"]),
        rows=folder.whole_rows(),
        result=result,
        seconds=result[clock],
        images=config.get("data") or {},  # version 0.1.0 recorded no fingerprint, and the first runs no numbers
    )


def _dataset(data: dict[str, Any]) -> str:
    """Return what tables call a data set: its label, its own name, or that of its folder or archive."""
    name = data.get("label") or _NAMES.get(data["name"])
    if name:
        return name
    # The user's own images have no other name than that of their folder or archive.
    name = Path(str(data["root"])).name
    for suffix in ARCHIVES:
        if name.endswith(suffix):
            name = name.removesuffix(suffix)
            break
    return name or "images"


def _start(weights: str | None, seed: int, runs: Path) -> str | None:
    """Return the weights that a run began with, without its seed.

    A second cycle has a run for each seed, which goes on with the run of that seed: these are one group.
    """
    if weights is None or "://" in weights:
        return weights  # of a published file, which has no seed
    place = _relative(Path(weights), Path(os.path.abspath(runs)))
    parts = []
    for part in place.parts:
        if part == f"seed{seed}":
            part = "seed*"
        parts.append(part)
    return Path(*parts).as_posix()


def _relative(path: Path, base: Path) -> Path:
    if base in path.parents:
        return path.relative_to(base)
    return path


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or move its run away") from None
