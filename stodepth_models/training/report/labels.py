"""Labels that tables and plots give to groups of runs: what differs between the groups that are shown together."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .groups import PROBABILITIES, STOCHASTIC, Group


def full_labels(groups: Sequence[Group]) -> list[str]:
    """Return a label for each group of one data set: model, depth, and the settings in which these groups differ."""
    return _labels(groups, _model_and_depth)


def depth_labels(groups: Sequence[Group]) -> list[str]:
    """Return a label for each group of one plot: depth, and the settings in which these groups differ.

    The model is part of them only where the groups have several.
    """
    if _has_several_models(groups):
        return _labels(groups, _model_and_depth)
    return _labels(groups, _depth)


def family_labels(groups: Sequence[Group]) -> list[str]:
    """Return a label for each family of one plot, given one group of each: all but the survival probabilities."""
    name = _mode
    if _has_several_models(groups):
        name = _model_and_mode
    return _labels(groups, name, leave_out=PROBABILITIES)


def image_labels(groups: Sequence[Group]) -> list[str]:
    """Return how the images of each group differ from those of the others, such as ``"images_per_class=10"``."""
    differing = _differing([group.data_settings for group in groups])
    labels = []
    for group in groups:
        tags = _tags(group, differing)
        # Runs of version 0.1.0 recorded no number of images.
        counts = group.first.images.get("images") or {}
        count = counts.get("train")
        if count is not None:
            tags.append(f"{count} training images")
        labels.append(", ".join(tags))
    return labels


def _has_several_models(groups: Sequence[Group]) -> bool:
    return len({group.model for group in groups}) > 1


def _model_and_depth(group: Group) -> str:
    return f"{group.model}, {_depth(group)}"


def _depth(group: Group) -> str:
    if group.constant:
        return "constant depth"
    start = group.settings["model.stoch_depth_probability"]
    if start is None:
        return f"p_L = {group.last_prob:g}{_mode_suffix(group)}"
    return f"p {start:g} to {group.last_prob:g} over the epochs{_mode_suffix(group)}"


def _model_and_mode(group: Group) -> str:
    return group.model + _mode_suffix(group)


def _mode(group: Group) -> str:
    return group.mode


def _mode_suffix(group: Group) -> str:
    if group.mode == "batch":
        return ""
    return f", {group.mode}"


def _labels(groups: Sequence[Group], name: Callable[[Group], str], leave_out: Sequence[str] = ()) -> list[str]:
    """Return the name of each group and, in brackets, the settings in which it differs from the others."""
    hidden = ("model.name", *leave_out)
    # The names hold the settings of stochastic depth already.
    differing = _without(_differing([group.settings for group in groups]), STOCHASTIC)
    labels = []
    for group in groups:
        # But for those that differ between groups of one name.
        label = name(group)
        namesakes = []
        for other in groups:
            if name(other) == label:
                namesakes.append(other.settings)
        more = _without(_differing(namesakes), differing)
        tags = _tags(group, _without(differing + more, hidden))
        if tags:
            label += f" [{', '.join(tags)}]"
        labels.append(label)
    return labels


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the keys whose values are not the same everywhere."""
    keys: dict[str, None] = {}  # a set would lose their order
    for one in settings:
        keys.update(dict.fromkeys(one))
    differing = []
    for key in keys:
        values = {json.dumps(one.get(key)) for one in settings}
        if len(values) > 1:
            differing.append(key)
    return differing


def _without(keys: Iterable[str], left_out: Sequence[str]) -> list[str]:
    return [key for key in keys if key not in left_out]


def _tags(group: Group, keys: Iterable[str]) -> list[str]:
    tags = []
    for key in keys:
        value = group.settings.get(key)
        if value is not None:
            name = key.rpartition(".")[2]
            tags.append(f"{name}={value}")
    return tags
