#!/usr/bin/env python3
"""Draw docs/step_time.svg, the picture of the README, from the tables of docs/performance.md.

python scripts/draw_step_time.py
"""

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # draw into a file, also where there is no screen
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "step_time.svg"

# Command of each table that is drawn, from "--model" on, and what the picture calls it.
TABLES = {
    "resnet50 --batch-size 64 --memory-format channels_last --dtype bfloat16 --repeats 7": "ResNet-50",
    "cifar_resnet110 --batch-size 128 --memory-format channels_last --dtype bfloat16 --repeats 7": "ResNet-110",
}
# Rows of the tables, what the picture calls them, and their colours, which colour-blind readers tell apart.
BARS = {
    "timm drop_path": ("masks (timm)", "#999999"),
    "ours, row": ("ours, a gate for each row", "#56B4E9"),
    "ours, subset": ("ours, a subset of the rows", "#0072B2"),
    "ours, batch": ("ours, a gate for the batch", "#D55E00"),
}


def ratios(page, command):
    """Return the step time of each candidate, over that without stochastic depth."""
    table = page[page.index(f"train --model {command}`") :].split("\n\n")[1]
    found = re.findall(r"^\| ([^|]+) \| ([\d.]+) \(", table, re.MULTILINE)
    return {name: float(ratio) for name, ratio in found}


def percentages(page, command):
    """Return the step time of each candidate, in percent of that without stochastic depth."""
    return {name: round(100 * ratio) for name, ratio in ratios(page, command).items()}


def draw(page, path):
    """Draw a group of bars for each network; a bar is a way of stochastic depth."""
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    height = 0.8 / len(BARS)
    for group, command in enumerate(TABLES):
        measured = percentages(page, command)
        for number, (candidate, (label, colour)) in enumerate(BARS.items()):
            place = group + number * height
            shown = label if group == 0 else None
            bar = axes.barh(place, measured[candidate], 0.9 * height, color=colour, label=shown)
            axes.bar_label(bar, [f"{measured[candidate]} %"], padding=3)
    axes.set_yticks([group + 0.4 - height / 2 for group in range(len(TABLES))], list(TABLES.values()))
    axes.axvline(100, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, 115), xlabel="time of a training step (without stochastic depth: 100 %)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main():
    # Text stays text, and nothing depends on the day: a second run writes the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "step_time", "font.size": 10})
    draw(PAGE.read_text(encoding="utf-8"), PICTURE)
    print(PICTURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
