"""The figures of each group of runs, beside those of its twin of constant depth: the lines of a table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from .groups import Group
from .labels import full_labels


@dataclass(frozen=True)
class Line:
    """A group of runs in a table.

    Attributes:
        label: model and depth.
        images: ``"test"`` or ``"validation"``.
        seeds: number of runs.
        best: error in percent at the best validation epoch, mean and standard deviation (None for one run).
        last: the same at the last epoch.
        difference: mean of error minus that of the constant-depth twin with the same seed, and its 95 % confidence
            interval; None without a twin, nan bounds for a single pair.
        pairs: seeds that both have.
        time_ratio: time of an epoch over that of the twin, over the seeds that both have; None without a twin or where
            the twin was trained on other images.
        flops_share: share of the forward FLOPs executed in training, in [0, 1].
    """

    label: str
    images: str
    seeds: int
    best: tuple[float, float | None]
    last: tuple[float, float | None]
    difference: tuple[float, float, float] | None
    pairs: int
    time_ratio: float | None
    flops_share: float


def lines(groups: Sequence[Group]) -> list[Line]:
    """Return a line for each group of one data set."""
    table = []
    for group, label in zip(groups, full_labels(groups), strict=True):
        table.append(_line(group, label, _twin(group, groups)))
    return table


def paired_difference(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of differences and the bounds of its 95 % confidence interval (Student's t)."""
    mean = statistics.fmean(differences)
    count = len(differences)
    if count < 2:
        return mean, float("nan"), float("nan")
    # 2.5 % lie beyond either bound.
    half = stats.t.ppf(0.975, count - 1) * statistics.stdev(differences) / count**0.5
    return mean, mean - half, mean + half


def _twin(group: Group, groups: Sequence[Group]) -> Group | None:
    """Return the group of constant depth that a group is compared with; None where there is none, or no single one."""
    if group.constant:
        return None
    twins = []
    closest = []
    for other in groups:
        if other.constant and other.base == group.base:
            twins.append(other)
            # Runs that go on with the very same weights are closer than those with weights of the same name.
            if other.settings["model.weights"] == group.settings["model.weights"]:
                closest.append(other)
    candidates = closest or twins
    if len(candidates) != 1:
        return None
    return candidates[0]


def _line(group: Group, label: str, twin: Group | None) -> Line:
    difference = None
    ratio = None
    seeds: list[int] = []
    if twin is not None:
        seeds = sorted(group.runs.keys() & twin.runs.keys())
        ratio = _time_ratio(group, twin, seeds)
        if seeds:
            difference = _difference(group, twin, seeds)
    return Line(
        label=label,
        images=group.first.split,
        seeds=len(group.runs),
        best=_spread(group.values("best_error")),
        last=_spread(group.values("last_error")),
        difference=difference,
        pairs=len(seeds),
        time_ratio=ratio,
        flops_share=statistics.fmean(group.values("flops_share")),
    )


def _difference(group: Group, twin: Group, seeds: Sequence[int]) -> tuple[float, float, float]:
    # Of pairs with one seed: both runs began with the same weights, which takes their share of the noise out.
    differences = [group.runs[seed].best_error - twin.runs[seed].best_error for seed in seeds]
    return paired_difference(differences)


def _time_ratio(group: Group, twin: Group, seeds: Sequence[int]) -> float | None:
    """Return the mean time of an epoch over that of the twin, over the seeds of both, or all where they share none."""
    if not group.has_images_of(twin):
        return None
    common = seeds or None
    own = statistics.fmean(group.seconds_per_epoch(common))
    return own / statistics.fmean(twin.seconds_per_epoch(common))


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation, None for a single value."""
    deviation = None
    if len(values) > 1:
        deviation = statistics.stdev(values)
    return statistics.fmean(values), deviation
