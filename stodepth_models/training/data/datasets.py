"""From settings to the splits of a data set, in memory where the images are small."""

import dataclasses
import statistics
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from ..config import DataConfig
from .decoding import decode, without_unreadable
from .extraction import Limits
from .folders import find_root, scan
from .huggingface import written_as_folders
from .images import LARGEST_UNCUT, resized, shorter_side, warn_of_unused_bits
from .named import read_arrays
from .splits import Arrays, Files, Split, fingerprint, hold_back, take_per_class

_VALID_SIZES = {"cifar10": 5000, "cifar100": 5000, "svhn": 6000}
_SIDES = {"cinic10": 32, "imagenet": 224}
_NEVER_FLIPPED = ("digits", "svhn")


@dataclass(frozen=True)
class Data:
    """A data set, ready to be trained on.

    Attributes:
        train: training images, without those held back; None where only others were asked for.
        valid: images that choices are made on.
        test: images of the final figure; None where the data set has none.
        classes: names.
        image_size: side in pixels.
        resize: shorter side in pixels that large images are scaled to in evaluation, before the middle is cut out.
        padding: zero padding in pixels before a random crop.
        flip: mirror at random.
        mean: of each channel, ``(3,)``, in [0, 1].
        std: of each channel, ``(3,)``.
        is_held_back: whether ``valid`` was taken out of the training images.
    """

    train: Split | None
    valid: Split | None
    test: Split | None
    classes: tuple[str, ...]
    image_size: int
    resize: int
    padding: int
    flip: bool
    mean: Tensor
    std: Tensor
    is_held_back: bool = False

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What a resumed run compares, a text for each of ``train``, ``valid``, ``test`` and ``classes``.

        See :func:`~.splits.fingerprint`; :func:`~.splits.changed_images` names the difference of two.
        """
        splits = {"train": self.train, "valid": self.valid, "test": self.test}
        return fingerprint(splits, self.classes)


def load_data(config: DataConfig, split: str | None = None) -> Data:
    """Read a data set.

    Args:
        config: settings.
        split: the images to evaluate, others being left out where they are not needed; None: all, to train on.

    Raises:
        ValueError: files are missing, damaged or refused, or there is nothing to train or validate on.
    """
    if config.name == "hfds":
        folder = written_as_folders(config)
        config = dataclasses.replace(config, name="folder", root=folder)
    if config.name in ("folder", "cinic10", "imagenet"):
        splits, classes, side = _read_folder(config, split)
    else:
        arrays, classes = read_arrays(config)
        side = config.image_size or arrays["train"].images.shape[1]
        splits = {name: _resized(images, side) for name, images in arrays.items()}
    train = splits.get("train")
    valid = splits.get("valid")
    if train is None and split is None:
        raise ValueError(f"data.root: {config.root} has no train/ folder, only {', '.join(splits)}")
    is_held_back = train is not None and valid is None
    if train is not None and is_held_back:
        tenth = max(1, len(train.labels) // 10)
        size = config.valid_size or _VALID_SIZES.get(config.name) or tenth
        train, valid = hold_back(train, size, config.split_seed, classes)
    if train is not None and config.images_per_class is not None:
        train = take_per_class(train, classes, config.images_per_class, config.split_seed)
    if split is None and config.padding is not None and side > LARGEST_UNCUT:
        raise ValueError(
            f"data.padding={config.padding} has no effect on images of {side} pixels, which are scaled and cropped "
            f"at random: leave it out, or set data.image_size to {LARGEST_UNCUT} or less"
        )
    mean, std = _statistics(train, side, config)
    resize_to = config.resize or resized(side)
    if resize_to < side:
        raise ValueError(f"data.resize must be at least the side of {side} pixels that is cut out, got {resize_to}")
    return Data(
        train=train,
        valid=valid,
        test=splits.get("test"),
        classes=classes,
        image_size=side,
        resize=resize_to,
        padding=_padding(config, side),
        flip=_is_flipped(config),
        mean=mean,
        std=std,
        is_held_back=is_held_back,
    )


def _padding(config: DataConfig, side: int) -> int:
    """4 pixels for 32, and in proportion for smaller images; none for SVHN, which the paper does not augment."""
    if config.padding is not None:
        return config.padding
    if config.name == "svhn":
        return 0
    return min(4, round(side / 8))


def _is_flipped(config: DataConfig) -> bool:
    if config.flip is not None:
        return config.flip
    return config.name not in _NEVER_FLIPPED


def _read_folder(config: DataConfig, wanted: str | None) -> tuple[dict[str, Split], tuple[str, ...], int]:
    limits = Limits(config.max_unpacked_gb, config.max_files)
    files, classes = scan(find_root(config.root.expanduser(), config.cache, limits))
    side = config.image_size or _SIDES.get(config.name) or _side(files)
    # Where mean and deviation are not known, the training images are measured.
    is_standard = config.mean is not None or config.name == "imagenet"
    if wanted in ("valid", "test") and wanted in files and is_standard:
        files = {wanted: files[wanted]}
    paths: list[Path] = []
    for split in files.values():
        paths += split.paths
    warn_of_unused_bits(paths)
    if side <= LARGEST_UNCUT:
        return {name: decode(split, side, config.unreadable) for name, split in files.items()}, classes, side
    # Only a set that may hold damaged images is read through beforehand: it takes as long as an epoch.
    if config.unreadable == "skip":
        files = {name: without_unreadable(split, "skip") for name, split in files.items()}
    return dict(files), classes, side


def _resized(split: Arrays, side: int) -> Arrays:
    """The images at another size, as :func:`~.decoding.decode` scales files."""
    if split.images.shape[1] == side:
        return split
    parts = []
    for part in split.images.split(1000):  # floating-point copies of all images at once might not fit
        scaled = resize(part.permute(0, 3, 1, 2), [side, side], antialias=True)
        parts.append(scaled.permute(0, 2, 3, 1))
    return Arrays(torch.cat(parts), split.labels)


def _side(files: dict[str, Files]) -> int:
    """The middle of the shorter sides of some images, where it is small: a single thumbnail does not decide."""
    paths = next(iter(files.values())).paths
    step = max(1, len(paths) // 100)
    # Where no image of the sample can be read, all are tried.
    for candidates in (paths[::step], paths):
        sides = []
        for side in map(shorter_side, candidates):
            if side is not None:
                sides.append(side)
        if sides:
            break
    else:
        raise ValueError("no image of the data set can be read")
    side = statistics.median_low(sides)
    if side <= LARGEST_UNCUT:
        return side
    return 224


def _statistics(train: Split | None, side: int, config: DataConfig) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over the training images, or a sample of large ones."""
    if config.mean is not None and config.std is not None:
        return torch.tensor(config.mean), torch.tensor(config.std)
    if config.name == "imagenet":
        # Those of torchvision's weights.
        return torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    if train is None:
        raise ValueError("there are no training images to measure: give data.mean and data.std")
    if isinstance(train, Files):
        step = max(1, len(train.paths) // 500)
        sample = train.select(torch.arange(0, len(train.paths), step))
        train = decode(sample, side, config.unreadable)
    values = torch.arange(256, dtype=torch.float64) / 255
    # Sums over all pixels would need floating-point copies of all images; a histogram does not.
    channels = train.images.flatten(0, 2).unbind(1)
    histograms = [torch.bincount(channel, minlength=256) for channel in channels]
    counts = torch.stack(histograms).double()
    shares = counts / counts.sum(1, keepdim=True)
    mean = shares @ values
    variance = shares @ values.square() - mean.square()
    return mean.float(), variance.clamp(min=1e-6).sqrt().float()
