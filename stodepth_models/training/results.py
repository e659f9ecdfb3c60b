"""Finished runs, read from their folders and grouped: one group for each setting, one run of it for each seed."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import SUFFIX
from .comparison import same_computation
from .outputs import RunFolder

__all__ = ["Group", "Record", "group_runs", "read_runs"]

_NAMES = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN", "cinic10": "CINIC-10", "imagenet": "ImageNet",
    "fashion_mnist": "Fashion-MNIST", "digits": "Digits (8x8)", "fake": "Made-up images",
}  # fmt: skip
_STOCHASTIC = (
    "model.prob_0_L", "model.stoch_depth_probability", "model.final_stoch_depth_probability", "model.ramp_epochs",
    "model.mult_flag", "model.mode", "model.rescale", "model.depth_rule", "model.masked", "model.sync_gates",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        settings: by dotted name.
        dataset: what tables call it.
        rows: metrics, one dict an epoch.
        result: final figures.
    """

    settings: dict[str, Any]
    dataset: str
    rows: list[dict[str, Any]]
    result: dict[str, Any]

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
    def curve(self) -> list[float]:
        """Error in percent after each epoch, on test images where they were evaluated each time."""
        key = "test" if all("test" in row for row in self.rows) else "valid"
        return [100 * (1 - row[key]["top1"]) for row in self.rows]

    @property
    def curve_split(self) -> str:
        """Images of the curve."""
        return "test" if all("test" in row for row in self.rows) else "validation"


@dataclass
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        label: model and depth.
        dataset: what tables call it.
        settings: without the seed.
        runs: by seed.
    """

    label: str
    dataset: str
    settings: dict[str, Any]
    runs: dict[int, Record] = field(default_factory=dict)

    @property
    def constant(self) -> bool:
        """Whether no block is ever dropped or masked."""
        return not self.masked and all(
            prob == 1.0 for run in self.runs.values() for row in run.rows for prob in row["survival"]
        )

    @property
    def masked(self) -> bool:
        """Whether branches are computed and then masked."""
        return self.settings["model.masked"]

    @property
    def last_prob(self) -> float:
        """Survival probability of the last block, or of its rows, in the last epoch."""
        if self.masked:
            return self.settings["model.prob_0_L"][1]
        return next(iter(self.runs.values())).rows[-1]["survival"][-1]

    @property
    def base(self) -> str:
        """Everything but stochastic depth: groups of the same base are compared with each other."""
        return json.dumps({key: value for key, value in self.settings.items() if key not in _STOCHASTIC})

    def values(self, name: str) -> list[float]:
        """Return an attribute of each run, in the order of the seeds."""
        return [getattr(self.runs[seed], name) for seed in sorted(self.runs)]

    def seconds_per_epoch(self) -> list[float]:
        """Return the training time of an epoch, in seconds, of each run."""
        return [run.result["train_seconds"] / len(run.rows) for run in self.runs.values()]


def read_runs(folder: Path, processor_time: bool = False) -> tuple[list[Record], list[Path]]:
    """Return the finished runs below a folder, and the folders of those that are not finished.

    Args:
        folder: of runs, at any depth.
        processor_time: compare what the processor spent on a run instead of what the clock showed.

    Raises:
        ValueError: there is no run at all.
    """
    found = sorted(path.parent for path in folder.rglob("config.json") if path.with_name("metrics.jsonl").exists())
    if not found:
        raise ValueError(f"{folder} holds no run (no config.json beside a metrics.jsonl)")
    unfinished = [path for path in found if not RunFolder(path).result.exists()]
    records = [_read(RunFolder(path)) for path in found if path not in unfinished]
    if processor_time:
        for record in records:
            record.result["train_seconds"] = record.result["processor_seconds"]
    return records, unfinished


def group_runs(records: Iterable[Record]) -> list[Group]:
    """Return the groups, by data set, model and settings, then from constant depth to the most stochastic."""
    groups: dict[str, Group] = {}
    for record in records:
        settings = {key: value for key, value in record.settings.items() if key != "seed"}
        key = json.dumps([record.dataset, settings], sort_keys=True)
        group = groups.setdefault(key, Group("", record.dataset, settings))
        group.runs[record.seed] = record
    ordered = sorted(
        groups.values(), key=lambda g: (g.dataset, _natural(g.settings["model.name"]), g.base, -g.last_prob)
    )
    _name(ordered)
    return ordered


def _read(folder: RunFolder) -> Record:
    saved = json.loads(folder.config.read_text(encoding="utf-8"))["settings"]
    data = saved["data"]
    root = Path(str(data["root"])).name.split(".")[0]
    dataset = data.get("label") or _NAMES.get(data["name"], root)
    result = json.loads(folder.result.read_text(encoding="utf-8"))
    return Record(same_computation(saved), dataset, folder.rows(), result)


def _name(groups: list[Group]) -> None:
    """Label each group with its model, its depth, and what tells it from the other groups of its data set."""
    for group in groups:
        model = group.settings["model.name"].removesuffix(SUFFIX)
        group.label = f"{model}, {'constant depth' if group.constant else _depth(group)}"
    for group in groups:
        others = [other for other in groups if other.dataset == group.dataset]
        namesakes = [other for other in others if other.label.split(" [")[0] == group.label]
        keys = [key for key in _differing(others) if key not in (*_STOCHASTIC, "model.name")]
        keys += [key for key in _differing(namesakes) if key not in keys]
        tags = [f"{key.rpartition('.')[2]}={group.settings[key]}" for key in keys]
        group.label += f" [{', '.join(tags)}]" if tags else ""


def _differing(groups: list[Group]) -> list[str]:
    """Settings that are not the same in all groups."""
    return [key for key in groups[0].settings if len({json.dumps(group.settings[key]) for group in groups}) > 1]


def _natural(name: str) -> list[int | str]:
    """Sort key under which resnet20 comes before resnet110."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _depth(group: Group) -> str:
    if group.settings["model.stoch_depth_probability"] is not None:
        text = f"p {group.settings['model.stoch_depth_probability']:g} to {group.last_prob:g} over the epochs"
    else:
        text = f"p_L = {group.last_prob:g}"
    mode = "masked" if group.masked else group.settings["model.mode"]
    return text if mode == "batch" else f"{text}, {mode}"
