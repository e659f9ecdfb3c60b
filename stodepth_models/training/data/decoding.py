"""Files to pixels: what cannot be read stops the run, or is skipped."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .images import open_rgb
from .splits import Arrays, Files


def open_image(path: Path) -> Image.Image:
    """Return a decoded RGB image, upright as its camera held it; 16 bits a pixel are scaled to 8.

    Raises:
        ValueError: the file cannot be read as an image, or holds numbers whose range is not known.
    """
    try:
        return open_rgb(path)
    except ValueError as error:
        raise ValueError(
            f"{error}: remove it or use data.unreadable=skip; once there is a checkpoint, mend it instead"
        ) from None


def decode(files: Files, side: int, unreadable: str) -> Arrays:
    """Read images of ``side`` by ``side`` pixels into memory.

    Args:
        files: what to read; an image of another size is scaled on its shorter side and cut in the middle.
        side: height and width in pixels.
        unreadable: ``"stop"`` or ``"skip"``.

    Raises:
        ValueError: an image cannot be read, and ``unreadable`` is ``"stop"``; or none of a class can.
    """
    images = torch.empty(len(files.paths), side, side, 3, dtype=torch.uint8)
    # Threads, for Pillow decodes outside of Python's lock; each writes its own image of the one tensor.
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(_decode_into, images, files.paths, repeat(side)))
    readable = _readable(files, errors, unreadable)
    if all(readable):
        return Arrays(images, files.labels, files)
    return Arrays(images, files.labels, files).select(readable)


def without_unreadable(files: Files, unreadable: str) -> Files:
    """Return the files that can be decoded; reads every one of them.

    Raises:
        ValueError: an image cannot be read, and ``unreadable`` is ``"stop"``; or none of a class can.
    """
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(_error_of, files.paths))
    return files.select(_readable(files, errors, unreadable))


def _decode_into(out: Tensor, path: Path, side: int) -> str | None:
    try:
        image = open_image(path)
    except ValueError as error:
        return str(error)
    if image.size != (side, side):
        image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
    out.copy_(torch.from_numpy(np.array(image)))
    return None


def _error_of(path: Path) -> str | None:
    try:
        open_image(path)
    except ValueError as error:
        return str(error)
    return None


def _readable(files: Files, errors: list[str | None], unreadable: str) -> Tensor:
    """Return which files are good, ``(N,)``, boolean; each of the others is reported in a warning."""
    for path, error in zip(files.paths, errors, strict=True):
        if error is not None and unreadable == "stop":
            raise ValueError(error)
        if error is not None:
            warnings.warn(f"{path} cannot be read as an image: skipped", stacklevel=3)
    readable = torch.tensor([error is None for error in errors], dtype=torch.bool)
    left = set(files.labels[readable].tolist())
    for path, label in zip(files.paths, files.labels.tolist(), strict=True):
        if label not in left:
            raise ValueError(f"{path.parent} holds no image that can be read: remove the class or fill its folder")
    return readable
