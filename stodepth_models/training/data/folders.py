"""Folders of images: ``train/``, ``valid/``, ``test/``, with a folder a class in each; or the classes alone."""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ...checks import no_such_path
from .archives import ARCHIVES, unpacked
from .extraction import Limits
from .images import is_hidden, is_image
from .splits import Files

logger = logging.getLogger("stodepth_models")

# Names that a split's folder may have, in any case of letters.
_SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation"),
    "test": ("test", "testing"),
}
_MAX_KINDS_SHOWN = 8


def find_root(root: Path, cache: Path, limits: Limits) -> Path:
    """Return the folder that holds the splits: ``root``, what an archive unpacks to, or its one inner folder.

    A folder of classes alone, as torchvision's ``ImageFolder`` takes it, is a training split.

    Raises:
        ValueError: ``root`` does not exist, is no folder and no archive, or has neither splits nor classes.
    """
    if not root.exists():
        raise ValueError(f"data.root: {no_such_path(root)}: give the folder or archive of the images")
    if root.is_file():
        if not root.name.lower().endswith(ARCHIVES):
            raise ValueError(f"data.root: {root} is neither a folder nor an archive ({', '.join(ARCHIVES)})")
        root = unpacked(root, cache, limits)
    if not root.is_dir():
        raise ValueError(f"data.root: {root} is neither a file nor a folder")  # a named pipe or a device
    # Archives often hold one folder with everything in it.
    if not _split_folders(root) and len(_folders(root)) == 1:
        root = _folders(root)[0]
    if not _split_folders(root):
        _refuse_empty_classes(root)
        raise ValueError(
            f"data.root: {root} has no train/, valid/ or test/ folder and no folders of images, it {_contents(root)}: "
            "put a folder of images for each class into train/"
        )
    return root


def scan(root: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Return the files of each split that exists, and the names of the classes.

    Classes are sorted by name, or by number where all names are whole numbers. What is passed over is logged in one
    line.

    Args:
        root: folder that holds the splits.

    Raises:
        ValueError: a class or a split without images, a single class, or a split with a class that ``train`` does not
            have.
    """
    folders = _split_folders(root)
    reference = folders.get("train") or next(iter(folders.values()))
    classes = _class_names(reference)
    if len(classes) < 2:
        raise ValueError(f"{reference} needs a folder for each of two or more classes, got {list(classes)}")
    passed_over: Counter[str] = Counter()
    splits = {}
    for split, folder in folders.items():
        of_class = _folders_of_classes(folder, classes, reference)
        splits[split] = _scan_split(folder, of_class, passed_over)
    if passed_over:
        kinds = [f"{count} {kind}" for kind, count in passed_over.most_common(_MAX_KINDS_SHOWN)]
        logger.warning(
            "data.root: %s: passed over what is no image of a class: %s",
            root,
            ", ".join(kinds),
        )
    return splits, classes


def images_below(folder: Path, passed_over: Counter[str]) -> list[Path]:
    """Return the images in a folder and in all folders below it, sorted.

    Links to folders are followed; each real folder is entered once. Hidden folders are not entered.

    Args:
        folder: where to look.
        passed_over: number of files and folders that are no images, by kind; counted up.

    Raises:
        ValueError: a folder cannot be read.
    """
    try:
        found = list(_walk(folder, frozenset(), set(), passed_over))
    except OSError as error:
        raise ValueError(f"{error.filename or folder} cannot be read ({error.strerror}): change its rights") from None
    return sorted(found, key=lambda path: path.parts)


def _split_folders(root: Path) -> dict[str, Path]:
    folders = _folders(root)
    found: dict[str, Path] = {}
    for split, names in _SPLITS.items():
        for folder in folders:
            if folder.name.lower() in names:
                found.setdefault(split, folder)
    if not found and _holds_classes(folders):
        return {"train": root}
    return found


def _holds_classes(folders: Sequence[Path]) -> bool:
    """Return whether all of two or more folders hold images themselves: a data set further down does not."""
    if len(folders) < 2:
        return False
    return all(map(_holds_images, folders))


def _holds_images(folder: Path) -> bool:
    return any(is_image(path, path.is_file()) for path in folder.iterdir())


def _contents(root: Path) -> str:
    """Say what a folder holds that is not laid out as a data set."""
    folders = [path.name for path in _folders(root)]
    if folders:
        return f"holds {', '.join(folders[:5])}"
    if next(root.iterdir(), None) is None:
        return "is empty"
    return "holds files and no folders"


def _refuse_empty_classes(root: Path) -> None:
    """Say which folders are not those of classes, where others are."""
    without = [folder.name for folder in _folders(root) if not _holds_images(folder)]
    if len(without) < len(_folders(root)):
        raise ValueError(
            f"data.root: {root} has folders of images, but none lie in {', '.join(without[:5])} itself: remove what is "
            "no class, or put the folders of all classes into train/"
        )


def _folders(folder: Path) -> list[Path]:
    found = []
    for path in folder.iterdir():
        if path.is_dir() and not is_hidden(path.name):
            found.append(path)
    return sorted(found)


def _name(folder: Path) -> str:
    """Return the name of a class: macOS writes its letters in another Unicode form than other systems."""
    return unicodedata.normalize("NFC", folder.name)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted({_name(path) for path in _folders(folder)})
    if all(map(_is_number, names)):
        names.sort(key=int)  # "10" comes behind "9"
    return tuple(names)


def _folders_of_classes(folder: Path, classes: Sequence[str], reference: Path) -> list[list[Path]]:
    """Return the folders of each class in a split; a class may have none, or two in two Unicode forms."""
    labels = {}
    numbers = {}
    for place, name in enumerate(classes):
        labels[name] = place
        if _is_number(name):
            numbers[int(name)] = place
    found: list[list[Path]] = [[] for _ in classes]
    unknown: list[str] = []
    for path in _folders(folder):
        name = _name(path)
        label = labels.get(name)
        # One split may write 7 where the other writes 007.
        if label is None and _is_number(name) and len(numbers) == len(classes):
            label = numbers.get(int(name))
        if label is None:
            unknown.append(path.name)
        else:
            found[label].append(path)
    if unknown:
        raise ValueError(f"{folder} has classes that {reference} has not: {', '.join(unknown)}")
    return found


def _scan_split(folder: Path, of_class: list[list[Path]], passed_over: Counter[str]) -> Files:
    for path in folder.iterdir():
        if path.is_file() and not is_hidden(path.name):
            passed_over[f"files in {folder.name}/ itself"] += 1
    paths: list[Path] = []
    labels: list[int] = []
    for label, folders in enumerate(of_class):
        others: Counter[str] = Counter()
        files = []
        for place in folders:
            files += images_below(place, others)
        if folders and not files:
            beside = ""
            for kind, count in others.most_common(1):
                beside = f", only {count} {kind}"
            raise ValueError(f"{folders[0]} holds no image{beside}: remove the class or fill its folder")
        passed_over += others
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise ValueError(f"{folder} holds no image: remove it or fill it")
    return Files(tuple(paths), torch.tensor(labels, dtype=torch.int64), folder.parent)


def _walk(folder: Path, above: frozenset[Path], entered: set[Path], passed_over: Counter[str]) -> Iterator[Path]:
    """Yield the images in a folder and below it.

    Args:
        folder: where to look.
        above: real folders that hold the present one, through links or not: a link to one of them leads in a circle.
        entered: real folders that have been entered; more are added.
        passed_over: counted up.
    """
    real = folder.resolve()
    if real in above:
        passed_over["links to a folder above"] += 1
        return
    if real in entered:
        return
    entered.add(real)
    above |= {real, *real.parents}
    below = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        # The entry knows its type; asking the file system again takes minutes for a million files on a server.
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and path.is_dir()):
            below.append(path)
        elif is_image(path, entry.is_file(follow_symlinks=False)):
            yield path
        elif not is_hidden(path.name):
            kind = "files without suffix"
            if path.suffix:
                kind = f"*{path.suffix.lower()}"
            passed_over[kind] += 1
    # Real folders come before links, so that their own names are the ones that count.
    for path in sorted(below, key=lambda path: (path.is_symlink(), path.name)):
        if is_hidden(path.name):
            passed_over[f"{path.name}/"] += 1
        else:
            yield from _walk(path, above, entered, passed_over)
