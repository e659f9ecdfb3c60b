"""Data sets of the Hugging Face library, from the Hub or a folder: written once as folders of images."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..errors import first_line

_SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "val": "valid", "test": "test"}


def written_as_folders(name: str, cache: Path) -> Path:
    """Return the folder that holds a data set's splits, with a folder of images for each class.

    Args:
        name: on the Hub, such as ``ylecun/mnist``, or a folder that ``load_dataset`` or ``load_from_disk`` reads.
        cache: folder that it is written into.

    Raises:
        ValueError: ``datasets`` is not installed, the data set cannot be read, or it is not one of classified images.
    """
    try:
        import datasets  # optional
    except ImportError:
        raise ValueError("data.name=hfds needs Hugging Face's library: pip install datasets") from None
    try:
        is_saved = (Path(name) / "dataset_dict.json").is_file()
        splits = datasets.load_from_disk(name) if is_saved else datasets.load_dataset(name)
    except Exception as error:  # of the network, of parsers, of the library itself
        raise ValueError(f"data.root: {name} is no data set that Hugging Face reads ({first_line(error)})") from None
    if not isinstance(splits, dict):
        raise ValueError(f"data.root: {name} has no splits: save a DatasetDict with train and test")
    identity = f"{name} {[(split, rows.num_rows, rows.cache_files) for split, rows in splits.items()]}"
    stem = Path(name).name[:100]
    target = cache.expanduser() / f"{stem}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if not target.is_dir():
        _write(splits, datasets, name, target)
    return target


def _write(splits: Any, datasets: Any, name: str, target: Path) -> None:
    """Write all splits; the folder appears once it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    try:
        for split in _SPLITS.keys() & splits.keys():
            rows = splits[split]
            image, label = (_column(rows, kind, name) for kind in (datasets.Image, datasets.ClassLabel))
            classes = [partial / _SPLITS[split] / text.replace(os.sep, "_") for text in rows.features[label].names]
            for path in classes:
                path.mkdir(parents=True)
            # The bytes as they are: decoded and encoded again, JPEG images would lose quality.
            for number, row in enumerate(rows.cast_column(image, datasets.Image(decode=False))):
                source = Path(row[image]["path"] or "")  # of the bytes it is a name; none: known by their content
                content = row[image]["bytes"] or source.read_bytes()
                (classes[row[label]] / f"{number:08d}{source.suffix}").write_bytes(content)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _column(rows: Any, kind: type, name: str) -> str:
    for column, feature in rows.features.items():
        if isinstance(feature, kind):
            return column
    raise ValueError(f"data.root: {name} has no column of type {kind.__name__}, only {', '.join(rows.features)}")
