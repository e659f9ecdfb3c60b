#!/usr/bin/env python3
"""Time and memory of stochastic depth beside plain torchvision and the peers' masks, in one process.

    python scripts/benchmark.py train memory eval --model resnet50 --batch-size 16 --image-size 128

train    a forward and backward pass; the optimizer, which leaves dropped branches alone too, is not measured
memory   MiB that a forward pass saves for the backward pass; each repeat draws other gates
eval     a forward pass in evaluation, before and after fold_rescale
compile  train under torch.compile, each model as a ratio to itself in eager mode
peak     most MiB that a training step holds beyond the model and its input, with and without checkpoint_stages, each in
         a process of its own: on a CPU the growth of the resident memory, on CUDA what PyTorch allocates

All models are stepped in rotating order within each repeat, on the same images, after a warm-up, and each is compared
with the baseline of the same repeat: torchvision's model, or in the CIFAR family ours at survival probability 1. Tables
show medians and quartiles over the repeats. The limit is what the gates that were really drawn leave: in time the
executed share of the FLOPs, taking the backward pass as proportional to the forward pass; in memory all bytes but those
of the rows that a branch leaves out. Masks leave nothing out; their limit is that of the mean gates. "blocks taken out"
is a network without gates from which the blocks are missing that the gates of a batch drop; in "blocks apart", each
block runs by itself on as many rows as `ours, row` leaves it: what no gate can beat.
"""

import argparse
import json
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torchvision
from benchmarking.limits import executed_share, unavoidable_share
from benchmarking.measure import compare, in_own_process, interleave, markdown, peak_of, saved_bytes
from benchmarking.models import FORMATS, baselines, blocks_apart, candidates, images, ours, precision
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

import stodepth_models as sdm
from stodepth_models.layers.draw import MODES
from stodepth_models.zoo import SUFFIX, full_name

WARM_UP, COMPILE_WARM_UP = 3, 12  # steps of each model before those that count

Row = dict[str, Any]


def run_train(args: argparse.Namespace) -> list[Row]:
    models = candidates(args) | {"blocks apart": blocks_apart(args)}
    times = measure({name: training_step(model, args) for name, (model, _) in models.items()}, args)
    limit = executed_share(args)
    limits = {name: [limit(gates) for gates in drawn[-args.repeats :]] for name, (_, drawn) in models.items()}
    return rows(times, limits)


def run_memory(args: argparse.Namespace) -> list[Row]:
    models = candidates(args)
    saved = {
        name: saved_mebibytes(model, args, 1 if drawn else args.repeats) for name, (model, drawn) in models.items()
    }
    limit = unavoidable_share(args)
    limits = {name: [limit(gates) for gates in drawn] for name, (_, drawn) in models.items()}
    table = rows({name: values * (args.repeats // len(values)) for name, values in saved.items()}, limits)
    return [row | {"mean": f"{fmean(saved[row['candidate']]) / table[0]['median']:.3f}"} for row in table]


def saved_mebibytes(model: nn.Module, args: argparse.Namespace, repeats: int) -> list[float]:
    """Once is enough for a model that saves the same in every pass."""
    x, counts = images(args), []
    for repeat in range(repeats):
        torch.manual_seed(repeat)
        with precision(args):
            counts.append(saved_bytes(model, x)[0] / 2**20)
    return counts


def run_eval(args: argparse.Namespace) -> list[Row]:
    scaled, folded = ours(args, args.p_last), ours(args, args.p_last)
    sdm.fold_rescale(folded)
    models = baselines(args) | {"ours, scaled": scaled, "ours, fold_rescale": folded}
    return rows(measure({name: evaluation_step(model, args) for name, model in models.items()}, args))


def run_peak(args: argparse.Namespace) -> list[Row]:
    settings = {"survival 1": (1.0, "batch")} | {mode: (args.p_last, mode) for mode in args.modes}
    peaks = {}
    for name, (p_last, mode) in settings.items():
        for checkpoint, suffix in ((False, ""), (True, ", checkpoint_stages")):
            peaks[f"ours, {name}{suffix}"] = [in_own_process(peak_mebibytes, args, p_last, mode, checkpoint)]
    return [row | {"limit": None, "ratio_to_limit": None} for row in rows(peaks)]


def peak_mebibytes(args: argparse.Namespace, p_last: float, mode: str, checkpoint: bool) -> float:
    step = training_step(ours(args, p_last, mode, checkpoint), args)
    torch.manual_seed(0)
    return peak_of(step, args.device)


def run_compile(args: argparse.Namespace) -> list[Row]:
    models = baselines(args) | {f"ours, {mode}": ours(args, args.p_last, mode) for mode in args.modes}
    return [compile_row(name, model, args) for name, model in models.items()]


def compile_row(name: str, model: nn.Module, args: argparse.Namespace) -> Row:
    torch._dynamo.reset()
    counters.clear()
    compiled: Any = torch.compile(model)
    steps = {"eager": training_step(model, args), "compiled": training_step(compiled, args)}
    with recompile_limit_hits() as hits:
        interleave(steps, range(-COMPILE_WARM_UP, 0), args.device)
        warm = counters["stats"]["unique_graphs"]
        times = interleave(steps, range(args.repeats), args.device)
    row = compare(name, times["compiled"], times["eager"], [1.0] * args.repeats)
    graphs = {"graphs, warm": warm, "graphs, end": counters["stats"]["unique_graphs"]}
    return row | graphs | {"recompile limit hits": len(hits)}


@contextmanager
def recompile_limit_hits() -> Iterator[list[str]]:
    """Collect the warnings with which the compiler gives a function up."""
    logger = logging.getLogger("torch._dynamo.convert_frame")
    hits: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if "hit config" in str(record.msg):
            hits.append(record.getMessage())
        return True

    logger.addFilter(keep)
    try:
        yield hits
    finally:
        logger.removeFilter(keep)


def training_step(model: nn.Module, args: argparse.Namespace) -> Callable[[], None]:
    x = images(args)
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with precision(args):
            loss = cross_entropy(model(x), labels)
        loss.backward()

    return step


def evaluation_step(model: nn.Module, args: argparse.Namespace) -> Callable[[], None]:
    x = images(args)
    model.eval()

    def step() -> None:
        with torch.inference_mode(), precision(args):
            model(x)

    return step


def measure(steps: dict[str, Callable[[], None]], args: argparse.Namespace) -> dict[str, list[float]]:
    interleave(steps, range(-WARM_UP, 0), args.device)
    return interleave(steps, range(args.repeats), args.device)


def rows(values: dict[str, list[float]], limits: dict[str, list[float]] | None = None) -> list[Row]:
    """Compare everything with the first; without limits with 1."""
    base = values[next(iter(values))]
    ones = [1.0] * len(base)
    return [compare(name, values[name], base, limits[name] if limits else ones) for name in values]


CASES: dict[str, tuple[Callable[[argparse.Namespace], list[Row]], str, tuple[str, ...]]] = {
    "train": (run_train, "ms", ()),
    "memory": (run_memory, "MiB", ("mean",)),
    "eval": (run_eval, "ms", ()),
    "peak": (run_peak, "MiB", ()),
    "compile": (run_compile, "ms", ("graphs, warm", "graphs, end", "recompile limit hits")),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES, metavar="case", help=", ".join(CASES))
    parser.add_argument(
        "--model", default="resnet50", help="builder, with or without its suffix (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images a step, at least 2 (default: %(default)s)")
    parser.add_argument("--image-size", type=int, help="pixels (default: 32 for cifar_*, else 128)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16 is autocast")
    parser.add_argument("--memory-format", choices=FORMATS, default="contiguous")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda takes times from CUDA events")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--p-last", type=float, default=0.5, help="survival of the last block (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each model that count (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings and results to FILE")
    args = parser.parse_args(argv)
    try:
        args.model = full_name(args.model).removesuffix(SUFFIX)
    except ValueError as error:
        parser.error(f"--model: {error}")
    if args.batch_size < 2 or args.repeats < 1 or (args.image_size is not None and args.image_size < 1):
        parser.error("--batch-size must be at least 2, --repeats and --image-size at least 1")
    if not 0.0 <= args.p_last <= 1.0:
        parser.error(f"--p-last must be a probability in [0, 1], got {args.p_last}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no GPU that PyTorch can use")
    if args.json is not None and not args.json.parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent}")
    args.image_size = args.image_size or (32 if args.model.startswith("cifar_") else 128)
    return args


def environment(args: argparse.Namespace) -> str:
    cpu = f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    device = torch.cuda.get_device_name() if args.device == "cuda" else cpu
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{device}; Python {platform.python_version()}, {versions}"


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    machine = environment(args)
    results = {}
    print(machine)
    for case in args.cases:
        run, unit, extra = CASES[case]
        results[case] = run(args)
        size = f"batch {args.batch_size}, {args.image_size}x{args.image_size}"
        print(f"\n{case}: {args.model}, {size}, {args.dtype}, {args.memory_format}, p_L = {args.p_last:g}\n")
        print(markdown(results[case], unit, extra))
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        report = {"settings": settings, "machine": machine, "results": results}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
