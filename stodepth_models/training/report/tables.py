"""A table a data set, as Markdown, LaTeX and CSV: mean and standard deviation over seeds, and paired differences."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from .groups import Group

__all__ = ["Line", "headings", "lines", "paired_difference", "to_csv", "to_latex", "to_markdown"]

_NUMBERS = (
    "model_and_depth", "images", "seeds", "best_mean", "best_sd", "last_mean", "last_sd", "difference",
    "difference_low", "difference_high", "pairs", "time_ratio", "flops_share",
)  # fmt: skip
_LATEX = str.maketrans({
    **{character: f"\\{character}" for character in "#$%&_{}"},
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$",
})  # fmt: skip


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
        time_ratio: time of an epoch over that of the twin, where both have a seed of those; None without a twin.
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


def headings(clock: str) -> tuple[str, ...]:
    """Return the headings of a table; ``clock`` is what its times are, such as ``"Training time"``."""
    return (
        "Model and depth", "Seeds", "Error at best epoch (%)", "Error at last epoch (%)",
        "Difference to constant depth (points, 95 % CI)", f"{clock} ratio", "Executed FLOPs (%)",
    )  # fmt: skip


def lines(groups: Sequence[Group]) -> list[Line]:
    """Return a line for each group of one data set."""
    return [_line(group, _twin(group, groups)) for group in groups]


def paired_difference(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of differences and the bounds of its 95 % confidence interval (Student's t)."""
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.975, count - 1) * statistics.stdev(differences) / count**0.5
    return mean, mean - half, mean + half


def to_markdown(table: Sequence[Line], clock: str) -> str:
    """Return a table for a README."""
    heads = headings(clock)
    rows = [heads, ("---", *["---:"] * (len(heads) - 1)), *map(_cells, table)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_latex(table: Sequence[Line], clock: str, caption: str) -> str:
    """Return a table for a paper; needs the package ``booktabs``."""
    heads = headings(clock)
    body = "".join(f"  {' & '.join(_escape(cell) for cell in _cells(line))} \\\\\n" for line in table)
    head = " & ".join(map(_escape, heads))
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escape(caption)}}}\n  \\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}\n"
        f"  \\toprule\n  {head} \\\\\n  \\midrule\n{body}  \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
    )


def to_csv(table: Sequence[Line]) -> str:
    """Return all figures unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_NUMBERS)
    for line in table:
        difference = line.difference or (None, None, None)
        writer.writerow([line.label, line.images, line.seeds, *line.best, *line.last, *difference, line.pairs,
                         line.time_ratio, line.flops_share])  # fmt: skip
    return out.getvalue()


def _twin(group: Group, groups: Sequence[Group]) -> Group | None:
    if group.constant:
        return None
    twins = [other for other in groups if other.constant and other.base == group.base]
    closest = [twin for twin in twins if twin.settings["model.weights"] == group.settings["model.weights"]] or twins
    return closest[0] if len(closest) == 1 else None


def _line(group: Group, twin: Group | None) -> Line:
    first = next(iter(group.runs.values()))
    seeds = sorted(group.runs.keys() & twin.runs.keys()) if twin else []
    differences = [group.runs[seed].best_error - twin.runs[seed].best_error for seed in seeds] if twin else []
    return Line(
        group.label, first.split, len(group.runs), _spread(group.values("best_error")),
        _spread(group.values("last_error")), paired_difference(differences) if differences else None, len(seeds),
        _time_ratio(group, twin, seeds) if twin else None, statistics.fmean(group.values("flops_share")),
    )  # fmt: skip


def _time_ratio(group: Group, twin: Group, seeds: Sequence[int]) -> float:
    """Mean time of an epoch over that of the twin, of the seeds that both have; of all where they share none."""
    own, other = (
        [value for seed, value in zip(sorted(g.runs), g.seconds_per_epoch(), strict=True) if seed in seeds or not seeds]
        for g in (group, twin)
    )
    return statistics.fmean(own) / statistics.fmean(other)


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _cells(line: Line) -> tuple[str, ...]:
    label = line.label if line.images == "test" else f"{line.label} (validation images)"
    return (
        label, str(line.seeds), _plus_minus(line.best), _plus_minus(line.last), _interval(line),
        "-" if line.time_ratio is None else f"{line.time_ratio:.2f}", f"{100 * line.flops_share:.1f}",
    )  # fmt: skip


def _plus_minus(value: tuple[float, float | None]) -> str:
    mean, spread = value
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def _interval(line: Line) -> str:
    if line.difference is None:
        return "-"
    mean, low, high = line.difference
    return f"{mean:+.2f}" if low != low else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], n = {line.pairs}"


def _escape(text: str) -> str:
    return text.translate(_LATEX)
