"""Which images each process takes in each step: a pure function of seed, epoch and step, so that any step can be
resumed and the number of processes does not change a global batch."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["EpochOrder", "Step", "seeded"]


def seeded(*numbers: int) -> torch.Generator:
    """Return a generator whose stream depends on a few numbers alone, each from 0 on.

    Tuples of up to three numbers below 2**20 have a stream each. Larger ones, such as a large seed or an image beyond
    the first million, may share that of another tuple: then two images, of different epochs, are cropped alike.
    """
    key = 0
    for number in numbers:
        key = (key * 1_048_583 + number + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(key)


class Step(NamedTuple):
    """One optimizer step.

    Attributes:
        micro_batches: indices of this process's images, one tensor a micro-batch.
        size: images over all processes and micro-batches.
    """

    micro_batches: list[Tensor]
    size: int


class EpochOrder:
    """Shuffled global batches, cut evenly among processes and micro-batches.

    The last batch of an epoch may be smaller; it is left out where a micro-batch would be smaller than two images.

    Args:
        length: number of images.
        batch_size: images a global batch.
        seed: of the run.
        rank: of this process.
        world: number of processes.
        accumulate: micro-batches a step.

    Raises:
        ValueError: a batch has fewer than two images for each process and micro-batch.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, accumulate: int = 1):
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.parts, self.rank, self.accumulate = world * accumulate, rank, accumulate
        if min(length, batch_size) < 2 * self.parts:
            raise ValueError(
                f"batch_size={batch_size} of {length} training images is too few for {world} process(es) with "
                f"optim.accumulate={accumulate}: each micro-batch needs two images"
            )
        last = length % batch_size
        self.steps = length // batch_size + (last >= 2 * self.parts)

    def permutation(self, epoch: int) -> Tensor:
        """Return the images of an epoch in their order."""
        return torch.randperm(self.length, generator=seeded(self.seed, epoch))

    def step(self, permutation: Tensor, step: int) -> Step:
        """Return this process's share of a step; ``step`` counts from 0 within the epoch."""
        batch = permutation[step * self.batch_size : (step + 1) * self.batch_size]
        parts = batch.tensor_split(self.parts)
        return Step(list(parts[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]), len(batch))
