"""Tables of the report as Markdown, LaTeX and CSV, and tables inside hand-written Markdown pages."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from .groups import Group

MARKERS = ("<!-- {} -->", "<!-- end of {} -->")  # of a table in a page

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
    rule = ("---", *["---:"] * (len(heads) - 1))
    rows = [heads, rule, *map(_cells, table)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_latex(table: Sequence[Line], clock: str, caption: str) -> str:
    """Return a table for a paper; needs the package ``booktabs``."""
    heads = headings(clock)
    columns = "l" + "r" * (len(heads) - 1)
    out = [
        "\\begin{table}",
        r"  \centering",
        rf"  \caption{{{_escape(caption)}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
    ]
    out += [r"  \toprule", _latex_row(heads), r"  \midrule"]
    out += [_latex_row(_cells(line)) for line in table]
    out += [r"  \bottomrule", r"  \end{tabular}", r"\end{table}", ""]
    return "\n".join(out)


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


def fill_in(text: str, name: str, table: str) -> str:
    """Return a page with what stands between the two markers of that name replaced.

    Raises:
        ValueError: the page has no such markers.
    """
    start, end = (marker.format(name) for marker in MARKERS)
    if start not in text or end not in text:
        raise ValueError(f"the page has no {start} and {end}: add these two lines where the table belongs")
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    return f"{before}{start}\n\n{table}\n{end}{after}"


def _latex_row(cells: Sequence[str]) -> str:
    return f"  {' & '.join(map(_escape, cells))} \\\\"


def _twin(group: Group, groups: Sequence[Group]) -> Group | None:
    """Return the group of constant depth that a group is compared with; None where there is none, or no single one."""
    if group.constant:
        return None
    twins = [other for other in groups if other.constant and other.base == group.base]
    # Runs that go on with the very same weights are closer than those that go on with weights of the same name.
    closest = [twin for twin in twins if twin.settings["model.weights"] == group.settings["model.weights"]]
    candidates = closest or twins
    if len(candidates) != 1:
        return None
    return candidates[0]


def _line(group: Group, twin: Group | None) -> Line:
    difference, ratio, seeds = None, None, []
    if twin is not None:
        seeds = sorted(group.runs.keys() & twin.runs.keys())
        ratio = _time_ratio(group, twin, seeds)
    if twin is not None and seeds:
        difference = paired_difference([group.runs[seed].best_error - twin.runs[seed].best_error for seed in seeds])
    return Line(
        label=group.label,
        images=group.first.split,
        seeds=len(group.runs),
        best=_spread(group.values("best_error")),
        last=_spread(group.values("last_error")),
        difference=difference,
        pairs=len(seeds),
        time_ratio=ratio,
        flops_share=statistics.fmean(group.values("flops_share")),
    )


def _time_ratio(group: Group, twin: Group, seeds: Sequence[int]) -> float | None:
    """Return the mean time of an epoch over that of the twin, over the seeds of both, or all where they share none."""
    if not group.has_images_of(twin):
        return None
    common = seeds or None
    return statistics.fmean(group.seconds_per_epoch(common)) / statistics.fmean(twin.seconds_per_epoch(common))


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def _cells(line: Line) -> tuple[str, ...]:
    label = line.label
    if line.images != "test":
        label += f" ({line.images} images)"
    ratio = "-" if line.time_ratio is None else f"{line.time_ratio:.2f}"
    flops = f"{100 * line.flops_share:.1f}"
    return label, str(line.seeds), _plus_minus(line.best), _plus_minus(line.last), _interval(line), ratio, flops


def _plus_minus(value: tuple[float, float | None]) -> str:
    mean, deviation = value
    if deviation is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {deviation:.2f}"


def _interval(line: Line) -> str:
    if line.difference is None:
        return "-"
    mean, low, high = line.difference
    if math.isnan(low):  # a single pair has no interval
        return f"{mean:+.2f}"
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], n = {line.pairs}"


def _escape(text: str) -> str:
    return text.translate(_LATEX)
