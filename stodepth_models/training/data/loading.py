"""Large images: decoded from files and augmented by worker processes."""

import os
import signal
from collections.abc import Iterator
from threading import Thread

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from .datasets import Data
from .decoding import open_image
from .splits import Files


def seeded(*numbers: int) -> torch.Generator:
    """Return a generator whose stream depends on a few numbers alone, each from 0 on.

    Tuples of up to three numbers below 2**20 have a stream each. Larger ones, such as a large seed or an image beyond
    the first million, may share that of another tuple: then two images, of different epochs, are cropped alike.
    """
    key = 0
    for number in numbers:
        key = (key * 1_048_583 + number + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(key)


def training_images(
    data: Data, files: Files, batches: list[list[int]], workers: int, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images ``(B, 3, H, W)``, uint8, cropped and flipped at random, and labels ``(B,)``.

    Args:
        data: says how images are prepared.
        files: images.
        batches: indices of the images of each batch.
        workers: processes that decode.
        seed: of the run.
        epoch: epoch.

    Raises:
        ValueError: an image cannot be read.
    """
    steps: list[v2.Transform] = [v2.RandomResizedCrop(data.image_size, antialias=True)]
    if data.flip:
        steps.append(v2.RandomHorizontalFlip())
    return _load(_FileImages(files, v2.Compose(steps), seed, epoch), batches, workers)


def evaluation_images(
    data: Data, files: Files, batches: list[list[int]], workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches as :func:`training_images` does, scaled and cut in the middle.

    Raises:
        ValueError: an image cannot be read.
    """
    transform = v2.Compose([v2.Resize(data.resize, antialias=True), v2.CenterCrop(data.image_size)])
    return _load(_FileImages(files, transform, 0, 0), batches, workers)


class _FileImages(Dataset):
    """Decoded files; the randomness of an image depends on seed, epoch and image, not on the worker."""

    def __init__(self, files: Files, transform: v2.Transform, seed: int, epoch: int) -> None:
        self.files, self.transform, self.seed, self.epoch = files, transform, seed, epoch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded(self.seed, self.epoch, index).initial_seed())
            image = self.transform(v2.functional.pil_to_tensor(open_image(self.files.paths[index])))
        return image, self.files.labels[index]


def _load(images: _FileImages, batches: list[list[int]], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
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
    """End this process once its parent asks for it, and nobody else; Python ends what is left at its end so."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
