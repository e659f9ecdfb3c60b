#!/usr/bin/env python3
"""Time and memory of torchvision's and timm's models with gates in the place of their masks, in one process.

    python scripts/benchmark_libraries.py --json libraries.json

For each model and drop rate, four models are trained in turn on the same images: the library's without drop path, the
library's with masks, and the converted one with a gate a batch and with a gate a row. Each number is a ratio to the
first.

masks, batch, row     processor time of a training step, forward and backward on one thread: a ratio of medians
share                 executed share of the FLOPs, by the gates that the steps of `row` drew, median
batch / share         time over the share that the gates of the same step left, median; row / share: the same
saved                 bytes that a forward pass saves for the backward pass

At rate 0 every model is without stochastic depth: the ratios show the noise, and the command stops unless outputs and
gradients of the converted model equal the library's bit by bit.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

import torch
import torchvision
from benchmarking.checks import Row, rows_to_table
from benchmarking.libraries import Share, build, converted, is_bit_equal, training_step
from benchmarking.measure import interleave, saved_bytes
from torch import Tensor, nn

MODELS = (
    "timm/vit_small_patch16_224",
    "torchvision/swin_t",
    "torchvision/convnext_tiny",
    "torchvision/efficientnet_b0",
)
RATES = (0.0, 0.05, 0.1, 0.2, 0.4)
WARM_UP = 1  # steps of each model before those that count
PASSES = 3  # whose saved bytes are averaged where gates differ from pass to pass


def measure(name: str, rate: float, x: Tensor, repeats: int) -> Row:
    """Return a row of the table."""
    models = {
        "without": build(name, 0.0),
        "masks": build(name, rate),
        "batch": converted(name, rate, "batch"),
        "row": converted(name, rate, "row"),
    }
    if rate == 0.0 and not is_bit_equal(models["without"], models["row"], x[:2]):
        raise SystemExit(f"{name}: at rate 0 the converted model does not equal the library's bit by bit")
    times, shares = time_steps(models, x, repeats)
    saved = {}
    for kind, model in models.items():
        saved[kind] = mean_saved_bytes(model, x, PASSES if kind in ("batch", "row") else 1)
    return row_of(name, rate, times, shares, saved)


def time_steps(
    models: dict[str, nn.Module], x: Tensor, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return processor times, and executed shares of the FLOPs, of every step that counts."""
    steps = {kind: training_step(model, x) for kind, model in models.items()}
    share_of = {kind: Share(model, x) for kind, model in models.items()}
    shares: dict[str, list[float]] = {kind: [] for kind in models}
    interleave(steps, range(-WARM_UP, 0), "processor")
    times = interleave(steps, range(repeats), "processor", after=lambda kind: shares[kind].append(share_of[kind]()))
    return times, shares


def mean_saved_bytes(model: nn.Module, x: Tensor, passes: int) -> float:
    """Mean over passes with different gates."""
    counts = []
    for seed in range(passes):
        torch.manual_seed(seed)
        counts.append(saved_bytes(model, x)[0])
    return fmean(counts)


def row_of(
    name: str,
    rate: float,
    times: dict[str, list[float]],
    shares: dict[str, list[float]],
    saved: dict[str, float],
) -> Row:
    """Return the ratios of one model at one rate to the model without drop path."""
    base = median(times["without"])
    row: Row = {"model": name, "rate": f"{rate:g}"}
    row["masks"] = median(times["masks"]) / base
    for kind in ("batch", "row"):
        row[kind] = median(times[kind]) / base
        if kind == "row":
            row["share"] = median(shares[kind])
        over_share = [step / share for step, share in zip(times[kind], shares[kind], strict=True)]
        row[f"{kind} / share"] = median(over_share) / base
    for kind in ("masks", "batch", "row"):
        row[f"saved, {kind}"] = saved[kind] / saved["without"]
    return row


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", default=MODELS, metavar="model", help=f"library/name (default: {', '.join(MODELS)})"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="drop rates of the last block")
    parser.add_argument("--batch-size", type=int, default=16, help="images a step, at least 2 (default: %(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each model that count (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings and results to FILE")
    args = parser.parse_args(argv)
    if args.batch_size < 2 or args.repeats < 1 or args.image_size < 1:
        parser.error("--batch-size must be at least 2, --repeats and --image-size at least 1")
    for rate in args.rates:
        if not 0.0 <= rate < 1.0:
            parser.error(f"--rates must be in [0, 1), got {rate}")
    for name in args.models:
        if name.partition("/")[0] not in ("torchvision", "timm"):
            parser.error(f"models are named torchvision/NAME or timm/NAME, got {name!r}")
    return args


def environment() -> str:
    """Return what the figures depend on."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"CPU, {torch.get_num_threads()} thread, {torch.backends.cpu.get_cpu_capability()}; {versions}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    args = parse(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(args.batch_size, 3, args.image_size, args.image_size)
    print(environment(), flush=True)
    rows: list[Row] = []
    for name in args.models:
        for rate in args.rates:
            rows.append(measure(name, rate, x, args.repeats))
            print(rows_to_table(rows[-1:]).splitlines()[-1], flush=True)
            if args.json:
                settings = {"batch_size": args.batch_size, "image_size": args.image_size, "repeats": args.repeats}
                report = {"machine": environment(), "settings": settings, "results": rows}
                args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\nbatch {args.batch_size}, {args.image_size}x{args.image_size}, {args.repeats} repeats\n")
    print(rows_to_table(rows))


if __name__ == "__main__":
    main()
