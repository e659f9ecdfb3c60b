"""Plots of a data set's runs: colour-blind-safe, labelled, with units."""

import statistics
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .groups import Group

__all__ = ["plots"]

# Okabe and Ito, "Color Universal Design" (2008); yellow is left out, which is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LINES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (1, 1)), (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvPX"
_LEGEND, _TICK = 74, 36  # characters of a label that fit in a line


def plots(dataset: str, groups: Sequence[Group], clock: str) -> dict[str, Figure]:
    """Return the plots of one data set by file name.

    Args:
        dataset: name for the titles.
        groups: its groups of runs.
        clock: what their times are, such as ``"Training time"``.
    """
    drawn = {
        "error_over_epochs": _figure(dataset, groups, _error_over_epochs),
        "survival_by_depth": _figure(dataset, groups, _survival_by_depth),
        "time_per_epoch": _bars(dataset, groups, clock),
    }
    if len({group.last_prob for group in groups}) > 1:
        drawn["error_against_p_L"] = _figure(dataset, groups, _error_against_p_l)
    return drawn


def _figure(dataset: str, groups: Sequence[Group], draw: Callable[[Axes, Sequence[Group]], None]) -> Figure:
    rows = sum(_wrapped(group.label, _LEGEND).count("\n") + 1 for group in groups)
    figure = Figure(figsize=(6.4, 4.2 + 0.22 * rows), layout="constrained")
    axes = figure.add_subplot()
    draw(axes, groups)
    axes.set_title(dataset)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize="small", handlelength=4)
    return figure


def _style(number: int) -> dict[str, Any]:
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _LINES[number // len(_COLOURS) % len(_LINES)]}


def _marker(number: int) -> str:
    """Another one each time that the colours begin anew: a lone point has no line to tell it by."""
    return _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)]


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation; nan, which draws no bar, for a single value."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def _error_over_epochs(axes: Axes, groups: Sequence[Group]) -> None:
    for number, group in enumerate(groups):
        curves = [run.curve for run in group.runs.values()]
        length = min(map(len, curves))
        columns = [[curve[epoch] for curve in curves] for epoch in range(length)]
        epochs, mean = range(1, length + 1), [statistics.fmean(column) for column in columns]
        seeds = f"n = {len(curves)}".replace(" ", "\N{NO-BREAK SPACE}")
        label = _wrapped(f"{group.label} ({seeds})", _LEGEND)
        axes.plot(epochs, mean, label=label, linewidth=1.6, **_style(number))
        if len(curves) > 1:
            spread = [statistics.stdev(column) for column in columns]
            low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=_style(number)["color"], alpha=0.18, linewidth=0)
    splits = {run.curve_split for group in groups for run in group.runs.values()}
    axes.set_xlabel("Epoch")
    axes.set_ylabel(f"{' / '.join(sorted(splits)).capitalize()} error (%)")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _survival_by_depth(axes: Axes, groups: Sequence[Group]) -> None:
    for number, group in enumerate(groups):
        probs = next(iter(group.runs.values())).rows[-1]["survival"]
        axes.plot(
            range(1, len(probs) + 1), probs, label=_wrapped(group.label, _LEGEND), linewidth=1.4, markersize=4,
            marker=_marker(number), markevery=max(1, len(probs) // 20), **_style(number),
        )  # fmt: skip
    axes.set_xlabel("Residual block, from the input")
    axes.set_ylabel("Survival probability in the last epoch")
    axes.set_ylim(0, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _error_against_p_l(axes: Axes, groups: Sequence[Group]) -> None:
    """A line for each family of groups that differ in their survival probabilities; constant depth is p_L = 1."""
    families = dict.fromkeys(group.family for group in groups if not group.constant)
    for number, name in enumerate(families):
        members = [group for group in groups if group.family == name and not group.constant]
        members += [group for group in groups if group.constant and group.base == members[0].base]
        members.sort(key=lambda group: group.last_prob)
        errors = [group.values("best_error") for group in members]
        spread = [_deviation(values) for values in errors]
        axes.errorbar(
            [group.last_prob for group in members], [statistics.fmean(values) for values in errors], spread, capsize=3,
            label=_wrapped(name, _LEGEND), marker=_marker(number), **_style(number),
        )  # fmt: skip
    splits = {run.split for group in groups for run in group.runs.values()}
    axes.set_xlabel(r"Survival probability of the last block, $p_L$")
    axes.set_ylabel(f"{' / '.join(sorted(splits)).capitalize()} error at the best epoch (%)")


def _bars(dataset: str, groups: Sequence[Group], clock: str) -> Figure:
    labels = [_wrapped(group.label, _TICK) for group in groups]
    rows = max(label.count("\n") + 1 for label in labels)
    figure = Figure(figsize=(7.2, 1.4 + (0.25 + 0.2 * rows) * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    seconds = [group.seconds_per_epoch() for group in groups]
    spread = [_deviation(values) for values in seconds]
    colours = [_style(number)["color"] for number in range(len(groups))]
    places = range(len(groups))
    axes.barh(
        places, [statistics.fmean(values) for values in seconds], xerr=spread, color=colours, height=0.6, capsize=3
    )
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_title(dataset)
    axes.set_xlabel(f"{clock} per epoch (s)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure


def _wrapped(label: str, width: int) -> str:
    return "\n".join(textwrap.wrap(label, width, subsequent_indent="  "))
