"""Plots of a data set's runs: colour-blind-safe, labelled, with units."""

import statistics
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .groups import Group
from .labels import depth_labels, family_labels, image_labels

# Okabe and Ito, "Color Universal Design" (2008); yellow is left out, which is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LINES = ("-", "--", "-.", ":", (0, (8, 2)), (0, (1, 1)), (0, (6, 1, 1, 1, 1, 1)))
_MARKERS = "os^DvPX"
# Characters of a label that fit in a line.
_LEGEND = 74
_TICK = 36


def plots(dataset: str, groups: Sequence[Group], clock: str) -> dict[str, Figure]:
    """Return the plots of one data set by file name.

    A label holds what differs within the plot; the model, where it is one for all, stands in the title.

    Args:
        dataset: name for the titles.
        groups: its groups of runs.
        clock: what their times are, such as ``"Training time"``.
    """
    title = _title(dataset, groups)
    drawn = {
        "error_over_epochs": _figure(title, groups, _error_over_epochs),
        "survival_by_depth": _figure(title, groups, _survival_by_depth),
        "time_per_epoch": _times(title, groups, clock),
    }
    last_probs = {group.last_prob for group in groups}
    if len(last_probs) > 1:
        drawn["error_against_p_L"] = _figure(title, groups, _error_against_p_l)
    return drawn


def _title(dataset: str, groups: Sequence[Group]) -> str:
    models = {group.model for group in groups}
    if len(models) > 1:
        return dataset
    return f"{dataset}, {models.pop()}"


def _figure(title: str, groups: Sequence[Group], draw: Callable[[Axes, Sequence[Group]], None]) -> Figure:
    # The legend stands below the axes, which keep their height: the figure grows by a line for each line of it.
    rows = sum(_lines_of(label, _LEGEND) for label in depth_labels(groups))
    height = 4.2 + 0.22 * rows
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.add_subplot()
    draw(axes, groups)
    axes.set_title(title)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize="small", handlelength=4)
    return figure


def _style(number: int) -> dict[str, Any]:
    """Return another pair of colour and line for each of the first 49 groups."""
    colour = _COLOURS[number % len(_COLOURS)]
    round_of_colours = number // len(_COLOURS)
    line = _LINES[round_of_colours % len(_LINES)]
    return {"color": colour, "linestyle": line}


def _marker(number: int) -> str:
    """Return another marker each time that the colours begin anew: a single point shows no line style."""
    round_of_colours = number // len(_COLOURS)
    return _MARKERS[(number + round_of_colours) % len(_MARKERS)]


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation; nan, which draws no bar, for a single value."""
    if len(values) < 2:
        return float("nan")
    return statistics.stdev(values)


def _error_over_epochs(axes: Axes, groups: Sequence[Group]) -> None:
    for number, (group, label) in enumerate(zip(groups, depth_labels(groups), strict=True)):
        _draw_curve(axes, group, label, _style(number))
    axes.set_xlabel("Epoch")
    axes.set_ylabel(f"{_images(groups, 'curve_split')} error (%)")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_curve(axes: Axes, group: Group, label: str, style: dict[str, Any]) -> None:
    """Draw the mean error over the runs of a group, in a band of one standard deviation."""
    curves = [run.curve for run in group.runs.values()]
    mean = []
    low = []
    high = []
    for errors in zip(*curves, strict=False):  # an epoch each, up to the end of the shortest run
        centre = statistics.fmean(errors)
        spread = _deviation(errors)
        mean.append(centre)
        low.append(centre - spread)
        high.append(centre + spread)
    epochs = range(1, len(mean) + 1)
    seeds = f"n = {len(curves)}".replace(" ", "\N{NO-BREAK SPACE}")
    axes.plot(
        epochs,
        mean,
        label=_wrapped(f"{label} ({seeds})", _LEGEND),
        linewidth=1.6,
        **style,
    )
    if len(curves) > 1:
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _survival_by_depth(axes: Axes, groups: Sequence[Group]) -> None:
    for number, (group, label) in enumerate(zip(groups, depth_labels(groups), strict=True)):
        probs = group.first.rows[-1]["survival"]
        axes.plot(
            range(1, len(probs) + 1),
            probs,
            label=_wrapped(label, _LEGEND),
            linewidth=1.4,
            markersize=4,
            marker=_marker(number),
            markevery=max(1, len(probs) // 20),  # about 20 markers a line, however deep the network
            **_style(number),
        )
    axes.set_xlabel("Residual block, from the input")
    axes.set_ylabel("Survival probability in the last epoch")
    axes.set_ylim(0, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _error_against_p_l(axes: Axes, groups: Sequence[Group]) -> None:
    """Draw a line for each family of groups that differ in their survival probabilities; constant depth is p_L = 1."""
    families: dict[str, list[Group]] = {}
    for group in groups:
        if not group.constant:
            families.setdefault(group.family, []).append(group)
    labels = family_labels([members[0] for members in families.values()])
    for number, (members, label) in enumerate(zip(families.values(), labels, strict=True)):
        # Constant depth has no mode: its groups are a point of every family with the same settings.
        twins = [group for group in groups if group.constant and group.base == members[0].base]
        _draw_family(axes, members + twins, label, number)
    axes.set_xlabel(r"Survival probability of the last block, $p_L$")
    axes.set_ylabel(f"{_images(groups, 'split')} error at the best epoch (%)")


def _draw_family(axes: Axes, groups: Sequence[Group], label: str, number: int) -> None:
    probs = []
    means = []
    deviations = []
    for group in sorted(groups, key=lambda group: group.last_prob):
        errors = group.values("best_error")
        probs.append(group.last_prob)
        means.append(statistics.fmean(errors))
        deviations.append(_deviation(errors))
    axes.errorbar(
        probs,
        means,
        deviations,
        capsize=3,
        label=_wrapped(label, _LEGEND),
        marker=_marker(number),
        **_style(number),
    )


def _times(title: str, groups: Sequence[Group], clock: str) -> Figure:
    """Draw bars: axes of their own for each set of images, for times on other images are not comparable."""
    parts = _by_images(groups)
    heights = [_bar_height(depth_labels(part)) * len(part) for part in parts]
    height = 0.3 + sum(heights) + 1.1 * len(parts)  # inches; each axes has a title and a label beside its bars
    figure = Figure(figsize=(7.2, height), layout="constrained")
    rows = figure.subplots(len(parts), 1, height_ratios=heights, squeeze=False)
    for axes, part in zip(rows[:, 0], parts, strict=True):
        # The colours are those of the same groups in the other plots.
        colours = [_style(groups.index(group))["color"] for group in part]
        _draw_bars(axes, part, colours)
        axes.set_xlabel(f"{clock} per epoch (s)")
    if len(parts) == 1:
        rows[0, 0].set_title(title)
        return figure
    figure.suptitle(title)
    labels = image_labels([part[0] for part in parts])
    for axes, label in zip(rows[:, 0], labels, strict=True):
        axes.set_title(label, fontsize="medium")
    return figure


def _by_images(groups: Sequence[Group]) -> list[list[Group]]:
    """Return the groups that were trained on the same images, together."""
    parts: list[list[Group]] = []
    for group in groups:
        for part in parts:
            if group.has_images_of(part[0]):
                part.append(group)
                break
        else:
            parts.append([group])
    return parts


def _bar_height(labels: Sequence[str]) -> float:
    """Inches that a bar needs beside the longest label."""
    return 0.25 + 0.2 * max(_lines_of(label, _TICK) for label in labels)


def _draw_bars(axes: Axes, groups: Sequence[Group], colours: Sequence[str]) -> None:
    means = []
    deviations = []
    for group in groups:
        seconds = group.seconds_per_epoch()
        means.append(statistics.fmean(seconds))
        deviations.append(_deviation(seconds))
    places = range(len(groups))
    axes.barh(places, means, xerr=deviations, color=colours, height=0.6, capsize=3)
    axes.set_yticks(places, [_wrapped(label, _TICK) for label in depth_labels(groups)])
    axes.invert_yaxis()  # the first group stands on top, as in the tables
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)


def _images(groups: Sequence[Group], attribute: str) -> str:
    """Return which images the errors are of, such as ``"Test"``, or ``"Test / validation"`` where groups differ."""
    splits: set[str] = set()
    for group in groups:
        splits.update(group.values(attribute))
    return " / ".join(sorted(splits)).capitalize()


def _wrapped(label: str, width: int) -> str:
    return "\n".join(textwrap.wrap(label, width, subsequent_indent="  "))


def _lines_of(label: str, width: int) -> int:
    return _wrapped(label, width).count("\n") + 1
