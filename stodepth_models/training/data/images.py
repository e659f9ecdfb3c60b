"""Image files, as training, evaluation and prediction all read them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

__all__ = ["IMAGES", "LARGEST_UNCUT", "is_image", "open_rgb", "resized", "shorter_side"]

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

LARGEST_UNCUT = 64  # pixels a side


def resized(side: int) -> int:
    """Return the shorter side that an image is scaled to before its middle is cut out; small images are used whole."""
    return side if side <= LARGEST_UNCUT else round(side / 0.875)


def is_image(path: Path) -> bool:
    """Return whether a file has an image's name, and is none of the hidden ones that a Mac leaves beside it.

    A link that leads nowhere is an image that cannot be read, for whoever reads it to name.
    """
    if path.suffix.lower() not in IMAGES or path.name.startswith("."):
        return False
    return path.is_file() or (path.is_symlink() and not path.exists())


def open_rgb(path: Path) -> Image.Image:
    """Return a decoded RGB image, upright as its camera held it; 16 bits a pixel are scaled to 8.

    Raises:
        ValueError: the file cannot be read as an image, or holds numbers whose range is not known.
    """
    try:
        with Image.open(path) as image:
            sixteen_bits = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
            return _eight_bits(ImageOps.exif_transpose(image), sixteen_bits).convert("RGB")
    except Exception as error:  # whatever damaged bytes provoke in a decoder
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        reason = reason.removesuffix(f" {str(path)!r}")  # how Pillow ends, and the message begins with it
        raise ValueError(f"{path} cannot be read as an image ({reason})") from None


def shorter_side(path: Path) -> int | None:
    """Return the shorter side of an image in pixels, from its header; None where that cannot be read."""
    try:
        with Image.open(path) as image:
            return min(image.size)
    except Exception:  # as in open_rgb, which says why
        return None


def _eight_bits(image: Image.Image, sixteen_bits: bool) -> Image.Image:
    """The image without what ``convert("RGB")`` would cut off at white."""
    if sixteen_bits:
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range, save it with 8 or 16 bits a channel")
    return image
