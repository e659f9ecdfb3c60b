"""Folders of images: ``train/``, ``valid/``, ``test/``, with a folder a class in each."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .archives import ARCHIVES, unpacked
from .images import is_image, open_rgb
from .splits import Files

_SPLITS = {"train": ("train", "training"), "valid": ("valid", "val", "validation"), "test": ("test",)}


def find_root(root: Path, cache: Path) -> Path:
    """Return the folder that holds the splits: ``root``, what an archive unpacks to, or its one inner folder.

    Raises:
        ValueError: ``root`` does not exist, is no folder and no archive, or has no split.
    """
    if not root.exists():
        raise ValueError(f"data.root: {root} does not exist")
    if root.is_file():
        if not root.name.endswith(ARCHIVES):
            raise ValueError(f"data.root: {root} is neither a folder nor an archive ({', '.join(ARCHIVES)})")
        root = unpacked(root, cache)
    inside = [folder for folder in _folders(root) if folder.name != "__MACOSX"]  # beside what Finder packs
    if not _split_folders(root) and len(inside) == 1:
        root = inside[0]
    if not _split_folders(root):
        found = ", ".join(path.name for path in inside[:5]) or "no folder at all"
        raise ValueError(
            f"data.root: {root} has no train/, valid/ or test/ folder, but {found}: "
            "put the folders of the classes into train/"
        )
    return root


def scan(root: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Return the files of each split that exists, and the names of the classes.

    Args:
        root: folder that holds the splits.

    Raises:
        ValueError: a class or a split without images, a single class, or a split with a class that ``train`` does not
            have.
    """
    folders = _split_folders(root)
    reference = folders.get("train") or next(iter(folders.values()))
    classes = tuple(path.name for path in _folders(reference))
    if len(classes) < 2:
        raise ValueError(f"{reference} needs a folder for each of two or more classes, got {list(classes)}")
    splits = {}
    for split, folder in folders.items():
        unknown = [path.name for path in _folders(folder) if path.name not in classes]
        if unknown:
            raise ValueError(f"{folder} has classes that {reference} has not: {', '.join(unknown)}")
        splits[split] = _scan_split(folder, classes)
        if not splits[split].paths:
            raise ValueError(f"{folder} holds no image: remove it or fill it")
    return splits, classes


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


def decode(files: Files, side: int, unreadable: str) -> tuple[Tensor, Tensor]:
    """Return images ``(N, side, side, 3)``, uint8, and labels ``(N,)``.

    Args:
        files: what to read; an image of another size is scaled on its shorter side and cut in the middle.
        side: height and width in pixels.
        unreadable: ``"stop"`` or ``"skip"``.

    Raises:
        ValueError: an image cannot be read, and ``unreadable`` is ``"stop"``; or none of a class can.
    """
    images = torch.empty(len(files.paths), side, side, 3, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        errors = list(pool.map(_decode_into, images, files.paths, repeat(side)))
    readable = _readable(files, errors, unreadable)
    return (images, files.labels) if all(readable) else (images[readable], files.labels[readable])


def without_unreadable(files: Files, unreadable: str) -> Files:
    """Return the files that can be decoded; reads every one of them.

    Raises:
        ValueError: an image cannot be read, and ``unreadable`` is ``"stop"``; or none of a class can.
    """
    with ThreadPoolExecutor() as pool:
        readable = _readable(files, list(pool.map(_error_of, files.paths)), unreadable)
    return files.select(readable)


def _split_folders(root: Path) -> dict[str, Path]:
    found = {split: [root / name for name in names if (root / name).is_dir()] for split, names in _SPLITS.items()}
    return {split: paths[0] for split, paths in found.items() if paths}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scan_split(folder: Path, classes: Sequence[str]) -> Files:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = [path for path in sorted((folder / name).rglob("*")) if is_image(path)]
        if not files and (folder / name).is_dir():
            raise ValueError(f"{folder / name} holds no image: remove the class or fill its folder")
        paths += files
        labels += [label] * len(files)
    return Files(tuple(paths), torch.tensor(labels, dtype=torch.int64), folder.parent)


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
