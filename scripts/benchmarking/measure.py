"""Measuring and tabulating for ``benchmark.py``: knows PyTorch, and nothing of stochastic depth."""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

Step = Callable[[], None]


def spread(values: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


def compare(name: str, values: Sequence[float], baseline: Sequence[float], limits: Sequence[float]) -> dict[str, Any]:
    """One row of a table: ratios to the baseline of the same repeat, and these over the limits of the same repeat."""
    ratios = [value / base for value, base in zip(values, baseline, strict=True)]
    return {
        "candidate": name,
        "ratio": spread(ratios),
        "limit": statistics.median(limits),
        "ratio_to_limit": spread([ratio / limit for ratio, limit in zip(ratios, limits, strict=True)]),
        "median": statistics.median(values),
    }


def markdown(rows: Sequence[dict[str, Any]], unit: str, extra: Sequence[str] = ()) -> str:
    """A Markdown table of rows that :func:`compare` made; ``extra`` names further entries of the rows."""
    table = [["candidate", "ratio (quartiles)", "limit", "ratio / limit (quartiles)", unit, *extra]]
    table.append(["---"] * len(table[0]))
    for row in rows:
        limit = ["-", "-"] if row["limit"] is None else [f"{row['limit']:.3f}", _quartiles(row["ratio_to_limit"])]
        numbers = [_quartiles(row["ratio"]), *limit]
        table.append([row["candidate"], *numbers, f"{row['median']:.1f}", *(str(row[key]) for key in extra)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _quartiles(values: Sequence[float]) -> str:
    return "{1:.3f} ({0:.3f}-{2:.3f})".format(*values)


def interleave(
    steps: dict[str, Step], repeats: Iterable[int], device: str, after: Callable[[str], None] | None = None
) -> dict[str, list[float]]:
    """Milliseconds of every step in every repeat: all steps in turn, each repeat begins with another one.

    The number of the repeat seeds the gates, so that every step draws from the same stream.

    Args:
        steps: what is timed, by name.
        repeats: numbers of the repeats.
        device: ``"cpu"``: time on the clock; ``"cuda"``: between two events; ``"processor"``: processor time of this
            process, which other processes disturb least.
        after: called with the name of each step that has run.
    """
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for repeat in repeats:
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            torch.manual_seed(repeat)
            times[name].append(_milliseconds(steps[name], device))
            if after is not None:
                after(name)
    return times


CLOCKS = {"cpu": time.perf_counter, "processor": time.process_time}


def _milliseconds(step: Step, device: str) -> float:
    if device in CLOCKS:
        clock = CLOCKS[device]
        started = clock()
        step()
        return 1000 * (clock() - started)
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def peak_of(step: Callable[[], None], device: str) -> float:
    """Most MiB that a step holds beyond what the process holds before it; a process's first step, on a CPU."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _resident("VmRSS")
    step()
    return _resident("VmHWM") - before


def in_own_process(function: Callable[..., float], *arguments: Any) -> float:
    """Call a function in a new process, in which tensors of 1 MiB and more leave the resident memory once freed.

    By default glibc keeps them in its heap, whose holes can be several times what a step holds.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)  # read when a process starts: nothing changes in this one
    with get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def _resident(field: str) -> float:
    """MiB of resident memory, now (VmRSS) or at most (VmHWM), as Linux reports it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def saved_bytes(model: nn.Module, x: Tensor, parts: Sequence[nn.Module] = ()) -> tuple[int, list[int]]:
    """Bytes that a forward pass saves for the backward pass: in all, and while each of ``parts`` runs.

    Each storage counts once, and whole. Parameters and buffers exist anyway and do not count.
    """
    exempt = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    saved: dict[int, int] = {}  # address and size: a tensor kept here would keep the graph alive
    inside = [0] * len(parts)

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in exempt:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # a node that holds its own output would never be freed

    def mark(part: int, sign: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            inside[part] += sign * sum(saved.values())

        return hook

    handles = [part.register_forward_pre_hook(mark(index, -1)) for index, part in enumerate(parts)]
    handles += [part.register_forward_hook(mark(index, 1)) for index, part in enumerate(parts)]
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x)
    del out  # frees the graph before anyone counts again
    for handle in handles:
        handle.remove()
    return sum(saved.values()), inside
