"""Data sets by name that fit in memory: torchvision's small ones, scikit-learn's digits, and made-up images."""

from pathlib import Path

import numpy as np
import torch
import torchvision.datasets as tv
from torch import Tensor

from ..config import DataConfig
from .splits import Arrays

# Splits by name, and the names of the classes.
Named = tuple[dict[str, Arrays], tuple[str, ...]]


def read_arrays(config: DataConfig) -> Named:
    """Return the splits of a data set that fits in memory, and its classes.

    Raises:
        ValueError: the files are not there and may not be, or cannot be, downloaded.
    """
    if config.name == "digits":
        return _digits()
    if config.name == "fake":
        return _fake(config)
    try:
        return _READERS[config.name](config.root.expanduser(), config.download)
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        remedy = "check the network, or put the files of torchvision's data set there"
        if not config.download:
            # torchvision advises an argument of its own.
            reason = "not found there, or damaged"
            remedy = "leave out --data.download false to fetch it, or give the folder that holds it"
        raise ValueError(
            f"{config.name} cannot be read from data.root={config.root} ({reason}): {remedy}; "
            "images of your own are --data.name folder"
        ) from None


def _cifar(dataset: type[tv.CIFAR10], root: Path, download: bool) -> Named:
    train = dataset(root, train=True, download=download)
    test = dataset(root, train=False, download=download)
    splits = {
        "train": _arrays(train.data, train.targets),
        "test": _arrays(test.data, test.targets),
    }
    return splits, tuple(train.classes)


def _cifar10(root: Path, download: bool) -> Named:
    return _cifar(tv.CIFAR10, root, download)


def _cifar100(root: Path, download: bool) -> Named:
    return _cifar(tv.CIFAR100, root, download)


def _svhn(root: Path, download: bool) -> Named:
    """Training images are those of ``train`` and ``extra``, as in arXiv:1603.09382, sec. 4."""
    read = {}
    for name in ("train", "extra", "test"):
        part = tv.SVHN(root, split=name, download=download)
        channels_last = part.data.transpose(0, 2, 3, 1)
        read[name] = _arrays(channels_last, part.labels)
    images = torch.cat([read["train"].images, read["extra"].images])
    labels = torch.cat([read["train"].labels, read["extra"].labels])
    splits = {"train": Arrays(images, labels), "test": read["test"]}
    return splits, tuple("0123456789")


def _fashion_mnist(root: Path, download: bool) -> Named:
    train = tv.FashionMNIST(root, train=True, download=download)
    test = tv.FashionMNIST(root, train=False)  # one download holds both
    splits = {
        "train": _grey(train.data, train.targets),
        "test": _grey(test.data, test.targets),
    }
    return splits, tuple(train.classes)


def _digits() -> Named:
    """1,797 digits of 8x8; every fifth image is a test image."""
    from sklearn.datasets import load_digits  # a second of import time that no other data set needs

    bunch = load_digits()
    brightness = torch.from_numpy(bunch.images * (255 / 16))  # scikit-learn counts from 0 to 16
    images = brightness.round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target)
    is_test = torch.arange(len(labels)) % 5 == 0
    splits = {
        "train": _grey(images[~is_test], labels[~is_test]),
        "test": _grey(images[is_test], labels[is_test]),
    }
    return splits, tuple("0123456789")


def _fake(config: DataConfig) -> Named:
    """Noise around one random picture a class: quick to make and easy to learn."""
    generator = torch.Generator().manual_seed(0)
    side = config.image_size or 32
    count = config.fake_classes
    pictures = torch.randint(64, 192, (count, side, side, 3), generator=generator)
    sizes = {
        "train": config.fake_images,
        "valid": config.fake_images // 5,
        "test": config.fake_images // 5,
    }
    splits = {}
    for split, size in sizes.items():
        # Each class has an image, however few are asked for.
        labels = torch.arange(max(size, count)) % count
        noise = torch.randint(-64, 64, (len(labels), side, side, 3), generator=generator)
        images = pictures[labels] + noise
        splits[split] = Arrays(images.to(torch.uint8), labels)
    return splits, tuple(f"class{number}" for number in range(count))


def _arrays(images: np.ndarray, labels: list[int] | np.ndarray) -> Arrays:
    contiguous = np.ascontiguousarray(images)
    return Arrays(torch.from_numpy(contiguous), torch.as_tensor(labels).long())


def _grey(images: Tensor, labels: Tensor) -> Arrays:
    # The networks take three channels.
    coloured = images.unsqueeze(-1).expand(-1, -1, -1, 3)
    return Arrays(coloured.contiguous(), labels.long())


_READERS = {
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "svhn": _svhn,
    "fashion_mnist": _fashion_mnist,
}
