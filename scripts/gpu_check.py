#!/usr/bin/env python3
"""Everything of this package that only a GPU can show, in one command of at most eight minutes.

    python scripts/gpu_check.py --output gpu_check

Checks that gates never make the CPU wait for the card; that gates, outputs and gradients are those of a CPU; what a
training step of ResNet-50, ResNet-110 and ViT-S costs beside masks; the same at constant depth under torch.compile;
DistributedDataParallel over NCCL with one rank; float16 with GradScaler. Writes gpu_check.json and gpu_check.md. The
exit status is 1 where a check failed; the other checks run nevertheless. It needs torch, torchvision and this package,
and compares with timm's masks where timm is installed.

Without a GPU, or with --device cpu, it runs what a CPU can run, on small networks: that shows that the command works,
and nothing of a card.
"""

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
import torchvision
from benchmarking.card_checks import float16, no_synchronisation, one_rank, same_as_on_a_cpu
from benchmarking.card_costs import constant_depth_compiled, cost_beside_masks
from benchmarking.checks import Finding, run_checks, to_page
from benchmarking.networks import networks_for_a_card, networks_for_a_cpu, timm

import stodepth_models as sdm

LIMIT_S = 470.0  # of the eight minutes, some are needed to start and to write
REPEATS_CARD, REPEATS_CPU = 12, 1
ON_A_CPU = (
    "This is a run on a CPU: the networks are small, the checks that need CUDA were not run, and no figure says "
    "anything about a card."
)


def checks_for(device: str, divide_batch: int) -> dict[str, Callable[[], Finding]]:
    """Return the checks in the order in which they run: what takes longest comes last."""
    networks, repeats = networks_for_a_cpu(), REPEATS_CPU
    if device == "cuda":
        networks, repeats = networks_for_a_card(divide_batch), REPEATS_CARD
    checks: dict[str, Callable[[], Finding]] = {}
    for network in (networks[0], networks[-1]):
        checks[f"no synchronisation at gates, {network.name}"] = partial(no_synchronisation, network, device)
    checks["gates and gradients as on a CPU"] = partial(same_as_on_a_cpu, device)
    checks["one rank, DistributedDataParallel"] = partial(one_rank, device)
    checks["float16 with GradScaler"] = partial(float16, device)
    for network in networks:
        checks[f"cost beside masks, {network.name}"] = partial(cost_beside_masks, network, device, repeats)
    compiled = networks
    if device == "cpu":
        compiled = networks[-1:]  # each of the others takes ten seconds to trace
    for network in compiled:
        name = f"constant depth compiled, {network.name}"
        checks[name] = partial(constant_depth_compiled, network, device, repeats)
    return checks


def machine_of(device: str) -> dict[str, str]:
    """Return what the figures depend on."""
    names = {"device": f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        names["device"] = f"{torch.cuda.get_device_name()}, {memory:.0f} GiB"
        names["CUDA"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    names["Python"] = platform.python_version()
    names["torch"] = torch.__version__
    names["torchvision"] = torchvision.__version__
    names["timm"] = "not installed" if timm is None else timm.__version__
    names["stodepth_models"] = sdm.__version__
    names["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return names


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU, else cpu")
    parser.add_argument(
        "--divide-batch", type=int, default=1, metavar="N", help="divide the batches of the costs, for a smaller card"
    )
    args = parser.parse_args(argv)
    has_card = torch.cuda.is_available()
    if args.device == "cuda" and not has_card:
        parser.error("--device cuda: this machine has no GPU that PyTorch can use")
    if args.divide_batch < 1:
        parser.error(f"--divide-batch must be at least 1, got {args.divide_batch}")
    if args.device is None:
        args.device = "cuda" if has_card else "cpu"
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, write the report, and return the exit status."""
    args = parse(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    machine = machine_of(args.device)
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    outcomes = run_checks(checks_for(args.device, args.divide_batch), LIMIT_S)
    remarks = ["`python scripts/gpu_check.py --output DIR` wrote this page."]
    if args.device == "cpu":
        remarks.append(ON_A_CPU)
    report = {"machine": machine, "remarks": remarks, "checks": [asdict(outcome) for outcome in outcomes]}
    (args.output / "gpu_check.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    page = to_page("Checks on a GPU", machine, remarks, outcomes)
    (args.output / "gpu_check.md").write_text(page, encoding="utf-8")
    failed = [outcome.name for outcome in outcomes if outcome.result == "fail"]
    print(f"{args.output / 'gpu_check.md'}: {len(failed)} of {len(outcomes)} checks failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
