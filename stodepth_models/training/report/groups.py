"""Runs of the same settings, one for each seed, and the labels that tables and plots give them."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...zoo import SUFFIX
from .results import Record

# Settings of stochastic depth: groups that differ in nothing else are compared with one another.
_STOCHASTIC = (
    "model.prob_0_L", "model.stoch_depth_probability", "model.final_stoch_depth_probability", "model.ramp_epochs",
    "model.mult_flag", "model.mode", "model.rescale", "model.depth_rule", "model.masked", "model.sync_gates",
)  # fmt: skip


_PROBABILITIES = (
    "model.prob_0_L", "model.stoch_depth_probability", "model.final_stoch_depth_probability", "model.ramp_epochs",
)  # fmt: skip


@dataclass
class Group:
    """Runs that differ in their seed alone.

    Attributes:
        dataset: what tables call it.
        settings: without the seed.
        runs: by seed.
        label: model, depth, and the settings in which the group differs from the others of its data set.
    """

    dataset: str
    settings: dict[str, Any]
    runs: dict[int, Record] = field(default_factory=dict)
    label: str = ""

    @property
    def first(self) -> Record:
        """One of the runs, for what all of them share."""
        return next(iter(self.runs.values()))

    @property
    def constant(self) -> bool:
        """Whether no block is ever dropped or masked."""
        if self.masked or self.last_prob != 1.0:
            return False
        for run in self.runs.values():
            for row in run.rows:
                if any(prob != 1.0 for prob in row["survival"]):
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
        settings = {key: value for key, value in sorted(self.settings.items()) if key not in _STOCHASTIC}
        weights = self.settings["model.weights"]
        if weights:
            settings["model.weights"] = weights.rpartition("/")[2]
        return json.dumps(settings)

    def has_images_of(self, other: "Group") -> bool:
        """Return whether both were trained on the same images, as far as their runs recorded them.

        An epoch has another length on other images, so times are compared between such groups alone.
        """
        if _data_settings(self) != _data_settings(other):
            return False
        for kind in ("images", "fingerprint"):
            own, others = self.first.images.get(kind) or {}, other.first.images.get(kind) or {}
            if any(own[split] != others[split] for split in own.keys() & others.keys()):
                return False
        return True

    def values(self, name: str) -> list[float]:
        """Return an attribute of each run, in the order of the seeds."""
        return [getattr(self.runs[seed], name) for seed in sorted(self.runs)]

    def seconds_per_epoch(self, seeds: Iterable[int] | None = None) -> list[float]:
        """Return the training time of an epoch, in seconds, of the runs of some seeds (None: all), in their order."""
        chosen = sorted(self.runs if seeds is None else seeds)
        return [self.runs[seed].seconds / len(self.runs[seed].rows) for seed in chosen]


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
    ordered = sorted(groups.values(), key=_place)
    for group in ordered:
        of_dataset = [other for other in ordered if other.dataset == group.dataset]
        group.label = _full_label(group) + _differences(group, of_dataset, _full_label)
    return ordered


def depth_labels(groups: Sequence[Group]) -> list[str]:
    """Return a label for each group of one plot: depth, and the settings in which these groups differ.

    The model is part of them only where the groups have several.
    """
    name = _depth_label if len({group.model for group in groups}) == 1 else _full_label
    return [name(group) + _differences(group, groups, name) for group in groups]


def family_labels(groups: Sequence[Group]) -> list[str]:
    """Return a label for each family of one plot, given one group of each: all but the survival probabilities."""
    several_models = len({group.model for group in groups}) > 1

    def name(group: Group) -> str:
        if several_models:
            return group.model + _mode_suffix(group)
        return group.mode

    return [name(group) + _differences(group, groups, name, leave_out=_PROBABILITIES) for group in groups]


def family(group: Group) -> str:
    """Return a key that groups share which differ in their survival probabilities alone."""
    return json.dumps({key: value for key, value in sorted(group.settings.items()) if key not in _PROBABILITIES})


def image_labels(groups: Sequence[Group]) -> list[str]:
    """Return how the images of each group differ from those of the others, such as ``"images_per_class=10"``."""
    differing = _differing([_data_settings(group) for group in groups])
    labels = []
    for group in groups:
        tags = _tags(group, differing)
        count = (group.first.images.get("images") or {}).get("train")
        if count is not None:
            tags.append(f"{count} training images")
        labels.append(", ".join(tags))
    return labels


def _place(group: Group) -> tuple[str, list[int | str], str, float]:
    return group.dataset, _natural(group.settings["model.name"]), group.base, -group.last_prob


def _natural(name: str) -> list[int | str]:
    """Sort key under which resnet20 comes before resnet110."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _full_label(group: Group) -> str:
    return f"{group.model}, {_depth_label(group)}"


def _depth_label(group: Group) -> str:
    if group.constant:
        return "constant depth"
    start = group.settings["model.stoch_depth_probability"]
    if start is None:
        return f"p_L = {group.last_prob:g}{_mode_suffix(group)}"
    return f"p {start:g} to {group.last_prob:g} over the epochs{_mode_suffix(group)}"


def _mode_suffix(group: Group) -> str:
    if group.mode == "batch":
        return ""
    return f", {group.mode}"


def _differences(
    group: Group, groups: Sequence[Group], name: Callable[[Group], str], leave_out: Sequence[str] = ()
) -> str:
    """Return, in brackets, the settings in which a group differs from the others.

    Settings of stochastic depth are in the names already, but for those that differ between groups of one name.
    """
    keys = [key for key in _differing([other.settings for other in groups]) if key not in _STOCHASTIC]
    namesakes = [other.settings for other in groups if name(other) == name(group)]
    keys += [key for key in _differing(namesakes) if key not in keys]
    tags = _tags(group, [key for key in keys if key not in ("model.name", *leave_out)])
    if not tags:
        return ""
    return f" [{', '.join(tags)}]"


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same everywhere."""
    differing = []
    for key in dict.fromkeys(key for one in settings for key in one):
        if len({json.dumps(one.get(key)) for one in settings}) > 1:
            differing.append(key)
    return differing


def _tags(group: Group, keys: Iterable[str]) -> list[str]:
    tags = []
    for key in keys:
        value = group.settings.get(key)
        if value is not None:
            tags.append(f"{key.rpartition('.')[2]}={value}")
    return tags


def _data_settings(group: Group) -> dict[str, Any]:
    return {key: value for key, value in group.settings.items() if key.startswith("data.")}
