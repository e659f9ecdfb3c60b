"""Which images come in which step.

The order is a pure function of seed, epoch and step: any step can be resumed, and the number of processes does not
change a global batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .augmentation import seeded


class Step(NamedTuple):
    """One optimizer step.

    Attributes:
        micro_batches: indices of this process's images, one tensor a micro-batch.
        size: images over all processes and micro-batches.
    """

    micro_batches: list[Tensor]
    size: int


class SampleOrder:
    """Shuffled global batches, cut evenly among processes and micro-batches.

    The last batch of an epoch may be smaller; it is left out where a micro-batch would be smaller than two images.

    Args:
        length: number of images.
        batch_size: images a global batch.
        seed: of the run.
        rank: of this process.
        world: number of processes.
        accumulate: micro-batches a step.
        even: a micro-batch of an odd number of images leaves its last one out.
        weights: chance of each image to be drawn, up to a factor, ``(length,)``; an epoch then draws as many images,
            one after another, from all. None: each image comes once.

    Raises:
        ValueError: a batch has fewer than two images for each process and micro-batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        even: bool = False,
        weights: Tensor | None = None,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.accumulate = accumulate
        self.even = even
        self.weights = weights
        self.parts = world * accumulate
        # A batch norm needs two values; a map of 1x1 has one an image.
        if min(length, batch_size) < 2 * self.parts:
            raise ValueError(
                f"batch_size={batch_size} of {length} training images is too few for {world} process(es) with "
                f"optim.accumulate={accumulate}: each micro-batch needs two images"
            )
        self.steps = length // batch_size
        if length % batch_size >= 2 * self.parts:
            self.steps += 1

    def permutation(self, epoch: int) -> Tensor:
        """Return the images of an epoch in their order."""
        generator = seeded(self.seed, epoch)
        # From a generator of the epoch: a run that resumes needs no state of it.
        if self.weights is None:
            return torch.randperm(self.length, generator=generator)
        return torch.multinomial(self.weights, self.length, replacement=True, generator=generator)

    def step(self, permutation: Tensor, step: int) -> Step:
        """Return this process's share of a step; ``step`` counts from 0 within the epoch."""
        begin = step * self.batch_size
        batch = permutation[begin : begin + self.batch_size]
        parts = list(batch.tensor_split(self.parts))
        if self.even:
            # Mixup pairs the images of a batch.
            parts = [part[: len(part) // 2 * 2] for part in parts]
        first = self.rank * self.accumulate
        own = parts[first : first + self.accumulate]
        size = sum(len(part) for part in parts)
        return Step(own, size)
