"""Image files, as training, evaluation and prediction all read them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import first_line

logger = logging.getLogger("stodepth_models")

# Formats that Pillow decodes to pixels by itself: no vector graphics, no videos, no containers of scientific data.
_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TIFF", "WEBP")

Image.init()
# Suffixes that name an image and nothing else; .rgb and .bw, of SGI files, do not. A TGA file has no signature in its
# content, so that its suffix has to do.
_SUFFIXES = {suffix for suffix, name in Image.registered_extensions().items() if name in _FORMATS and name != "SGI"}
IMAGES = tuple(sorted({*_SUFFIXES, ".tga"}))

LARGEST_UNCUT = 64  # pixels a side

_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "__pycache__", "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
     "system volume information"}
)  # fmt: skip
_SYSTEM_FILES = frozenset({"desktop.ini", "thumbs.db", "ehthumbs.db"})

_UPRIGHT: dict[Any, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # EXIF tag

_LOOKED_AT = 100  # images a call of warn_of_unused_bits
_LEAST_BRIGHTEST = 2**14


def resized(side: int) -> int:
    """Return the shorter side that an image is scaled to before its middle is cut out; small images are used whole."""
    if side <= LARGEST_UNCUT:
        return side
    return round(side / 0.875)


def is_hidden(name: str) -> bool:
    """Return whether a name is one that programs and operating systems give to files and folders of their own."""
    return name.startswith(".") or name.casefold() in _SYSTEM_FOLDERS | _SYSTEM_FILES


def is_image(path: Path, is_file: bool = False) -> bool:
    """Return whether a file is an image by its suffix, or by its content where the suffix is unknown.

    Hidden files are none. A link that leads nowhere is one where its name says so: whoever reads it reports it.

    Args:
        path: of a file, a link or a folder.
        is_file: whether it is known to be a file; else the file system is read.
    """
    if is_hidden(path.name):
        return False
    if path.suffix.lower() in IMAGES:
        return is_file or path.is_file() or (path.is_symlink() and not path.exists())
    return (is_file or path.is_file()) and _has_signature(path)


def open_rgb(path: Path) -> Image.Image:
    """Return a decoded RGB image, upright as its camera held it; 16 bits a pixel are scaled to 8.

    Raises:
        ValueError: the file cannot be read as an image, or holds numbers whose range is not known.
    """
    try:
        with Image.open(path) as image:
            bits = _bits_of_grey(image)
            # Pillow turns TIFF images while it loads them, and says so only afterwards.
            image.load()
            turn = _turn(image)
            rgb = _eight_bits(image, bits).convert("RGB")
    except Exception as error:  # whatever damaged bytes provoke in a decoder
        reason = first_line(error)
        reason = reason.removesuffix(f" {str(path)!r}")  # how Pillow ends, and the message begins with it
        raise ValueError(f"{path} cannot be read as an image ({reason})") from None
    if turn is None:
        return rgb
    return rgb.transpose(turn)


def shorter_side(path: Path) -> int | None:
    """Return the shorter side of an image in pixels, from its header; None where that cannot be read."""
    try:
        with Image.open(path) as image:
            return min(image.size)
    except Exception:  # as in open_rgb, which reports it
        return None


def warn_of_unused_bits(paths: Sequence[Path]) -> None:
    """Log one line where images of 16 bits use a small part of their range, and would become dark and coarse.

    Args:
        paths: images; a sample of them is read.
    """
    step = max(1, len(paths) // _LOOKED_AT)
    brightest: dict[Path, int] = {}
    for path in paths[::step]:
        value = _brightest_of_sixteen_bits(path)
        if value is not None:
            brightest[path] = value
    if not brightest or max(brightest.values()) >= _LEAST_BRIGHTEST:
        return
    value = max(brightest.values())
    logger.warning(
        "images of 16 bits, such as %s, use values from 0 to %d of 65535: %d of 256 levels are left after scaling to "
        "8 bits; multiply their values so that they use the whole range",
        next(iter(brightest)), value, value // 256 + 1,
    )  # fmt: skip


def _has_signature(path: Path) -> bool:
    try:
        with Image.open(path, formats=_FORMATS):
            return True
    except Exception:  # most files are no images
        return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what makes an image upright; None too where its EXIF block cannot be read, though the pixels can."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    except Exception:  # whatever damaged bytes provoke in a parser
        return None


def _raw_mode(image: Image.Image) -> str:
    """Return how the pixels lie in the file, such as ``"I;16B"``; only before they are loaded."""
    if not image.tile:  # type: ignore[attr-defined]
        return ""
    return str(image.tile[0][3])  # type: ignore[attr-defined]


def _bits_of_grey(image: Image.Image) -> int:
    """Return the bits of a grey pixel that Pillow leaves as they are; 8 for all others."""
    if ";12" in _raw_mode(image):
        return 12
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
        return 16
    return 8


def _eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """Return the image without what ``convert("RGB")`` would cut off at white."""
    if bits > 8:
        return Image.fromarray((np.asarray(image) // 2 ** (bits - 8)).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range, save it with 8 or 16 bits a channel")
    return image


def _brightest_of_sixteen_bits(path: Path) -> int | None:
    """Return the largest value of an image of 16 bits a channel; None for other images."""
    try:
        with Image.open(path) as image:
            if _bits_of_grey(image) == 16:
                return int(np.asarray(image).max())
            # Of colours Pillow keeps the upper 8 bits.
            if ";16" in _raw_mode(image):
                return 256 * int(np.asarray(image.convert("RGB")).max()) + 255
    except Exception:  # as in open_rgb, which reports it
        return None
    return None
