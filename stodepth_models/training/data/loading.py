"""Images that worker processes decode from files, or augment by timm."""

import os
import signal
from collections.abc import Iterator
from threading import Thread

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from .augmentation import Transform, seeded_streams
from .datasets import Data
from .decoding import open_image
from .splits import Arrays, Files, Split


def training_images(
    data: Data,
    split: Split,
    batches: list[list[int]],
    workers: int,
    seed: int,
    epoch: int,
    transform: Transform | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images ``(B, 3, H, W)``, uint8, cropped and flipped at random, and labels ``(B,)``.

    Args:
        data: how images are prepared.
        split: images.
        batches: indices of the images of each batch.
        workers: processes that decode.
        seed: of the run.
        epoch: epoch.
        transform: replaces the crop and the flip; what it returns is what comes out.

    Raises:
        ValueError: an image cannot be read.
    """
    if transform is not None:
        return _load(_Images(split, transform, seed, epoch), batches, workers)
    steps: list[v2.Transform] = [v2.PILToTensor(), v2.RandomResizedCrop(data.image_size, antialias=True)]
    if data.flip:
        steps.append(v2.RandomHorizontalFlip())
    return _load(_Images(split, v2.Compose(steps), seed, epoch), batches, workers)


def evaluation_images(
    data: Data, files: Files, batches: list[list[int]], workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as :func:`training_images` does, scaled and cut in the middle.

    Raises:
        ValueError: an image cannot be read.
    """
    transform = v2.Compose([v2.PILToTensor(), v2.Resize(data.resize, antialias=True), v2.CenterCrop(data.image_size)])
    return _load(_Images(files, transform, 0, 0), batches, workers)


class _Images(Dataset):
    """Decoded images; the randomness of an image depends on seed, epoch and image, not on the worker."""

    def __init__(self, split: Split, transform: Transform, seed: int, epoch: int) -> None:
        self.split, self.transform, self.seed, self.epoch = split, transform, seed, epoch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if isinstance(self.split, Arrays):
            image = Image.fromarray(self.split.images[index].numpy())
        else:
            image = open_image(self.split.paths[index])
        with seeded_streams(self.seed, self.epoch, index):
            return self.transform(image), self.split.labels[index]


def _load(images: _Images, batches: list[list[int]], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    # A generator of its own: the loader would draw its base seed from the stream of the gates.
    loader = DataLoader(
        images, batch_sampler=batches, num_workers=workers, generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(), worker_init_fn=_ignore_signals,
    )  # fmt: skip
    try:
        yield from loader
    except ValueError as error:
        # A worker process sends its whole traceback along.
        message = str(error).strip().splitlines()[-1]
        raise ValueError(message.removeprefix("ValueError: ")) from None


def _ignore_signals(worker: int) -> None:
    """Leave signals that reach all processes to the one that trains: it needs its workers until it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    """End this process at a SIGTERM of its parent, which Python sends to workers at its own end; ignore all others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
