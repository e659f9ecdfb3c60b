#!/usr/bin/env python3
"""Measure how accurate trained networks stay when blocks are left out, without training them again.

    python scripts/depth_on_demand.py --data cifar10-jpeg.tar.xz --model cifar_resnet56 \\
        "constant depth=runs/constant" "p = 0.7=runs/uniform" -o figures.json --picture frontier.svg

Prints, for each network and share of the FLOPs, the accuracy on the test images after ``prune_depth``. Blocks are
chosen, and batch norms estimated, on training images that are augmented as in training. Networks that the file of the
figures knows are not measured again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torchvision.models import get_model

import stodepth_models as sdm
from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.batches import EvaluationBatches, augmented_images
from stodepth_models.training.data.datasets import Data, load_data
from stodepth_models.training.exits import run_script
from stodepth_models.training.predictions import accuracy_interval
from stodepth_models.training.report.tables import fill_in
from stodepth_models.training.run.machine import make_accelerator
from stodepth_models.training.run.metrics import evaluate

_BATCH = 250
# Okabe and Ito, "Color Universal Design" (2008).
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKERS = "os^Dv"
_COLUMNS = ("Network", "FLOPs", "Time", "Blocks left out", "Top-1", "95 % interval", "NLL")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NAME=WEIGHTS", help="title and weights of a network")
    parser.add_argument(
        "--data", type=Path, help="folder or archive of the images; none given: nothing new is measured"
    )
    parser.add_argument("--model", default="cifar_resnet56", help="builder of the networks, without its suffix")
    parser.add_argument("--shares", nargs="+", type=float, default=(0.9, 0.8, 0.7, 0.6, 0.5), help="of the FLOPs")
    parser.add_argument("--images", type=int, default=500, help="training images that choose")
    parser.add_argument("--times", action="store_true", help="measure times, on a machine that does nothing else")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file of the figures")
    parser.add_argument("--page", type=Path, help="Markdown page whose markers <!-- depth --> get the table")
    parser.add_argument("--picture", type=Path, help="SVG file of the accuracy over the FLOPs")
    return parser.parse_args()


def frontier(model: nn.Module, data: Data, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of the whole network, and of one for each share of its FLOPs."""
    images = list(augmented_images(data, options.images, seed=0))
    shares = sorted(options.shares, reverse=True)
    order = sdm.prune_depth(model, shares[-1], images).pruned_depth.left_out
    found = []
    for share in (1.0, *shares):
        kept = _kept(model, order, share, (1, *images[0].shape[1:]))
        found.append(measure(sdm.prune_depth(model, kept, images), data))
    return found


def _kept(model: nn.Module, order: Sequence[str], share: float, input_size: Sequence[int]) -> list[int]:
    """Return the positions of the blocks that stay where the first of an order leave, until the share is reached."""
    for count in range(len(order) + 1):
        kept = _positions(model, order[:count])
        if sdm.prune_depth(model, kept, input_size=input_size).pruned_depth.flops_share <= share:
            return kept
    raise AssertionError("the whole order reaches the lowest share")


def _positions(model: nn.Module, left_out: Sequence[str]) -> list[int]:
    """Return the positions of the blocks beside the named ones."""
    names = [name for name, module in model.named_modules() if isinstance(module, sdm.StoDepthBasicBlock)]
    return [position for position, name in enumerate(names) if name not in left_out]


def measure(pruned: nn.Module, data: Data) -> dict[str, Any]:
    """Return the figures of a network on the test images."""
    assert data.test is not None  # `load_data` was asked for all splits
    accelerator = make_accelerator(cpu=True, precision="no")
    figures = evaluate(pruned, EvaluationBatches(data, data.test, _BATCH, accelerator.device), accelerator)
    depth = pruned.pruned_depth
    return {
        "flops_share": depth.flops_share,
        "left_out": list(depth.left_out),
        "top1": figures.top1,
        "top1_interval": accuracy_interval(round(figures.top1 * figures.count), figures.count),
        "nll": figures.nll,
    }


def measure_times(results: dict[str, list[dict[str, Any]]], builder: str) -> None:
    """Add to the figures the time of an evaluation pass, which no weights change, as a share of the whole network's."""
    model = get_model(builder).eval().to(memory_format=torch.channels_last)
    for points in results.values():
        for found in points:
            kept = _positions(model, found["left_out"])
            pruned = [sdm.prune_depth(model, kept, input_size=(_BATCH, 3, 32, 32)) for _ in range(3)]
            found["time_share"] = round(median(network.pruned_depth.time_share for network in pruned), 3)


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the Markdown table of all networks."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"| --- |{' ---: |' * (len(_COLUMNS) - 1)}"]
    for name, points in results.items():
        for found in points:
            low, high = found["top1_interval"]
            seconds = f"{found['time_share']:.2f}" if "time_share" in found else "-"
            cells = [name, f"{found['flops_share']:.2f}", seconds, str(len(found["left_out"]))]
            cells += [f"{found['top1']:.2%}", f"{low:.2%} to {high:.2%}", f"{found['nll']:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the accuracy of each network over the FLOPs that are left."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(results.items()):
        flops = [100 * point["flops_share"] for point in points]
        accuracy = [100 * point["top1"] for point in points]
        axes.plot(flops, accuracy, label=name, color=_COLOURS[number], marker=_MARKERS[number])
    axes.invert_xaxis()
    axes.set_xlabel("FLOPs of a pass (% of the whole network)")
    axes.set_ylabel("Test accuracy (%)")
    axes.set_title("Blocks left out after training, without training again")
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Parse, measure, print a Markdown table, draw."""
    options = parse_arguments()
    results: dict[str, list[dict[str, Any]]] = {}
    if options.output.exists():
        results = json.loads(options.output.read_text(encoding="utf-8"))
    builder = f"{options.model}_stodepth_lineardecay"
    if options.data is not None:
        data = load_data(DataConfig(name="folder", root=options.data))
        for network in options.networks:
            name, _, weights = network.rpartition("=")
            if name not in results:
                model = get_model(builder, weights=weights, prob_0_L=(1.0, 1.0), rescale="none").eval()
                model = model.to(memory_format=torch.channels_last)  # as in training: faster on a CPU
                results[name] = frontier(model, data, options)
                options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.times:
        measure_times(results, builder)
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    made = table(results)
    print(made, end="")
    if options.page is not None:
        page = fill_in(options.page.read_text(encoding="utf-8"), "depth", made)
        options.page.write_text(page, encoding="utf-8")
    if options.picture is not None:
        draw(results, options.picture)


if __name__ == "__main__":
    run_script(main)
