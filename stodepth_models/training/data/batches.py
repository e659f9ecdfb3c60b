"""Batches on the device: from memory with vectorised augmentation, or from files through worker processes."""

import os
import signal
from collections.abc import Iterator
from threading import Thread
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from .datasets import Data
from .folders import open_image
from .order import EpochOrder, seeded
from .splits import Arrays, Files, Split

__all__ = ["Batch", "EvaluationBatches", "TrainBatches"]


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
        self.scale = (1 / (255 * data.std)).view(1, 3, 1, 1).to(device)
        self.shift = (-data.mean / data.std).view(1, 3, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.float(), self.scale)


class TrainBatches:
    """Training batches of one process; random crops and flips depend on seed, epoch and image alone.

    Args:
        data: the data set.
        order: which images in which step.
        device: where batches go; small images are held there whole.
        workers: processes that decode large images.
    """

    def __init__(self, data: Data, order: EpochOrder, device: torch.device, workers: int) -> None:
        assert data.train is not None  # load_data refuses such data
        self.data, self.order, self.device, self.workers = data, order, device, workers
        self.standardise = Standardise(data, device)
        self.memory = _Memory(data, data.train, device) if isinstance(data.train, Arrays) else None

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from a step on."""
        permutation = self.order.permutation(epoch)
        steps = [self.order.step(permutation, number) for number in range(first_step, self.order.steps)]
        if self.memory is not None:
            self.memory.draw(epoch, self.order.seed)
            for step in steps:
                parts = [self.memory.take(indices) for indices in step.micro_batches]
                yield Batch([(self.standardise(images), labels) for images, labels in parts], step.size)
            return
        micro_batches = [indices.tolist() for step in steps for indices in step.micro_batches]
        decoded = iter(_file_loader(self.data, self.data.train, micro_batches, self.workers, self.order.seed, epoch))
        for step in steps:
            parts = [_next(decoded) for _ in step.micro_batches]
            yield Batch([(self.standardise(x.to(self.device)), y.to(self.device)) for x, y in parts], step.size)


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
        self, data: Data, split: Split, batch_size: int, device: torch.device, workers: int = 0, rank: int = 0,
        world: int = 1,
    ) -> None:  # fmt: skip
        self.data, self.split, self.device, self.workers = data, split, device, workers
        self.standardise = Standardise(data, device)
        mine = torch.arange(rank, len(split.labels), world)
        self.indices = list(mine.split(batch_size)) if len(mine) else []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(self.split, Arrays):
            for indices in self.indices:
                images = self.split.images[indices].permute(0, 3, 1, 2).to(self.device)
                yield self.standardise(images), self.split.labels[indices].to(self.device)
            return
        decoded = iter(_file_loader(self.data, self.split, [i.tolist() for i in self.indices], self.workers))
        for _ in self.indices:
            images, labels = _next(decoded)
            yield self.standardise(images.to(self.device)), labels.to(self.device)


def _next(decoded: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The next batch; what a worker process says of a damaged image, without the worker's traceback."""
    try:
        return next(decoded)
    except ValueError as error:
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from None


class _Memory:
    """Zero-padded images on the device; a random crop and flip is one gather of pixels."""

    def __init__(self, data: Data, split: Arrays, device: torch.device) -> None:
        pad = data.padding
        count, side = split.images.shape[:2]
        padded = torch.zeros(count, side + 2 * pad, side + 2 * pad, 3, dtype=torch.uint8)
        padded[:, pad : pad + side, pad : pad + side] = split.images
        self.side, self.pad, self.flip, self.count = side, pad, data.flip, count
        self.pixels = padded.view(-1, 3).to(device)
        self.labels = split.labels.to(device)

    def draw(self, epoch: int, seed: int) -> None:
        """Draw offset and flip of every image for an epoch."""
        generator = seeded(seed, epoch, 1)
        self.corner = torch.randint(2 * self.pad + 1, (2, self.count), generator=generator)
        self.mirrored = torch.rand(self.count, generator=generator) < (0.5 if self.flip else 0.0)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images ``(B, 3, H, W)``, uint8, channels last, and labels."""
        device, width, along = self.pixels.device, self.side + 2 * self.pad, torch.arange(self.side)
        (top, left), mirrored = self.corner[:, indices, None], self.mirrored[indices, None]
        rows = (indices[:, None] * width + top + along) * width
        columns = left + torch.where(mirrored, self.side - 1 - along, along)
        pixels = (rows[:, :, None] + columns[:, None, :]).view(-1).to(device, non_blocking=True)
        images = self.pixels.index_select(0, pixels).view(len(indices), self.side, self.side, 3)
        return images.permute(0, 3, 1, 2), self.labels[indices.to(device, non_blocking=True)]


class _FileImages(Dataset):
    """Decoded files; the randomness of an image depends on seed, epoch and image, not on the worker."""

    def __init__(self, files: Files, transform: v2.Transform, seed: int, epoch: int) -> None:
        self.files, self.transform, self.seed, self.epoch = files, transform, seed, epoch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded(self.seed, self.epoch, index).initial_seed())
            image = self.transform(v2.functional.pil_to_tensor(open_image(self.files.paths[index])))
        return image, self.files.labels[index]


def _file_loader(
    data: Data, split: Split | None, batches: list[list[int]], workers: int, seed: int | None = None, epoch: int = 0
) -> DataLoader:
    side, files = data.image_size, split
    assert isinstance(files, Files)  # the callers have asked
    if seed is None:
        transform = v2.Compose([v2.Resize(data.resize, antialias=True), v2.CenterCrop(side)])
    else:
        flip = [v2.RandomHorizontalFlip()] if data.flip else []
        transform = v2.Compose([v2.RandomResizedCrop(side, antialias=True), *flip])
    dataset = _FileImages(files, transform, seed or 0, epoch)
    # A generator of its own: the loader would draw its base seed from the stream of the gates.
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(), worker_init_fn=_outlive_signals,
    )  # fmt: skip


def _outlive_signals(worker: int) -> None:
    """Leave signals that reach all processes to the one that trains: it needs its workers until it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process once its parent, and nobody else, asks for it, as Python does with what is left at its end."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
