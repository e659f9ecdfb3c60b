"""Data sets of the Hugging Face library, from the Hub or a folder: written once as folders of images."""

import hashlib
import logging
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import DataConfig
from ..errors import first_line

logger = logging.getLogger("stodepth_models")

_SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "val": "valid", "test": "test"}


@dataclass(frozen=True)
class _Columns:
    """The columns of a data set that hold the images and their labels.

    Attributes:
        image: name of the first.
        label: name of the second.
        classes: a folder's name for each label; one that is not among them, None or the Hub's -1, says that the label
            is unknown.
    """

    image: str
    label: str
    classes: Mapping[Any, str]


def written_as_folders(config: DataConfig) -> Path:
    """Return the folder that holds a data set's splits, with a folder of images for each class.

    Args:
        config: ``root`` is a name on the Hub, such as ``ylecun/mnist``, or a folder that ``load_dataset`` or
            ``load_from_disk`` reads; the images are written into ``cache``.

    Raises:
        ValueError: ``datasets`` is not installed, the data set cannot be read, or it is not one of classified images.
    """
    try:
        import datasets  # optional
    except ImportError:
        raise ValueError("data.name=hfds needs Hugging Face's library: pip install datasets") from None
    name = str(config.root)
    splits = _read(datasets, name)
    columns = _columns(datasets, splits, config)
    identity: list[Any] = [name, columns.image, columns.label]
    for split, rows in splits.items():
        files = [os.stat(part["filename"]) for part in rows.cache_files]
        identity.append([split, rows.num_rows, rows.cache_files, [(file.st_size, file.st_mtime_ns) for file in files]])
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    target = config.cache.expanduser() / f"{Path(name).name[:100]}-{digest}"
    if not target.is_dir():
        _write(splits, columns, datasets.Image(decode=False), name, target)
    return target


def _read(datasets: Any, name: str) -> dict[str, Any]:
    """Return the splits to train, validate and test on, by our names."""
    is_saved = any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json"))
    try:
        found = datasets.load_from_disk(name) if is_saved else datasets.load_dataset(name)
    except Exception as error:  # of the network, of parsers, of the library itself
        raise ValueError(f"data.root: {name} is no data set that Hugging Face reads ({first_line(error)})") from None
    if not isinstance(found, dict):
        found = {"train": found}  # one that was saved without splits
    splits = {_SPLITS[split]: rows for split, rows in found.items() if split in _SPLITS}
    if not splits:
        raise ValueError(f"data.root: {name} has no split train, validation or test, only {', '.join(found)}")
    return splits


def _columns(datasets: Any, splits: Mapping[str, Any], config: DataConfig) -> _Columns:
    features = next(iter(splits.values())).features
    image = _column(features, (datasets.Image,), config.input_key, "input_key", config.root)
    label = _column(features, (datasets.ClassLabel, datasets.Value), config.target_key, "target_key", config.root)
    if isinstance(features[label], datasets.ClassLabel):
        values: list[Any] = list(range(features[label].num_classes))
        texts = features[label].names
    else:
        seen = {value for rows in splits.values() for value in rows[label]}
        values = sorted(seen.difference([None]))
        texts = list(map(str, values))
    return _Columns(image, label, dict(zip(values, _folder_names(texts), strict=True)))


def _column(features: Mapping[str, Any], kinds: tuple[type, ...], given: str | None, key: str, root: Path) -> str:
    """The column that the caller has named, of one of these kinds; else the only one of the first kind."""
    if given is not None:
        if not isinstance(features.get(given), kinds):
            fitting = [column for column, feature in features.items() if isinstance(feature, kinds)]
            allowed = ", ".join(fitting) or "(none)"
            raise ValueError(f"data.{key} must be of the columns {allowed} of {root}, got {given}")
        return given
    kind = kinds[0]
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if len(found) == 1:
        return found[0]
    if found:
        what = f"{len(found)} columns of type {kind.__name__}, {', '.join(found)}"
    else:
        what = f"no column of type {kind.__name__}, only {', '.join(features)}"
    raise ValueError(f"data.root: {root} has {what}: choose one with data.{key}")


def _folder_names(texts: Sequence[str]) -> list[str]:
    """Return a folder's name for each class; none is hidden, and no two are one to a file system without case."""
    names: list[str] = []
    taken = set()
    for text in texts:
        name = text.replace(os.sep, "_")
        if not name or name.startswith("."):
            name = f"_{name}"
        while _alike(name) in taken:
            name += "_"
        taken.add(_alike(name))
        names.append(name)
    return names


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _write(splits: Mapping[str, Any], columns: _Columns, undecoded: Any, name: str, target: Path) -> None:
    """Write all splits; the folder appears once it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    try:
        for split, rows in splits.items():
            if columns.classes.keys().isdisjoint(rows[columns.label]):
                logger.warning("data.root: %s: the split %s has no labels and is left out", name, split)
                continue
            # The bytes as they are: decoded and encoded again, JPEG images would lose quality.
            for number, row in enumerate(rows.cast_column(columns.image, undecoded)):
                where = f"data.root: {name}: row {number} of {split}"
                _write_image(row[columns.image], row[columns.label], columns, partial / split, number, where)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_image(
    image: Mapping[str, Any] | None, label: Any, columns: _Columns, folder: Path, number: int, where: str
) -> None:
    if label not in columns.classes:
        raise ValueError(f"{where} has no label: remove it from the data set")
    if image is None:
        raise ValueError(f"{where} has no image: remove it from the data set")
    source = Path(image["path"] or "")  # of bytes it is a name; none: they are known by their content
    content = image["bytes"] or source.read_bytes()
    of_class = folder / columns.classes[label]
    of_class.mkdir(parents=True, exist_ok=True)
    (of_class / f"{number:08d}{source.suffix}").write_bytes(content)
