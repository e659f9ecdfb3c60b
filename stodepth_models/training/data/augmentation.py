"""Augmentation by timm: transforms of single images, with random numbers that depend on seed, epoch and image alone."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms.v2 import Compose, RandomCrop, RandomHorizontalFlip, TrivialAugmentWide

from ..config import DataConfig
from ..errors import SettingsError, first_line
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


def make_transform(config: DataConfig, side: int, padding: int, flip: bool, mean: Tensor, std: Tensor) -> Transform:
    """Return timm's transform of a training image to a standardised float32 tensor ``(3, side, side)``.

    Images up to 64 pixels are padded and cropped, as without timm.

    Args:
        config: settings of the augmentation.
        side: of the crop, in pixels.
        padding: zero padding in pixels before the crop of small images.
        flip: mirror at random.
        mean: of each channel, ``(3,)``, in [0, 1].
        std: of each channel, ``(3,)``.

    Raises:
        Exception: whatever timm raises for a policy or an argument that it does not know.
    """
    is_trivial = config.aa == TRIVIAL_AUGMENT
    settings = {
        "hflip": 0.5 * flip, "color_jitter": config.color_jitter, "auto_augment": None if is_trivial else config.aa,
        "re_prob": config.reprob, "re_mode": config.remode, "mean": mean.tolist(), "std": std.tolist(),
        **config.transform_args,
    }  # fmt: skip
    crop, augment, finish = create_transform(side, is_training=True, separate=True, **settings)
    if side <= LARGEST_UNCUT:
        crop = Compose([RandomCrop(side, padding), RandomHorizontalFlip(0.5 * flip)])
    if is_trivial:
        augment = TrivialAugmentWide()
    return Compose([crop, augment, finish])


def check_augmentation(config: DataConfig) -> None:
    """Transform an image, so that a wrong policy or argument is found before any data is read.

    Raises:
        SettingsError: timm refuses the settings.
    """
    if not config.uses_timm:
        return
    side = config.image_size or 224
    try:
        make_transform(config, side, 0, True, torch.zeros(3), torch.ones(3))(Image.new("RGB", (side, side)))
    except Exception as error:  # whatever an argument of the wrong kind provokes
        reason = first_line(error)
        given = f"given data.aa={config.aa} and data.transform_args={config.transform_args}"
        raise SettingsError(f"{reason}, {given}") from None
