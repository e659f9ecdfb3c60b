"""Batches on the device: small images from memory, large ones from files."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .augmentation import Transform, seeded
from .datasets import Data
from .loading import evaluation_images, training_images
from .order import SampleOrder
from .splits import Arrays, Split


class Batch(NamedTuple):
    """What one process computes in one step.

    Attributes:
        parts: standardised images ``(B, 3, H, W)`` and labels ``(B,)``, one pair a micro-batch.
        size: images over all processes and micro-batches.
    """

    parts: list[tuple[Tensor, Tensor]]
    size: int


class Standardise:
    """uint8 images ``(B, 3, H, W)`` to float32 of mean 0 and standard deviation 1 a channel."""

    def __init__(self, data: Data, device: torch.device) -> None:
        # (x / 255 - mean) / std as one multiplication and one addition.
        scale = 1 / (255 * data.std)
        shift = -data.mean / data.std
        self.scale = scale.view(1, 3, 1, 1).to(device)
        self.shift = shift.view(1, 3, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        if images.is_floating_point():  # timm's transform has done it
            return images
        return torch.addcmul(self.shift, images.float(), self.scale)


class TrainBatches:
    """Training batches of one process; random crops and flips depend on seed, epoch and image alone.

    Args:
        data: the data set.
        order: which images in which step.
        device: where batches go; small images are held there whole.
        workers: processes that decode large images, or augment by timm.
        transform: timm's, of a single image; None: crop and flip.
    """

    def __init__(
        self, data: Data, order: SampleOrder, device: torch.device, workers: int, transform: Transform | None = None
    ) -> None:
        assert data.train is not None  # load_data refuses such data
        self.data = data
        self.train = data.train
        self.order = order
        self.device = device
        self.workers = workers
        self.transform = transform
        self.standardise = Standardise(data, device)
        self.memory: _PaddedImages | None = None
        if isinstance(data.train, Arrays) and transform is None:
            self.memory = _PaddedImages(data, data.train, device)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from a step on."""
        permutation = self.order.permutation(epoch)
        steps = []
        micro_batches = []
        for number in range(first_step, self.order.steps):
            step = self.order.step(permutation, number)
            steps.append(step)
            micro_batches += step.micro_batches
        # All micro-batches at once: workers decode those of the next step while this one is computed.
        images = self._images(micro_batches, epoch)
        for step in steps:
            parts = []
            for _ in step.micro_batches:
                x, labels = next(images)
                parts.append((self.standardise(x.to(self.device)), labels.to(self.device)))
            yield Batch(parts, step.size)

    def _images(self, micro_batches: list[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        if self.memory is not None:
            self.memory.draw_augmentation(epoch, self.order.seed)
            return map(self.memory.augmented, micro_batches)
        return training_images(
            self.data,
            self.train,
            [batch.tolist() for batch in micro_batches],
            self.workers,
            self.order.seed,
            epoch,
            self.transform,
        )


class EvaluationBatches:
    """Batches without augmentation; each process takes every ``world``-th image, so no image counts twice.

    Args:
        data: the data set.
        split: its images to evaluate.
        batch_size: images a batch.
        device: where batches go.
        workers: processes that decode large images.
        rank: of this process.
        world: number of processes.
    """

    def __init__(
        self,
        data: Data,
        split: Split,
        batch_size: int,
        device: torch.device,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.data = data
        self.split = split
        self.device = device
        self.workers = workers
        self.standardise = Standardise(data, device)
        self.indices: list[Tensor] = []
        mine = torch.arange(rank, len(split.labels), world)
        if len(mine) > 0:  # `split` makes one empty part of none
            self.indices += mine.split(batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self._images():
            yield self.standardise(images.to(self.device)), labels.to(self.device)

    def _images(self) -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(self.split, Arrays):
            for indices in self.indices:
                images = self.split.images[indices].permute(0, 3, 1, 2)
                yield images, self.split.labels[indices]
        else:
            batches = [indices.tolist() for indices in self.indices]
            yield from evaluation_images(self.data, self.split, batches, self.workers)


def augmented_images(data: Data, images: int, seed: int, batch_size: int = 250) -> Iterator[Tensor]:
    """Yield standardised training images ``(B, 3, H, W)``, on the CPU, augmented as in training.

    Args:
        data: the data set.
        images: at least so many are yielded; where there are fewer, each comes again in a further epoch.
        seed: of their order and augmentation.
        batch_size: most images a batch.
    """
    assert data.train is not None
    count = len(data.train.labels)
    order = SampleOrder(count, min(batch_size, count), seed)
    batches = TrainBatches(data, order, torch.device("cpu"), workers=0)
    left = images
    for epoch in itertools.count():
        for batch in batches.epoch(epoch):
            for x, _ in batch.parts:
                yield x
                left -= len(x)
                if left <= 0:
                    return


class _PaddedImages:
    """Zero-padded images on the device; a random crop and flip is one gather of pixels."""

    def __init__(self, data: Data, split: Arrays, device: torch.device) -> None:
        pad = data.padding
        count, side = split.images.shape[:2]
        padded = torch.zeros(count, side + 2 * pad, side + 2 * pad, 3, dtype=torch.uint8)
        padded[:, pad : pad + side, pad : pad + side] = split.images
        self.count = count
        self.side = side
        self.pad = pad
        self.flip_chance = 0.0
        if data.flip:
            self.flip_chance = 0.5
        self.pixels = padded.view(-1, 3).to(device)
        self.labels = split.labels.to(device)

    def draw_augmentation(self, epoch: int, seed: int) -> None:
        """Draw offset and flip of every image for an epoch."""
        generator = seeded(seed, epoch, 1)
        self.corner = torch.randint(2 * self.pad + 1, (2, self.count), generator=generator)
        self.mirrored = torch.rand(self.count, generator=generator) < self.flip_chance

    def augmented(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images ``(B, 3, H, W)``, uint8, channels last, and labels."""
        device = self.pixels.device
        width = self.side + 2 * self.pad
        along = torch.arange(self.side)
        top, left = self.corner[:, indices, None]
        mirrored = self.mirrored[indices, None]
        # Pixel (y, x) of image i lies in row (i * width + y) * width + x of the table of pixels.
        rows = (indices[:, None] * width + top + along) * width
        columns = left + torch.where(mirrored, self.side - 1 - along, along)
        pixels = (rows[:, :, None] + columns[:, None, :]).view(-1).to(device, non_blocking=True)
        images = self.pixels.index_select(0, pixels).view(len(indices), self.side, self.side, 3)
        return images.permute(0, 3, 1, 2), self.labels[indices.to(device, non_blocking=True)]
