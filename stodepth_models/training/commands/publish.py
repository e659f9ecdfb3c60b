"""Publish what a run has trained: its best weights, their entry in the index, and the tables made from the index.

    stodepth publish runs/resnet20 --name CIFAR10_JPEG_V1 --default --data cifar10-jpeg.tar.xz \\
        --recipe configs/zoo_cifar10.yaml --commit cf76ef6 --machine "2 CPU cores" --images "32x32 photographs."
    stodepth publish  # the tables alone, after an edit of the index
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ...weights.published import shipped_folder
from ..errors import SettingsError
from ..flags import Parser
from ..index_tables import model_table, training_table
from ..publish import Origin, publish
from ..report.tables import fill_in

TABLES = {"models": model_table, "training": training_table}
PAGE = "weights/README.md"


def main(words: Sequence[str]) -> None:
    """Parse, publish, and rewrite the tables."""
    options = _parse(words)
    root = _checkout()
    if options.run is not None:
        if not (root / options.recipe).is_file():
            raise SettingsError(f"--recipe: there is no file {options.recipe} in {root}")
        origin = Origin(options.recipe, options.commit, options.machine, options.images)
        entry = publish(options.run, root / "weights", options.name, options.default, options.data, origin)
        print(f"weights/{entry['file']}: top-1 {entry['acc@1']:.2f} % on {entry['dataset']}")
    entries = json.loads((root / "weights" / "index.json").read_text(encoding="utf-8"))["weights"]
    text = (root / PAGE).read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = fill_in(text, name, table(entries))
    (root / PAGE).write_text(text, encoding="utf-8")


def _checkout() -> Path:
    """The repository whose ``weights/`` this package reads, which an installed copy has none of."""
    folder = shipped_folder()
    if not (folder / "README.md").is_file() or folder.name != "weights":
        raise SettingsError(f"stodepth publish writes into a checkout: run it from one, not from {folder.parent}")
    return folder.parent


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser("publish", __doc__ or "")
    parser.add_argument("run", nargs="?", type=Path, help="Folder of a finished run.")
    parser.add_argument("--name", help="Name of the weights, such as CIFAR10_JPEG_V1.")
    parser.add_argument("--default", action="store_true", help="These are what pretrained=True loads.")
    parser.add_argument("--data", "--root", type=Path, help="Data set of the run: its test images are evaluated anew.")
    parser.add_argument("--recipe", help="File of settings of the run, in this repository.")
    parser.add_argument("--commit", help="Commit that the run was trained with.")
    parser.add_argument("--machine", help="Machine that the run was trained on.")
    parser.add_argument("--images", help="A sentence about the data set.")
    options = parser.parse_words(words)
    needed = ("name", "data", "recipe", "commit", "machine", "images")
    missing = [name for name in needed if getattr(options, name) is None]
    if options.run is not None and missing:
        parser.error(f"a run needs --{' --'.join(missing)}")
    if options.run is None and (options.default or len(missing) < len(needed)):
        parser.error("the folder of a run is missing: name it first, or leave out all flags to rewrite the tables")
    return options
