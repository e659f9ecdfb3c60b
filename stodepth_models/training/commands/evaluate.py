"""``stodepth evaluate``: the accuracy of weights on a data set."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..cli import parse
from ..config import DataConfig, EvaluateConfig
from ..evaluation import evaluate_weights, report
from ..run.folder import RunFolder
from ..settings import as_settings, setting_types

DESCRIPTION = """Measure the accuracy of weights on a data set.

    stodepth evaluate --weights runs/pets              # on the test images of the run
    stodepth evaluate --weights runs/pets --data cats/

The end of a name suffices where no other ends so: --weights for --model.weights; - and _ are alike."""


def main(words: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    config = parse(EvaluateConfig, words, DESCRIPTION, "evaluate")
    given = []
    for word in as_settings(words, setting_types(EvaluateConfig)):
        given.append(word.removeprefix("--").partition("=")[0])
    images = data_of_run(config.model.weights)
    if images is not None and not {"config", "data", "data.name"}.intersection(given):
        config = dataclasses.replace(config, data=_changed(images, config.data, given))
    print(report(evaluate_weights(config), config.json))


def _changed(images: DataConfig, typed: DataConfig, given: Sequence[str]) -> DataConfig:
    """Return the data set of a run with the settings that are given, such as ``data.image_size``."""
    changes = {}
    for name in given:
        if name.startswith("data."):
            setting = name.split(".")[1]
            changes[setting] = getattr(typed, setting)
    return dataclasses.replace(images, **changes)


def data_of_run(weights: str | None) -> DataConfig | None:
    """Return the data set of the run whose folder, or file, the weights are; None where they are of no run."""
    path = Path(weights or "").expanduser()
    folder = RunFolder(path if path.is_dir() else path.parent)
    if weights is None or not (folder.config.is_file() and folder.metrics.is_file()):
        return None
    saved = folder.saved()["settings"]["data"]
    return DataConfig(**{**saved, "root": Path(saved["root"]), "cache": Path(saved["cache"])})
