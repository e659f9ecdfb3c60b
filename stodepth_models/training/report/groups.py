"""Runs of the same settings, one for each seed."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...zoo import SUFFIX
from .results import Record

# Of the last and of all the blocks. Groups that differ in nothing else are one line of a plot.
PROBABILITIES = (
    "model.prob_0_L",
    "model.stoch_depth_probability",
    "model.final_stoch_depth_probability",
    "model.ramp_epochs",
)
# Settings of stochastic depth. Groups that differ in nothing else are compared with one another.
STOCHASTIC = (
    *PROBABILITIES,
    "model.mult_flag",
    "model.mode",
    "model.rescale",
    "model.depth_rule",
    "model.masked",
    "model.sync_gates",
)


@dataclass
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        dataset: what tables call it.
        settings: without the seed.
        runs: by seed.
    """

    dataset: str
    settings: dict[str, Any]
    runs: dict[int, Record] = field(default_factory=dict)

    @property
    def first(self) -> Record:
        """One of the runs, for what all of them share."""
        return next(iter(self.runs.values()))

    @property
    def constant(self) -> bool:
        """Whether no block is ever dropped or masked."""
        if self.masked or self.last_prob != 1.0:
            return False
        # The probabilities of every epoch, not of the last one: a ramp may end at constant depth.
        for run in self.runs.values():
            for row in run.rows:
                if min(row["survival"]) < 1.0:
                    return False
        return True

    @property
    def masked(self) -> bool:
        """Whether branches are computed and then masked."""
        return self.settings["model.masked"]

    @property
    def last_prob(self) -> float:
        """Survival probability of the last block: of a mask or a ramp the one that was set, else that of the end."""
        if self.masked or self.settings["model.ramp_epochs"]:
            return self.settings["model.prob_0_L"][1]
        return self.first.rows[-1]["survival"][-1]

    @property
    def model(self) -> str:
        """Short name of the model."""
        return self.settings["model.name"].removesuffix(SUFFIX)

    @property
    def mode(self) -> str:
        """What a gate decides, or ``"masked"``."""
        if self.masked:
            return "masked"
        return self.settings["model.mode"]

    @property
    def base(self) -> str:
        """All settings but those of stochastic depth: groups of the same base are compared with one another.

        Of weights the file name alone counts, so that second cycles are compared, each of which goes on with the
        weights of its own first cycle.
        """
        settings = _without(self.settings, STOCHASTIC)
        weights = self.settings["model.weights"]
        if weights:
            # The file name is all that the twins of a second cycle have in common.
            settings["model.weights"] = weights.rpartition("/")[2]
        return json.dumps(settings, sort_keys=True)

    @property
    def family(self) -> str:
        """All settings but the survival probabilities."""
        return json.dumps(_without(self.settings, PROBABILITIES), sort_keys=True)

    @property
    def data_settings(self) -> dict[str, Any]:
        """The settings of the images that the runs were trained on."""
        return {key: value for key, value in self.settings.items() if key.startswith("data.")}

    def has_images_of(self, other: "Group") -> bool:
        """Return whether both were trained on the same images, as far as their runs recorded them.

        An epoch has another length on other images, so times are compared between such groups alone.
        """
        if self.data_settings != other.data_settings:
            return False
        for kind in ("images", "fingerprint"):
            own = self.first.images.get(kind) or {}
            others = other.first.images.get(kind) or {}
            for split in own.keys() & others.keys():
                if own[split] != others[split]:
                    return False
        return True

    def values(self, name: str) -> list[Any]:
        """Return an attribute of each run, in the order of the seeds."""
        return [getattr(self.runs[seed], name) for seed in sorted(self.runs)]

    def seconds_per_epoch(self, seeds: Iterable[int] | None = None) -> list[float]:
        """Return the training time of an epoch, in seconds, of the runs of some seeds (None: all), in their order."""
        if seeds is None:
            seeds = self.runs
        seconds = []
        for seed in sorted(seeds):
            run = self.runs[seed]
            seconds.append(run.seconds / len(run.rows))
        return seconds


def group_runs(records: Iterable[Record]) -> list[Group]:
    """Return the groups, by data set, model and settings, then from constant depth to the most stochastic.

    Raises:
        ValueError: two runs of the same settings and seed.
    """
    groups: dict[str, Group] = {}
    for record in records:
        settings = _without(record.settings, ("seed",))
        key = json.dumps([record.dataset, settings], sort_keys=True)
        group = groups.setdefault(key, Group(record.dataset, settings))
        # A copy of a run would count twice, and hide how far seeds differ.
        twin = group.runs.setdefault(record.seed, record)
        if twin is not record:
            raise ValueError(
                f"{twin.folder} and {record.folder} have the same settings and seed: leave one of them out"
            )
    return sorted(groups.values(), key=_place)


def _without(settings: dict[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in left_out}


def _place(group: Group) -> tuple[str, list[int | str], str, float]:
    return group.dataset, _natural(group.settings["model.name"]), group.base, -group.last_prob


def _natural(name: str) -> list[int | str]:
    """Sort key under which resnet20 comes before resnet110."""
    key: list[int | str] = []
    for part in re.split(r"(\d+)", name):
        if part.isdigit():
            key.append(int(part))
        else:
            key.append(part)
    return key
