"""Finished runs: read from their folders, and copied in a form small enough to commit."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.archives import ARCHIVES
from ..run.folder import RunFolder, same_computation

_NAMES = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "cinic10": "CINIC-10", "imagenet": "ImageNet",
    "fashion_mnist": "Fashion-MNIST", "digits": "Digits (8x8)", "fake": "Made-up images",
}  # fmt: skip
_DIGITS = 5  # decimal places in a copy


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        folder: of the run.
        settings: by dotted name.
        dataset: what tables call it.
        rows: metrics, one dict an epoch.
        result: final figures.
        seconds: training time, on the clock that was asked for.
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
        key = {"test": "test", "validation": "valid"}[self.curve_split]
        return [100 * (1 - row[key]["top1"]) for row in self.rows]

    @property
    def curve_split(self) -> str:
        """Images of the curve: ``"test"`` where every epoch evaluated them, else ``"validation"``."""
        if all("test" in row for row in self.rows):
            return "test"
        return "validation"


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
    clock = "processor_seconds" if processor_time else "train_seconds"
    records, unfinished = [], []
    for path in found:
        run = RunFolder(path)
        if run.result.exists() and run.rows():
            records.append(_read(run, clock, folder))
        else:
            unfinished.append(path)
    return records, unfinished


def collect(runs: Path, target: Path) -> list[str]:
    """Copy the records of all finished runs below a folder; a report can be made from the copies.

    A copy holds settings, metrics and result, without weights and without paths of the machine.

    Args:
        runs: folder of runs, at any depth, or a run.
        target: folder of the copies, which lie in it as the runs lie in theirs; a run alone keeps its name.

    Returns:
        Paths of the copies below their folder.

    Raises:
        ValueError: there is no finished run.
    """
    runs = Path(os.path.abspath(runs))  # gives "." a name, and keeps the name of a link
    base = runs.parent if RunFolder(runs).result.exists() else runs
    found = sorted(path.parent for path in runs.rglob("result.json") if not _is_inside(path, target))
    if not found:
        raise ValueError(f"{runs} must hold finished runs, got none outside of {target}")
    names = [path.relative_to(base).as_posix() for path in found]
    for path, name in zip(found, names, strict=True):
        _copy(RunFolder(path), RunFolder(target / name), name, base)
    return names


def _read(folder: RunFolder, clock: str, runs: Path) -> Record:
    config, result = _parse(folder.config), _parse(folder.result)
    settings = same_computation(config["settings"])
    settings["model.weights"] = _start(settings["model.weights"], settings["seed"], runs)
    dataset = _dataset(config["settings"]["data"])
    images = config.get("data") or {}  # version 0.1.0 recorded no fingerprint, and the first runs no numbers
    return Record(folder.path, settings, dataset, folder.rows(), result, result[clock], images)


def _dataset(data: dict[str, Any]) -> str:
    """Return what tables call a data set: its label, its own name, or that of its folder or archive."""
    name = data.get("label") or _NAMES.get(data["name"])
    if name:
        return name
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
        return weights
    place = _relative(Path(weights), Path(os.path.abspath(runs)))
    parts = ["seed*" if part == f"seed{seed}" else part for part in place.parts]
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


def _is_inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.parent.resolve().parents


def _copy(run: RunFolder, copy: RunFolder, name: str, base: Path) -> None:
    config = json.loads(run.config.read_text(encoding="utf-8"))
    settings = config["settings"]
    settings["output"] = name
    settings["model"]["weights"] = _without_place(settings["model"]["weights"], base)
    settings["data"] |= {"root": Path(settings["data"]["root"]).name, "cache": ""}
    result = json.loads(run.result.read_text(encoding="utf-8"))
    rows = [json.dumps(_rounded(row)) + "\n" for row in run.rows()]
    copy.path.mkdir(parents=True, exist_ok=True)
    copy.config.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    copy.result.write_text(json.dumps(_rounded(result), indent=1) + "\n", encoding="utf-8")
    copy.metrics.write_text("".join(rows), encoding="utf-8")


def _without_place(weights: str | None, base: Path) -> str | None:
    """Return weights without the path of the machine.

    Weights of another run keep their path below the folder of runs, so that those of two runs differ.
    """
    if not weights or "://" in weights:
        return weights
    place = Path(os.path.abspath(weights))
    if base in place.parents:
        return place.relative_to(base).as_posix()
    return place.name


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, _DIGITS)
    return value
