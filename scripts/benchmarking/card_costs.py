"""What a training step costs: beside masks, and compiled at constant depth."""

import gc
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy

import stodepth_models as sdm
from stodepth_models.layers.draw import MODES

from .checks import Finding, Row
from .measure import interleave, peak_of
from .networks import Network

WARM_UP = 2  # steps of each model before those that count
PEAK_STEPS = 3  # each with other gates

Step = Callable[[], None]


def cost_beside_masks(network: Network, device: str, repeats: int) -> Finding:
    """Compare time and peak memory of a training step: constant depth, a library's masks, and gates of each mode.

    On CUDA the check fails where a mode takes longer than the masks, or holds more memory.
    """
    candidates = {"constant depth": network.constant(), f"{network.library}'s masks": network.masked()}
    for mode in MODES:
        candidates[f"ours, {mode}"] = network.gated(mode)
    steps = {name: training_step(model, network, device) for name, model in candidates.items()}
    interleave(steps, range(-WARM_UP, 0), device)
    times = interleave(steps, range(repeats), device)
    size = (1, 3, network.image_size, network.image_size)
    rows: list[Row] = []
    for name, model in candidates.items():
        row: Row = {"step": name, "ms": median(times[name]), "time": _ratio(times, name, "constant depth")}
        row["executed FLOPs"] = sdm.expected_flops(model, size).share
        row["peak MiB"] = _peak(model, steps[name], device)
        rows.append(row)
    release(device)
    return judge(rows, network, device)


def judge(rows: list[Row], network: Network, device: str) -> Finding:
    """Compare the rows of the modes with that of the masks, which is the second."""
    _, masks, *ours = rows
    saved = [f"{row['step']} {row['ms'] / masks['ms']:.2f}" for row in ours]
    reason = f"{network.describe()}; time of a step as a ratio to {masks['step']}: {', '.join(saved)}"
    if device == "cpu":
        return Finding(f"{reason}; so small a step on a CPU is not judged", rows=rows)
    missed = []
    for row in ours:
        if row["ms"] > masks["ms"]:
            missed.append(f"{row['step']} takes longer than {masks['step']}")
        if row["peak MiB"] > masks["peak MiB"]:
            missed.append(f"{row['step']} holds more memory than {masks['step']}")
    if missed:
        return Finding("; ".join([reason, *missed]), passed=False, rows=rows)
    return Finding(reason, rows=rows)


def constant_depth_compiled(network: Network, device: str, repeats: int) -> Finding:
    """Compare a step of the model at constant depth, compiled as one graph, with the same in eager mode.

    On a CPU the graph is traced and not translated, which would take minutes.
    """
    torch._dynamo.reset()
    counters.clear()
    model = network.constant()
    backend = "eager" if device == "cpu" else "inductor"
    compiled: nn.Module = torch.compile(model, fullgraph=True, backend=backend)  # type: ignore[assignment]
    steps = {
        "constant depth": training_step(model, network, device),
        "constant depth, compiled": training_step(compiled, network, device),
    }
    interleave(steps, range(-WARM_UP, 0), device)
    times = interleave(steps, range(repeats), device)
    graphs = counters["stats"]["unique_graphs"]
    rows: list[Row] = []
    for name, step in steps.items():
        row: Row = {"step": name, "ms": median(times[name]), "time": _ratio(times, name, "constant depth")}
        row["peak MiB"] = _peak(model, step, device)
        rows.append(row)
    torch._dynamo.reset()
    release(device)
    reason = f"{network.describe()}; graphs: {graphs}, of which there must be 1"
    if device == "cpu":
        reason += "; traced on a CPU, not translated"
    else:
        reason += f"; a compiled step takes {rows[1]['time']:.2f} times the step in eager mode"
    return Finding(reason, passed=graphs == 1, rows=rows)


def training_step(model: nn.Module, network: Network, device: str) -> Step:
    """Return a function that runs a forward and a backward pass."""
    model.to(device, memory_format=network.memory_format).train()
    x = network.images(device)
    labels = torch.zeros(len(x), dtype=torch.long, device=device)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with network.precision(device):
            loss = cross_entropy(model(x), labels)
        loss.backward()

    return step


def release(device: str) -> None:
    """Give back the memory of models that nobody holds any more."""
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def _ratio(times: dict[str, list[float]], name: str, base: str) -> float:
    return median(times[name]) / median(times[base])


def _peak(model: nn.Module, step: Step, device: str) -> float | None:
    """Most MiB that one of some steps holds beside the weights; None on a CPU, where a process has one such peak."""
    if device == "cpu":
        return None
    peaks = []
    for seed in range(PEAK_STEPS):
        torch.manual_seed(seed)
        model.zero_grad(set_to_none=True)
        peaks.append(peak_of(step, device))
    return max(peaks)
