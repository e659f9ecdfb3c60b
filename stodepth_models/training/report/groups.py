"""Runs of the same settings, one for each seed, and what tables and plots call them."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ...zoo import SUFFIX
from .results import Record

__all__ = ["Group", "group_runs"]

_STOCHASTIC = (
    "model.prob_0_L", "model.stoch_depth_probability", "model.final_stoch_depth_probability", "model.ramp_epochs",
    "model.mult_flag", "model.mode", "model.rescale", "model.depth_rule", "model.masked", "model.sync_gates",
)  # fmt: skip


@dataclass
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        dataset: what tables call it.
        settings: without the seed.
        runs: by seed.
        label: model, depth, and what tells the group from the others of its data set.
        family: the label without the survival probabilities.
    """

    dataset: str
    settings: dict[str, Any]
    runs: dict[int, Record] = field(default_factory=dict)
    label: str = ""
    family: str = ""

    @property
    def constant(self) -> bool:
        """Whether no block is ever dropped or masked."""
        if self.masked:
            return False
        survival = [prob for run in self.runs.values() for row in run.rows for prob in row["survival"]]
        return self.last_prob == 1.0 and all(prob == 1.0 for prob in survival)

    @property
    def masked(self) -> bool:
        """Whether branches are computed and then masked."""
        return self.settings["model.masked"]

    @property
    def last_prob(self) -> float:
        """Survival probability of the last block, or of its rows, in the last epoch, or at the end of a ramp."""
        if self.masked or self.settings["model.ramp_epochs"]:
            return self.settings["model.prob_0_L"][1]
        return next(iter(self.runs.values())).rows[-1]["survival"][-1]

    @property
    def base(self) -> str:
        """Everything but stochastic depth: groups of the same base are compared with each other.

        Second cycles are, too, which go on with weights of the same name from runs of their own.
        """
        settings = {key: value for key, value in sorted(self.settings.items()) if key not in _STOCHASTIC}
        start = self.settings["model.weights"]
        return json.dumps(settings | {"model.weights": start and start.rpartition("/")[2]})

    def values(self, name: str) -> list[float]:
        """Return an attribute of each run, in the order of the seeds."""
        return [getattr(self.runs[seed], name) for seed in sorted(self.runs)]

    def seconds_per_epoch(self) -> list[float]:
        """Return the training time of an epoch, in seconds, of each run, in the order of the seeds."""
        return [self.runs[seed].seconds / len(self.runs[seed].rows) for seed in sorted(self.runs)]


def group_runs(records: Iterable[Record]) -> list[Group]:
    """Return the groups, by data set, model and settings, then from constant depth to the most stochastic.

    Raises:
        ValueError: two runs of the same settings and seed.
    """
    groups: dict[str, Group] = {}
    for record in records:
        settings = {key: value for key, value in record.settings.items() if key != "seed"}
        key = json.dumps([record.dataset, settings], sort_keys=True)
        group = groups.setdefault(key, Group(record.dataset, settings))
        twin = group.runs.setdefault(record.seed, record)
        if twin is not record:
            raise ValueError(
                f"{twin.folder} and {record.folder} have the same settings and seed: leave one of them out"
            )
    ordered = sorted(
        groups.values(), key=lambda g: (g.dataset, _natural(g.settings["model.name"]), g.base, -g.last_prob)
    )
    _name(ordered)
    return ordered


def _name(groups: list[Group]) -> None:
    """Give each group its model and depth as a label, and whatever tells it from the others of its data set."""
    for group in groups:
        others = [other for other in groups if other.dataset == group.dataset]
        keys = [key for key in _differing(others) if key not in (*_STOCHASTIC, "model.name")]
        namesakes = [other for other in others if _plain_label(other) == _plain_label(group)]
        keys += [key for key in _differing(namesakes) if key not in keys]
        values = {key.rpartition(".")[2]: group.settings.get(key) for key in keys}
        tags = [f"{key}={value}" for key, value in values.items() if value is not None]
        suffix = f" [{', '.join(tags)}]" if tags else ""
        group.label, group.family = _plain_label(group) + suffix, _model(group) + _mode(group) + suffix


def _differing(groups: list[Group]) -> list[str]:
    """Settings that are not the same in all groups."""
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    return [key for key in keys if len({json.dumps(group.settings.get(key)) for group in groups}) > 1]


def _natural(name: str) -> list[int | str]:
    """Sort key under which resnet20 comes before resnet110."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _plain_label(group: Group) -> str:
    return f"{_model(group)}, constant depth" if group.constant else f"{_model(group)}, {_depth(group)}{_mode(group)}"


def _model(group: Group) -> str:
    return group.settings["model.name"].removesuffix(SUFFIX)


def _depth(group: Group) -> str:
    if group.settings["model.stoch_depth_probability"] is None:
        return f"p_L = {group.last_prob:g}"
    return f"p {group.settings['model.stoch_depth_probability']:g} to {group.last_prob:g} over the epochs"


def _mode(group: Group) -> str:
    mode = "masked" if group.masked else group.settings["model.mode"]
    return "" if mode == "batch" else f", {mode}"
