"""Tables, plots and one page of all finished runs below a folder."""

import base64
import html
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from .comparison import lines
from .groups import Group, group_runs
from .plots import plots
from .results import read_runs
from .tables import to_csv, to_latex, to_markdown

_NOTE = (
    "Mean ± standard deviation over seeds. The best epoch is that of the best validation accuracy. The difference is "
    "that to the run of constant depth with the same seed and settings. Executed FLOPs are those of the forward "
    "passes, counted from the gates drawn, or expected over them in runs that did not count."
)
_TIMES = (
    "Times are those of an epoch, and they are compared only between runs with the same images. Times of a machine "
    "that did other work meanwhile are no measurement."
)
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}"
    "th,td{padding:.35rem .7rem;border-bottom:1px solid #ddd;text-align:right;font-variant-numeric:tabular-nums}"
    "th:first-child,td:first-child{text-align:left}th{border-bottom:2px solid #888;vertical-align:bottom}"
    "figure{margin:1.5rem 0}img{max-width:100%;height:auto}"
)


class Report(NamedTuple):
    """What a report is made of.

    Attributes:
        runs: how many runs are in it.
        unfinished: folders of runs that are not finished and left out.
        tables: Markdown table of each data set, by the name of its files.
    """

    runs: int
    unfinished: list[Path]
    tables: dict[str, str]


def write_report(runs: Path, output: Path, processor_time: bool = False) -> Report:
    """Write ``<data set>.md``, ``.tex``, ``.csv``, plots as PNG and SVG, and a self-contained ``index.html``.

    Args:
        runs: folder of runs, at any depth.
        output: folder of the report.
        processor_time: compare what the processor spent on a run instead of what the clock showed.

    Raises:
        ValueError: there is no finished run, or the names of two data sets are too much alike.
    """
    # On a machine that does other work, the processor's time is closer to a measurement than the clock.
    records, unfinished = read_runs(runs, processor_time)
    if not records:
        raise ValueError(f"no run in {runs} is finished: continue one with scripts/train.py --resume")
    output.mkdir(parents=True, exist_ok=True)
    clock = "Training time"
    if processor_time:
        clock = "Processor time"
    parts = []
    tables: dict[str, str] = {}
    for dataset, members in groupby(group_runs(records), key=lambda group: group.dataset):
        # The name of a data set, made fit for a file name on every system.
        stem = re.sub(r"\W+", "_", dataset).strip("_").lower() or "images"
        if stem in tables:
            raise ValueError(
                f"two data sets would be written to {stem}.md, one of them {dataset!r}: give it another --data.label"
            )
        markdown, part = _write_dataset(dataset, list(members), clock, output / stem)
        tables[stem] = markdown
        parts.append(part)
    (output / "index.html").write_text(_page(parts, unfinished), encoding="utf-8")
    return Report(len(records), unfinished, tables)


def _write_dataset(dataset: str, groups: Sequence[Group], clock: str, stem: Path) -> tuple[str, str]:
    """Write the files of one data set; return its table as Markdown and its part of the page."""
    table = lines(groups)
    rows = to_markdown(table, clock)
    note = f"{_NOTE} {_TIMES}"
    markdown = f"### {dataset}\n\n{rows}\n{note}\n"
    stem.with_suffix(".md").write_text(markdown, encoding="utf-8")
    stem.with_suffix(".tex").write_text(to_latex(table, clock, f"{dataset}. {note}"), encoding="utf-8")
    stem.with_suffix(".csv").write_text(to_csv(table), encoding="utf-8")
    pictures = []
    for name, figure in plots(dataset, groups, clock).items():
        path = stem.with_name(f"{stem.name}_{name}.svg")
        figure.savefig(path, metadata={"Date": None})  # a date would differ each time
        figure.savefig(path.with_suffix(".png"), dpi=200)
        pictures.append(_picture(path, f"{dataset}: {name.replace('_', ' ')}"))
    part = f"<h2>{html.escape(dataset)}</h2>\n{_html_table(rows)}\n"
    return markdown, part + "".join(pictures)


def _page(parts: Sequence[str], unfinished: Sequence[Path]) -> str:
    left_out = ""
    if unfinished:
        items = ""
        for path in unfinished:
            items += f"<li>{html.escape(str(path))}</li>"
        left_out = f"<h2>Not finished, left out</h2><ul>{items}</ul>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Stochastic depth: runs</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>\n<h1>Stochastic depth: runs</h1>\n<p>{_NOTE}</p>\n<p>{_TIMES}</p>\n"
        f"{''.join(parts)}{left_out}\n</body></html>\n"
    )


def _html_table(markdown: str) -> str:
    # The second line of a Markdown table is the rule below its headings.
    heads, _, *rows = markdown.splitlines()
    head = _html_row(heads, "th")
    body = "".join(_html_row(row, "td") for row in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _html_row(markdown: str, tag: str) -> str:
    inside = ""
    for cell in markdown.strip("| ").split(" | "):
        inside += f"<{tag}>{html.escape(cell.strip())}</{tag}>"
    return f"<tr>{inside}</tr>"


def _picture(path: Path, text: str) -> str:
    # Within the page, which one can then send by itself.
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{html.escape(text)}" src="data:image/svg+xml;base64,{content}"></figure>\n'
