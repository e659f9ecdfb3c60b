"""A split: the images of training, validation or test, as files or in memory."""

import hashlib
import heapq
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger("stodepth_models")

_MAX_CLASSES_SHOWN = 5


@dataclass(frozen=True)
class Files:
    """Image files and the class of each.

    Attributes:
        paths: files.
        labels: index of the class of each file, ``(N,)``, int64.
        root: folder of the data set; names of files in a fingerprint are relative to it.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    root: Path

    def select(self, indices: Tensor) -> "Files":
        """Return some files; ``indices`` are numbers, or a boolean mask ``(N,)``."""
        if indices.dtype == torch.bool:
            indices = indices.nonzero()[:, 0]
        paths = tuple(self.paths[index] for index in indices.tolist())
        return Files(paths, self.labels[indices], self.root)

    def relabel(self, outputs: Tensor) -> "Files":
        """Return the same files with ``outputs[label]`` for each label."""
        return Files(self.paths, outputs[self.labels], self.root)

    def digests(self) -> dict[str, str]:
        """Return a digest of each part that a training run depends on; contents are not read."""
        names = []
        sizes = []
        for path in self.paths:
            name = path.relative_to(self.root).as_posix()
            names.append(name.encode(errors="surrogateescape"))  # names need not be UTF-8
            sizes.append(str(_size(path)).encode())
        labels = self.labels.numpy().tobytes()
        return {"names": _digest(names), "sizes": _digest(sizes), "labels": _digest([labels])}


class Arrays(NamedTuple):
    """Images in memory.

    Attributes:
        images: ``(N, H, W, 3)``, uint8.
        labels: index of the class of each image, ``(N,)``, int64.
        files: that the images were read from; None for others.
    """

    images: Tensor
    labels: Tensor
    files: Files | None = None

    def select(self, indices: Tensor) -> "Arrays":
        """Return some images; ``indices`` are numbers, or a boolean mask ``(N,)``."""
        files = None
        if self.files is not None:
            files = self.files.select(indices)
        return Arrays(self.images[indices], self.labels[indices], files)

    def relabel(self, outputs: Tensor) -> "Arrays":
        """Return the same images with ``outputs[label]`` for each label."""
        return Arrays(self.images, outputs[self.labels], self.files)

    def digests(self) -> dict[str, str]:
        """Return a digest of each part that a training run depends on."""
        shape = str(tuple(self.images.shape)).encode()
        pixels = self.images.contiguous().numpy().data
        labels = self.labels.numpy().tobytes()
        return {"pixels": _digest([shape, pixels]), "labels": _digest([labels])}


Split = Arrays | Files


def fingerprint(splits: Mapping[str, Split | None], classes: Iterable[str]) -> dict[str, str]:
    """Return what identifies the images of a run: a text a split, and one for the names of the classes.

    Two data sets with the same fingerprint give the same training run. Images in memory count by their pixels, files by
    their relative names and their sizes in bytes; both in their order, with their labels.

    Args:
        splits: by name; a split that is None is left out.
        classes: names.
    """
    names = _digest(name.encode() for name in classes)
    found = {"classes": f"names={names}"}
    for name, split in splits.items():
        if split is not None:
            found[name] = " ".join(f"{part}={digest}" for part, digest in split.digests().items())
    return found


def changed_images(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what differs between two fingerprints, one phrase a split; empty where nothing does.

    Args:
        saved: fingerprint of the run that is to go on.
        now: fingerprint of the data set as it is.
    """
    phrases = []
    for name in {**saved, **now}:  # a set would lose their order
        if name not in now:
            phrases.append(f"{name}: is missing now")
        elif name not in saved:
            phrases.append(f"{name}: was not there before")
        elif saved[name] != now[name]:
            before = saved[name].split()
            parts = []
            for part in now[name].split():
                if part not in before:
                    parts.append(part.partition("=")[0])
            phrases.append(f"{name}: other {', '.join(parts) or 'content'}")
    return phrases


def hold_back(train: Split, size: int, seed: int, classes: tuple[str, ...]) -> tuple[Split, Split]:
    """Return training and validation images: of each class a share is held back, chosen at random.

    Args:
        train: images to divide.
        size: images to hold back.
        seed: of the choice.
        classes: names.

    Raises:
        ValueError: a class would be left without training images.
    """
    counts = torch.bincount(train.labels, minlength=len(classes)).tolist()
    # One image of each class is left for training.
    most = sum(max(0, count - 1) for count in counts)
    if not 1 <= size <= most:
        raise ValueError(
            f"data.valid_size must be from 1 to {most}, which leaves a training image of each class, got {size}: "
            "add images, or put them into train/ and valid/ yourself"
        )
    quotas = _quotas(counts, size)
    without = []
    for name, count, quota in zip(classes, counts, quotas, strict=True):
        if count > 0 and quota == 0:
            without.append(name)
    if without:
        logger.warning(
            "data.valid_size=%d: no validation image of %d classes, which are too small or too many (%s)",
            size,
            len(without),
            ", ".join(without[:_MAX_CLASSES_SHOWN]),
        )
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed))
    is_held_back = torch.zeros(len(train.labels), dtype=torch.bool)
    for label, quota in enumerate(quotas):
        of_class = _of_class(train, order, label)
        is_held_back[of_class[:quota]] = True
    return train.select(~is_held_back), train.select(is_held_back)


def take_per_class(train: Split, classes: tuple[str, ...], size: int, seed: int) -> Split:
    """Return ``size`` images of each class, chosen at random.

    Raises:
        ValueError: a class has fewer.
    """
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed))
    chosen = []
    for label, name in enumerate(classes):
        of_class = _of_class(train, order, label)[:size]
        if len(of_class) < size:
            raise ValueError(
                f"data.images_per_class must be at most {len(of_class)}, the training images of class {name}, "
                f"got {size}"
            )
        chosen.append(of_class)
    # In the order of the data set: a run is the same whichever class was drawn first.
    return train.select(torch.cat(chosen).sort().values)


def _of_class(split: Split, order: Tensor, label: int) -> Tensor:
    return order[split.labels[order] == label]


def _quotas(counts: list[int], size: int) -> list[int]:
    """Images to hold back of each class, in proportion to its images.

    A class keeps one training image at least. Where ``size`` allows it, each class has one validation image at least.
    """
    divisible = []
    for label, count in enumerate(counts):
        if count > 1:
            divisible.append(label)
    quotas = [0] * len(counts)
    if size >= len(divisible):
        for label in divisible:
            quotas[label] = 1
    # Webster's method: the next image is of the class that is represented worst.
    waiting: list[tuple[float, int]] = []
    for label in divisible:
        _push_unless_used_up(waiting, label, counts[label], quotas[label])
    for _ in range(size - sum(quotas)):
        _, label = heapq.heappop(waiting)
        quotas[label] += 1
        _push_unless_used_up(waiting, label, counts[label], quotas[label])
    return quotas


def _push_unless_used_up(waiting: list[tuple[float, int]], label: int, count: int, quota: int) -> None:
    if quota < count - 1:
        # The heap gives the smallest entry first; equal classes come in their own order.
        heapq.heappush(waiting, (-count / (2 * quota + 1), label))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere, which is named once it is read
        return -1


def _digest(pieces: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        digest.update(b"\0")
    return digest.hexdigest()[:24]
