#!/usr/bin/env python3
"""Print the tables of the map of docs/results.md from its records, and draw its picture.

    python scripts/draw_map.py docs/map --page docs/results.md --picture docs/pictures/map.svg

A cell of the map is a network and a number of training images; its arms are the survival probabilities and modes.
Differences are to the run of constant depth with the same seed and precision, their 95 % intervals over such pairs
(Student's t).
"""

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stodepth_models.training.exits import run_script
from stodepth_models.training.report.comparison import paired_difference
from stodepth_models.training.report.results import Record, read_runs
from stodepth_models.training.report.tables import fill_in

RECALIBRATED = "recalibrated.json"
_COLUMNS = (
    "Network, images", "p_L, mode", "Runs", "Training loss", "Validation error (%)", "Test error (%)", "NLL",
    "Calibration error",
)  # fmt: skip
_NORM_COLUMNS = ("Network, images", "p_L, mode", "Runs", "Validation error (points)", "Test error (points)", "NLL")


class Cell(NamedTuple):
    """A place on the map."""

    model: str
    images: int

    def __str__(self) -> str:
        network = self.model.split("_stodepth")[0].removeprefix("cifar_resnet")
        return f"ResNet-{network}, {self.images:,}"


class Arm(NamedTuple):
    """A way of training; the mode of constant depth is empty."""

    p_L: float
    mode: str

    def __str__(self) -> str:
        if self.p_L == 1.0:
            return "constant depth"
        return f"{self.p_L:g}, `{self.mode}`"


Reader = Callable[[Record], float]
Pairs = dict[tuple[int, str], Record]  # by seed and precision: constant depth has a twin of each
Arms = dict[Arm, Pairs]
Runs = dict[Cell, Arms]
CONSTANT = Arm(1.0, "")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="folder of the records")
    parser.add_argument("--epochs", nargs="+", type=int, default=(25, 50, 75, 100, 125, 150), help="of the picture")
    parser.add_argument(
        "--page", type=Path, help="Markdown page whose markers <!-- map --> and <!-- norms --> get the tables"
    )
    parser.add_argument("--picture", type=Path, help="SVG file of the differences over images and epochs")
    return parser.parse_args()


def read_map(folder: Path) -> Runs:
    """Return the runs of each cell."""
    runs: Runs = defaultdict(lambda: defaultdict(dict))
    records, _ = read_runs(folder)
    for record in records:
        settings = record.settings
        p_L = settings["model.prob_0_L"][1]
        arm = CONSTANT
        if p_L < 1.0:
            arm = Arm(p_L, settings["model.mode"])
        cell = Cell(settings["model.name"], 10 * settings["data.images_per_class"])
        runs[cell][arm][record.seed, settings["precision"]] = record
    # A cell needs something to compare.
    return {cell: arms for cell, arms in sorted(runs.items()) if CONSTANT in arms and len(arms) > 1}


def difference(arm: Pairs, twin: Pairs, figure: Reader) -> tuple[float, float, float] | None:
    """Return the mean difference of a figure to the twin over the seeds of both, and the bounds of its interval."""
    both = sorted(arm.keys() & twin.keys())
    if not both or arm is twin:
        return None
    return paired_difference([figure(arm[pair]) - figure(twin[pair]) for pair in both])


def test_error(record: Record) -> float:
    return record.last_error


def test_nll(record: Record) -> float:
    return record.result["test_last"]["nll"]


def calibration_error(record: Record) -> float:
    return record.result["test_last"]["ece"]


def valid_error(record: Record) -> float:
    return 100 * (1 - record.rows[-1]["valid"]["top1"])


def training_loss(record: Record) -> float:
    return record.rows[-1]["train"]["loss"]


def chosen(arms: Arms) -> Arm:
    """Return the stochastic arm with the lowest mean error on the validation images."""
    stochastic = {arm: records for arm, records in arms.items() if arm != CONSTANT}
    return min(stochastic, key=lambda arm: statistics.fmean(map(valid_error, stochastic[arm].values())))


def with_difference(records: Pairs, twin: Pairs, figure: Reader, digits: int) -> str:
    """Return the mean of a figure, and in brackets its difference to constant depth with its interval."""
    cell = f"{statistics.fmean(map(figure, records.values())):.{digits}f}"
    found = difference(records, twin, figure)
    if found is None:
        return cell
    return f"{cell} ({with_interval(found, digits)})"


def with_interval(found: tuple[float, float, float], digits: int) -> str:
    """Return a mean difference with its interval, which a single pair has not."""
    mean, low, high = found
    if math.isnan(low):
        return f"{mean:+.{digits}f}"
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def row(cell: Cell, arm: Arm, arms: Arms, figures: Sequence[tuple[Reader, int]]) -> str:
    """Return one line of the table: of each figure the mean and the difference to constant depth."""
    records = arms[arm]
    mark = ""
    if arm != CONSTANT and arm == chosen(arms):
        mark = " (chosen)"
    cells = [str(cell), f"{arm}{mark}", str(len(records))]
    cells.append(f"{statistics.fmean(map(training_loss, records.values())):.3f}")
    for figure, digits in figures:
        cells.append(with_difference(records, arms[CONSTANT], figure, digits))
    return f"| {' | '.join(cells)} |"


def draw(runs: Runs, epochs: Sequence[int], path: Path) -> None:
    """Draw the difference of each arm to constant depth on the validation images, over images and epochs."""
    lines = []
    for cell, arms in runs.items():
        lines += [(cell, arm, arms) for arm in sorted(arms, reverse=True) if arm != CONSTANT]
    figure = Figure(figsize=(8.6, 1.5 + 0.42 * len(lines)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, unit, digits in zip(panels, ("top1", "nll"), ("Error, points", "NLL, nats"), (1, 2), strict=True):
        _draw_panel(axes, lines, epochs, name, digits)
        axes.set_title(unit, fontsize="medium")
        axes.set_xlabel("Epoch of 150")
    labels = [f"{cell} images, p_L = {arm.p_L:g}, {arm.mode}" for cell, arm, _ in lines]
    panels[0].set_yticks(range(len(lines)), labels)
    figure.suptitle("Stochastic depth less constant depth on validation images (bold: the 95 % interval excludes 0)")
    figure.savefig(path, metadata={"Date": None})


def _draw_panel(
    axes: Axes, lines: Sequence[tuple[Cell, Arm, Arms]], epochs: Sequence[int], name: str, digits: int
) -> None:
    means = np.zeros((len(lines), len(epochs)))
    for line, (_, arm, arms) in enumerate(lines):
        for column, epoch in enumerate(epochs):
            found = difference(arms[arm], arms[CONSTANT], _of_epoch(epoch, name))
            assert found is not None  # `read_map` leaves out what has no twin
            mean, low, high = found
            means[line, column] = mean
            weight = "normal"
            if low > 0 or high < 0:
                weight = "bold"
            axes.text(column, line, f"{mean:+.{digits}f}", ha="center", va="center", fontsize="small", weight=weight)
    limit = np.abs(means).max()
    # Blue where stochastic depth is better, red where it is worse: colour-blind readers tell them apart.
    axes.imshow(means, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.7, aspect="auto")
    axes.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])


def _of_epoch(epoch: int, name: str) -> Reader:
    def read(record: Record) -> float:
        valid = record.rows[epoch - 1]["valid"]
        if name == "top1":
            return 100 * (1 - valid["top1"])
        return valid[name]

    return read


def table(runs: Runs) -> str:
    """Return the Markdown table of the map."""
    figures = [(valid_error, 2), (test_error, 2), (test_nll, 2), (calibration_error, 3)]
    lines = [f"| {' | '.join(_COLUMNS)} |", f"| --- | --- |{' ---: |' * (len(_COLUMNS) - 2)}"]
    for cell, arms in runs.items():
        lines += [row(cell, arm, arms, figures) for arm in sorted(arms, reverse=True)]
    return "\n".join(lines) + "\n"


def norm_table(folder: Path, runs: Runs) -> str:
    """Return the Markdown table of what batch norms that are estimated anew change."""
    known = json.loads((folder / RECALIBRATED).read_text(encoding="utf-8"))
    lines = [f"| {' | '.join(_NORM_COLUMNS)} |", f"| --- | --- |{' ---: |' * (len(_NORM_COLUMNS) - 2)}"]
    for cell, arms in runs.items():
        for arm in sorted(arms, reverse=True):
            changes: dict[str, list[float]] = {"valid": [], "test": [], "nll": []}
            for record in arms[arm].values():
                new = known.get(record.folder.relative_to(folder).as_posix())
                if new is not None:
                    changes["valid"].append(100 * (1 - new["valid"]["top1"]) - valid_error(record))
                    changes["test"].append(100 * (1 - new["test"]["top1"]) - test_error(record))
                    changes["nll"].append(new["test"]["nll"] - test_nll(record))
            if changes["nll"]:
                cells = [str(cell), str(arm), str(len(changes["nll"]))]
                cells += [with_interval(paired_difference(values), 2) for values in changes.values()]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, print, draw."""
    options = parse_arguments()
    runs = read_map(options.records)
    tables = {"map": table(runs), "norms": norm_table(options.records, runs)}
    print("\n".join(tables.values()), end="")
    if options.page is not None:
        page = options.page.read_text(encoding="utf-8")
        for name, made in tables.items():
            page = fill_in(page, name, made)
        options.page.write_text(page, encoding="utf-8")
    if options.picture is not None:
        draw(runs, options.epochs, options.picture)


if __name__ == "__main__":
    run_script(main)
