#!/usr/bin/env python3
"""Print the tables of the map of docs/results.md from its records, and draw its picture.

    python scripts/draw_map.py docs/map --picture docs/pictures/map.svg

A cell of the map is a network and a number of training images; its arms are the survival probabilities and modes.
Differences are to the run of constant depth with the same seed, their 95 % intervals over seeds (Student's t).
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stodepth_models.training.exits import run_script
from stodepth_models.training.report.comparison import paired_difference
from stodepth_models.training.report.results import Record, read_runs

RECALIBRATED = "recalibrated.json"
_COLUMNS = (
    "Network, images", "p_L, mode", "Seeds", "Training loss", "Validation error (%)", "Test error (%)",
    "the same at the best epoch", "NLL", "Calibration error", "Test error, new norms (%)", "NLL, new norms",
)  # fmt: skip


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
Runs = dict[Cell, dict[Arm, dict[int, Record]]]
CONSTANT = Arm(1.0, "")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="folder of the records")
    parser.add_argument("--epochs", nargs="+", type=int, default=(25, 50, 75, 100, 125, 150), help="of the picture")
    parser.add_argument("--picture", type=Path, help="SVG file of the differences over images and epochs")
    return parser.parse_args()


def read_map(folder: Path) -> Runs:
    """Return the runs of each cell by arm and seed."""
    runs: Runs = defaultdict(lambda: defaultdict(dict))
    records, _ = read_runs(folder)
    for record in records:
        settings = record.settings
        p_L = settings["model.prob_0_L"][1]
        arm = CONSTANT
        if p_L < 1.0:
            arm = Arm(p_L, settings["model.mode"])
        cell = Cell(settings["model.name"], 10 * settings["data.images_per_class"])
        runs[cell][arm][record.seed] = record
    return runs


def difference(arm: dict[int, Record], twin: dict[int, Record], figure: Reader) -> tuple[float, float, float] | None:
    """Return the mean difference of a figure to the twin over the seeds of both, and the bounds of its interval."""
    seeds = sorted(arm.keys() & twin.keys())
    if not seeds or arm is twin:
        return None
    return paired_difference([figure(arm[seed]) - figure(twin[seed]) for seed in seeds])


def test_error(record: Record) -> float:
    return record.last_error


def best_error(record: Record) -> float:
    return record.best_error


def test_nll(record: Record) -> float:
    return record.result["test_last"]["nll"]


def calibration_error(record: Record) -> float:
    return record.result["test_last"]["ece"]


def valid_error(record: Record) -> float:
    return 100 * (1 - record.rows[-1]["valid"]["top1"])


def training_loss(record: Record) -> float:
    return record.rows[-1]["train"]["loss"]


def of_new_norms(figures: dict[str, Any], folder: Path, name: str) -> Reader:
    """Return what reads a figure of a run whose batch norms were estimated anew."""

    def read(record: Record) -> float:
        found = figures[record.folder.relative_to(folder).as_posix()]["test"]
        if name == "error":
            return 100 * (1 - found["top1"])
        return found["nll"]

    return read


def chosen(arms: dict[Arm, dict[int, Record]]) -> Arm:
    """Return the stochastic arm with the lowest mean error on the validation images."""
    stochastic = {arm: records for arm, records in arms.items() if arm != CONSTANT}
    return min(stochastic, key=lambda arm: statistics.fmean(map(valid_error, stochastic[arm].values())))


def row(cell: Cell, arm: Arm, arms: dict[Arm, dict[int, Record]], figures: Sequence[tuple[Reader, int]]) -> str:
    """Return one line of the table: of each figure the mean and the difference to constant depth."""
    records = arms[arm]
    mark = ""
    if arm != CONSTANT and arm == chosen(arms):
        mark = " (chosen)"
    cells = [str(cell), f"{arm}{mark}", str(len(records))]
    cells.append(f"{statistics.fmean(map(training_loss, records.values())):.3f}")
    for figure, digits in figures:
        cells.append(f"{statistics.fmean(map(figure, records.values())):.{digits}f}")
        found = difference(records, arms[CONSTANT], figure)
        if found is not None:
            mean, low, high = found
            cells[-1] += f" ({mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}])"
    return f"| {' | '.join(cells)} |"


def draw(runs: Runs, epochs: Sequence[int], path: Path) -> None:
    """Draw the difference of the chosen arm to constant depth on the validation images, over images and epochs."""
    figure = Figure(figsize=(8.0, 1.4 + 0.55 * len(runs)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, unit in zip(panels, ("top1", "nll"), ("Error (points)", "NLL (nats)"), strict=True):
        _draw_panel(axes, runs, epochs, name)
        axes.set_title(unit)
        axes.set_xlabel("Epoch of 150")
    figure.suptitle("Stochastic depth less constant depth, validation images; bold: beyond the 95 % interval")
    figure.savefig(path, metadata={"Date": None})


def _draw_panel(axes: Axes, runs: Runs, epochs: Sequence[int], name: str) -> None:
    means = np.zeros((len(runs), len(epochs)))
    for line, arms in enumerate(runs.values()):
        for column, epoch in enumerate(epochs):
            found = difference(arms[chosen(arms)], arms[CONSTANT], _of_epoch(epoch, name))
            assert found is not None
            mean, low, high = found
            means[line, column] = mean
            weight = "normal"
            if low > 0 or high < 0:
                weight = "bold"
            axes.text(column, line, f"{mean:+.1f}", ha="center", va="center", fontsize="small", weight=weight)
    limit = np.abs(means).max()
    # Blue where stochastic depth is better, red where it is worse; both are told apart by colour-blind readers.
    axes.imshow(means, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.7, aspect="auto")
    axes.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])
    labels = []
    for cell, arms in runs.items():
        arm = chosen(arms)
        labels.append(f"{cell} images\np_L = {arm.p_L:g}, {arm.mode}")
    axes.set_yticks(range(len(runs)), labels)


def _of_epoch(epoch: int, name: str) -> Reader:
    def read(record: Record) -> float:
        valid = record.rows[epoch - 1]["valid"]
        if name == "top1":
            return 100 * (1 - valid["top1"])
        return valid[name]

    return read


def main() -> None:
    """Parse, print, draw."""
    options = parse_arguments()
    runs = {cell: arms for cell, arms in sorted(read_map(options.records).items()) if len(arms) > 1}
    known = json.loads((options.records / RECALIBRATED).read_text(encoding="utf-8"))
    figures = [
        (valid_error, 2), (test_error, 2), (best_error, 2), (test_nll, 2), (calibration_error, 3),
        (of_new_norms(known, options.records, "error"), 2), (of_new_norms(known, options.records, "nll"), 2),
    ]  # fmt: skip
    print(f"| {' | '.join(_COLUMNS)} |")
    print(f"| --- | --- |{' ---: |' * (len(_COLUMNS) - 2)}")
    for cell, arms in runs.items():
        for arm in sorted(arms, reverse=True):
            print(row(cell, arm, arms, figures))
    if options.picture is not None:
        draw(runs, options.epochs, options.picture)


if __name__ == "__main__":
    run_script(main)
