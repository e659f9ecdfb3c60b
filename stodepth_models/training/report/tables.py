"""Tables of the report as Markdown, LaTeX and CSV, and tables inside hand-written Markdown pages.

A column is a heading, a cell of :func:`_cells` and a figure of :func:`to_csv`; ``comparison.py`` computes it.
"""

import csv
import io
import math
from collections.abc import Sequence

from .comparison import Line

MARKERS = ("<!-- {} -->", "<!-- end of {} -->")  # of a table in a page

_LATEX = str.maketrans(
    {
        "#": r"\#",
        "$": r"\$",
        "%": r"\%",
        "&": r"\&",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "±": r"$\pm$",
    }
)


def headings(clock: str) -> tuple[str, ...]:
    """Return the headings of a table; ``clock`` is what its times are, such as ``"Training time"``."""
    return (
        "Model and depth",
        "Seeds",
        "Error at best epoch (%)",
        "Error at last epoch (%)",
        "Difference to constant depth (points, 95 % CI)",
        f"{clock} ratio",
        "Executed FLOPs (%)",
    )


def _cells(line: Line) -> tuple[str, ...]:
    """The cells of a line, one for each heading."""
    label = line.label
    # Runs without test images report the error on validation images, which chose the best epoch.
    if line.images != "test":
        label += f" ({line.images} images)"
    ratio = "-"
    if line.time_ratio is not None:
        ratio = f"{line.time_ratio:.2f}"
    return (
        label,
        str(line.seeds),
        _plus_minus(line.best),
        _plus_minus(line.last),
        _interval(line),
        ratio,
        f"{100 * line.flops_share:.1f}",
    )


def to_markdown(table: Sequence[Line], clock: str) -> str:
    """Return a table for a README."""
    heads = headings(clock)
    rule = ["---"] + ["---:"] * (len(heads) - 1)  # numbers stand at the right
    out = ""
    for row in (heads, rule, *map(_cells, table)):
        out += f"| {' | '.join(row)} |\n"
    return out


def to_latex(table: Sequence[Line], clock: str, caption: str) -> str:
    """Return a table for a paper; needs the package ``booktabs``."""
    heads = headings(clock)
    columns = "l" + "r" * (len(heads) - 1)
    out = [
        "\\begin{table}",
        r"  \centering",
        rf"  \caption{{{_escape(caption)}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"  \toprule",
        _latex_row(heads),
        r"  \midrule",
    ]
    for line in table:
        out.append(_latex_row(_cells(line)))
    # The empty string ends the last line.
    out += [r"  \bottomrule", r"  \end{tabular}", r"\end{table}", ""]
    return "\n".join(out)


def to_csv(table: Sequence[Line]) -> str:
    """Return all figures unrounded."""
    rows = [_figures(line) for line in table]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _figures(line: Line) -> dict[str, object]:
    """The figures of a line by the names that they have in CSV."""
    difference, low, high = line.difference or (None, None, None)
    best_mean, best_sd = line.best
    last_mean, last_sd = line.last
    return {
        "model_and_depth": line.label,
        "images": line.images,
        "seeds": line.seeds,
        "best_mean": best_mean,
        "best_sd": best_sd,
        "last_mean": last_mean,
        "last_sd": last_sd,
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "pairs": line.pairs,
        "time_ratio": line.time_ratio,
        "flops_share": line.flops_share,
    }


def fill_in(text: str, name: str, table: str) -> str:
    """Return a page with what stands between the two markers of that name replaced.

    Raises:
        ValueError: the page has no such markers.
    """
    start = MARKERS[0].format(name)
    end = MARKERS[1].format(name)
    if start not in text or end not in text:
        raise ValueError(f"the page has no {start} and {end}: add these two lines where the table belongs")
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    return f"{before}{start}\n\n{table}\n{end}{after}"


def _latex_row(cells: Sequence[str]) -> str:
    inside = " & ".join(map(_escape, cells))
    return f"  {inside} \\\\"


def _plus_minus(value: tuple[float, float | None]) -> str:
    mean, deviation = value
    if deviation is None:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {deviation:.2f}"


def _interval(line: Line) -> str:
    if line.difference is None:
        return "-"
    mean, low, high = line.difference
    # A single pair has no interval.
    if math.isnan(low):
        return f"{mean:+.2f}"
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], n = {line.pairs}"


def _escape(text: str) -> str:
    return text.translate(_LATEX)
