"""A table a data set, as Markdown, LaTeX and CSV: mean and standard deviation over seeds, and paired differences."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from .results import Group

__all__ = ["HEADINGS", "Line", "lines", "paired_difference", "to_csv", "to_latex", "to_markdown"]

HEADINGS = (
    "Model and depth", "Seeds", "Error at best epoch (%)", "Error at last epoch (%)",
    "Difference to constant depth (points, 95 % CI)", "Training time ratio", "Executed FLOPs (%)",
)  # fmt: skip
_NUMBERS = (
    "model_and_depth", "images", "seeds", "best_mean", "best_sd", "last_mean", "last_sd", "difference",
    "difference_low", "difference_high", "pairs", "time_ratio", "flops_share",
)  # fmt: skip


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
        time_ratio: training time over that of the twin; None without one.
        flops_share: expected share of the forward FLOPs executed in training, in [0, 1].
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
    return [_line(group, _twin(group, groups)) for group in groups]


def paired_difference(differences: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of differences and the bounds of its 95 % confidence interval (Student's t)."""
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return mean, float("nan"), float("nan")
    half = stats.t.ppf(0.975, count - 1) * statistics.stdev(differences) / count**0.5
    return mean, mean - half, mean + half


def to_markdown(table: Sequence[Line]) -> str:
    """Return a table for a README."""
    rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *map(_cells, table)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_latex(table: Sequence[Line], caption: str) -> str:
    """Return a table for a paper; needs the package ``booktabs``."""
    body = "".join(f"  {' & '.join(_escape(cell) for cell in _cells(line))} \\\\\n" for line in table)
    heads = " & ".join(_escape(heading) for heading in HEADINGS)
    return (
        "\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escape(caption)}}}\n  \\begin{{tabular}}{{l{'r' * (len(HEADINGS) - 1)}}}\n"
        f"  \\toprule\n  {heads} \\\\\n  \\midrule\n{body}  \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
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
    return next((other for other in groups if other.constant and other.base == group.base), None)


def _line(group: Group, twin: Group | None) -> Line:
    first = next(iter(group.runs.values()))
    seeds = sorted(group.runs.keys() & twin.runs.keys()) if twin else []
    differences = [group.runs[seed].best_error - twin.runs[seed].best_error for seed in seeds] if twin else []
    time_ratio = None
    if twin:
        time_ratio = statistics.fmean(group.seconds_per_epoch()) / statistics.fmean(twin.seconds_per_epoch())
    return Line(
        group.label, first.split, len(group.runs), _spread(group.values("best_error")),
        _spread(group.values("last_error")), paired_difference(differences) if differences else None, len(seeds),
        time_ratio, statistics.fmean(run.result["expected_flops_share"] for run in group.runs.values()),
    )  # fmt: skip


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
    for character, replacement in (("_", r"\_"), ("%", r"\%"), ("±", r"$\pm$"), ("&", r"\&")):
        text = text.replace(character, replacement)
    return text
