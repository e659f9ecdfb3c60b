"""Random gates: which residual branches, or which rows of a batch, survive a training step.

Every draw comes from PyTorch's default CPU generator. ``torch.manual_seed`` reproduces it on any device,
``torch.get_rng_state`` resumes it, activation checkpointing replays it, and no device is ever synchronised.
"""

import weakref
from math import gcd
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

MODES = ("batch", "row", "subset")
RESCALES = ("eval", "train", "none")

Rows = tuple[slice, ...] | Tensor
"""Surviving rows in ascending order: at most two runs of neighbours, or a 1-d tensor of indices on the CPU."""


def draw_batch(survival_prob: float, sync: bool = False) -> bool:
    """Draw one Bernoulli gate for a whole batch: True where the branch survives.

    Args:
        survival_prob: chance in ``[0, 1]`` that the branch is kept.
        sync: give every rank of the default process group the gate of rank 0.
    """
    return torch.rand((), dtype=torch.float64, device="cpu", generator=_generator(sync)).item() < survival_prob


def draw_rows(mode: str, survival_prob: float, batch: int, sync: bool = False) -> Rows:
    """Draw the rows of a batch whose branch survives.

    ``"row"`` draws an independent Bernoulli gate for each row. ``"subset"`` draws a window of neighbouring rows,
    wrapping around the end of the batch: its size is ``survival_prob * batch`` rounded up or down at random with
    that mean, to a whole number, or from 64 rows on to a multiple of 8 (or the whole batch); its start is uniform over
    the multiples of the greatest common divisor of size and batch, so that few windows fall into two runs. Each row
    then survives with probability exactly ``survival_prob``, and neighbours move together, which a shuffled batch
    cannot tell from any other subset.

    Args:
        mode: ``"row"`` or ``"subset"``.
        survival_prob: chance in ``[0, 1]`` that a row keeps its branch.
        batch: number of rows.
        sync: give every rank of the default process group the gates of rank 0.
    """
    generator = _generator(sync)
    if mode == "row":
        gates = torch.rand(batch, dtype=torch.float64, device="cpu", generator=generator) < survival_prob
        return gates.nonzero().squeeze(1)
    rounding, position = torch.rand(2, dtype=torch.float64, device="cpu", generator=generator).tolist()
    return _window(position, _subset_size(survival_prob * batch, batch, rounding), batch)


def count_rows(rows: Rows) -> int:
    """Return how many rows survive."""
    if isinstance(rows, Tensor):
        return len(rows)
    return sum(run.stop - run.start for run in rows)


def dropped_runs(rows: tuple[slice, ...], batch: int) -> tuple[slice, ...]:
    """Return the runs of rows that do not survive."""
    dropped = []
    end = 0
    for run in (*rows, slice(batch, batch)):
        if end < run.start:
            dropped.append(slice(end, run.start))
        end = run.stop
    return tuple(dropped)


def _subset_size(mean: float, batch: int, rounding: float) -> int:
    # Few sizes in all blocks together: memory is reused, and kernels are prepared or tuned (cuDNN) for each size once.
    step = 8 if batch >= 64 else 1
    low = int(mean) // step * step
    high = min(low + step, batch)
    return high if rounding * (high - low) < mean - low else low


def _window(position: float, size: int, batch: int) -> tuple[slice, ...]:
    if size == 0:
        return ()
    # Starts this far apart cover each row equally often and wrap around least often.
    step = gcd(size, batch)
    start = int(position * (batch // step)) * step
    stop = start + size
    if stop <= batch:
        return (slice(start, stop),)
    return (slice(0, stop - batch), slice(start, batch))


def _generator(sync: bool) -> torch.Generator | None:
    """The default CPU generator (None), or one that all ranks seed with the number that rank 0 draws."""
    if not (sync and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None
    seed = torch.randint(2**63 - 1, (1,), device="cpu")  # drawn on every rank: the ranks use up their streams alike
    dist.broadcast(seed, src=0, group=_cpu_group())
    return torch.Generator(device="cpu").manual_seed(int(seed))


_cpu_groups: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _cpu_group() -> Any:
    """A group of all ranks that carries CPU tensors: the default one, or a gloo twin beside pure NCCL."""
    world = dist.group.WORLD
    if world not in _cpu_groups:
        carries_cpu = "cpu" in dist.get_backend_config(world)
        _cpu_groups[world] = None if carries_cpu else dist.new_group(backend="gloo")
    return _cpu_groups[world]
