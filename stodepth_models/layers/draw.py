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

# From this batch size on, the size of a subset is a multiple of the second number. A step then has few sizes in all of
# its blocks together: memory is reused, and cuDNN prepares and tunes its kernels once for each size.
LARGE_BATCH = 64
SIZE_STEP = 8


def draw_batch(survival_prob: float, sync: bool = False) -> bool:
    """Draw one Bernoulli gate for a whole batch: True where the branch survives.

    Args:
        survival_prob: chance in ``[0, 1]`` that the branch is kept.
        sync: give every rank of the default process group the gate of rank 0.
    """
    return _uniform((), sync).item() < survival_prob


def draw_rows(mode: str, survival_prob: float, batch: int, sync: bool = False) -> Rows:
    """Draw the rows of a batch whose branch survives.

    ``"row"`` draws an independent Bernoulli gate for each row. ``"subset"`` draws a window of neighbouring rows,
    wrapping around the end of the batch: its size is ``survival_prob * batch`` rounded up or down at random with
    that mean, to a whole number, or from 64 rows on to a multiple of 8 (or the whole batch); its start is uniform over
    the multiples of the greatest common divisor of size and batch, so that few windows fall into two runs. Each row
    then survives with probability exactly ``survival_prob``. Neighbours survive together, which makes no difference
    where the batch is shuffled.

    Args:
        mode: ``"row"`` or ``"subset"``.
        survival_prob: chance in ``[0, 1]`` that a row keeps its branch.
        batch: number of rows.
        sync: give every rank of the default process group the gates of rank 0.
    """
    if mode == "row":
        gates = _uniform((batch,), sync) < survival_prob
        return gates.nonzero().squeeze(1)
    rounding, position = _uniform((2,), sync).tolist()
    size = _subset_size(survival_prob * batch, batch, rounding)
    return _window(position, size, batch)


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


def has_other_ranks() -> bool:
    """Return whether this process is one of several ranks, which draw gates of their own."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    return dist.get_world_size() > 1


def _uniform(shape: tuple[int, ...], sync: bool) -> Tensor:
    """Uniform numbers in ``[0, 1)``, in float64: float32 would round survival probabilities near 0 and 1."""
    generator = None  # the default CPU generator
    if sync and has_other_ranks():
        generator = _generator_of_rank_0()
    return torch.rand(shape, dtype=torch.float64, device="cpu", generator=generator)


def _subset_size(mean: float, batch: int, rounding: float) -> int:
    """Round ``mean`` up or down, by a uniform number, so that the sizes have this mean."""
    step = 1
    if batch >= LARGE_BATCH:
        step = SIZE_STEP
    low = int(mean) // step * step
    high = min(low + step, batch)
    if rounding * (high - low) < mean - low:
        return high
    return low


def _window(position: float, size: int, batch: int) -> tuple[slice, ...]:
    """Place a window of ``size`` rows by a uniform number, and cut it in two where it wraps around."""
    if size == 0:
        return ()
    # Starts this far apart cover each row equally often and wrap around least often.
    step = gcd(size, batch)
    start = int(position * (batch // step)) * step
    stop = start + size
    if stop <= batch:
        return (slice(start, stop),)
    return (slice(0, stop - batch), slice(start, batch))


def _generator_of_rank_0() -> torch.Generator:
    """A generator that all ranks seed with the number that rank 0 draws."""
    # Every rank draws a seed, also those that do not use it: the default generators of the ranks advance alike.
    seed = torch.randint(2**63 - 1, (1,), device="cpu")
    dist.broadcast(seed, src=0, group=_cpu_group())
    return torch.Generator(device="cpu").manual_seed(int(seed))


_cpu_groups: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _cpu_group() -> Any:
    """A group of all ranks that carries CPU tensors: the default one, or a second one of gloo beside pure NCCL."""
    world = dist.group.WORLD
    if world not in _cpu_groups:
        group = None  # the default group
        if "cpu" not in dist.get_backend_config(world):
            group = dist.new_group(backend="gloo")
        _cpu_groups[world] = group
    return _cpu_groups[world]
