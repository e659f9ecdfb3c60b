"""Augmentation by timm: transforms of single images, with random numbers that depend on seed, epoch and image alone."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import posterize
from torch import Tensor
from torchvision.transforms.v2 import Compose, RandomCrop, RandomHorizontalFlip, TrivialAugmentWide

from ..config import DataConfig
from .datasets import Data
from .images import LARGEST_UNCUT

TRIVIAL_AUGMENT = "ta_wide"  # torchvision's name; timm has every policy but this one

Transform = Callable[[Image.Image], Tensor]


def seeded(*numbers: int) -> torch.Generator:
    """Return a generator whose stream depends on a few numbers alone, each from 0 on.

    Tuples of up to three numbers below 2**20 have a stream each. Larger ones, such as a large seed or an image beyond
    the first million, may share that of another tuple: then two images, of different epochs, are cropped alike.
    """
    key = 0
    for number in numbers:
        key = (key * 1_048_583 + number + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(key)


@contextmanager
def seeded_streams(*numbers: int) -> Iterator[None]:
    """Start the streams of torch (CPU), Python and NumPy from a few numbers; after the context they go on as before."""
    key = seeded(*numbers).initial_seed()
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would start the streams of all GPUs too.
        torch.default_generator.manual_seed(key)
        random.seed(key)
        np.random.seed(key % 2**32)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def make_transform(config: DataConfig, data: Data) -> Transform:
    """Return timm's transform of a training image to a standardised float32 tensor ``(3, H, W)``.

    Images up to 64 pixels are padded and cropped, as without timm.

    Raises:
        Exception: whatever timm raises for a policy or an argument that it does not know.
    """
    side, is_trivial = data.image_size, config.aa == TRIVIAL_AUGMENT
    settings = {
        "hflip": 0.5 * data.flip, "color_jitter": config.color_jitter, "re_prob": config.reprob,
        "auto_augment": None if is_trivial else config.aa, "re_mode": config.remode,
        "mean": data.mean.tolist(), "std": data.std.tolist(), **config.transform_args,
    }  # fmt: skip
    crop, augment, finish = create_transform(side, is_training=True, separate=True, **settings)
    if side <= LARGEST_UNCUT:
        crop = Compose([RandomCrop(side, data.padding), RandomHorizontalFlip(0.5 * data.flip)])
    if is_trivial:
        augment = TrivialAugmentWide()
    else:
        _allow_black(augment.transforms)
    return Compose([crop, augment, finish])


def _allow_black(steps: list[Any]) -> None:
    """Let timm's policies keep 0 bits of an image, at their highest magnitude: Pillow 13 refuses to."""
    for step in steps:
        for op in [*getattr(step, "ops", []), *chain.from_iterable(getattr(step, "policy", []))]:
            if op.aug_fn is posterize:
                op.aug_fn = _posterize


def _posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    return posterize(image, bits, **settings) if bits else Image.new(image.mode, image.size)
