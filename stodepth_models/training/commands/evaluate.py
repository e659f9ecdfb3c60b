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
    settings = as_settings(words, setting_types(EvaluateConfig))
    if not any(setting.startswith(("--data", "--config")) for setting in settings):
        config = dataclasses.replace(config, data=data_of_run(config.model.weights) or config.data)
    print(report(evaluate_weights(config), config.json))


def data_of_run(weights: str | None) -> DataConfig | None:
    """Return the data set of the run whose folder, or file, the weights are; None where they are of no run."""
    path = Path(weights or "").expanduser()
    folder = RunFolder(path if path.is_dir() else path.parent)
    if weights is None or not (folder.config.is_file() and folder.metrics.is_file()):
        return None
    saved = folder.saved()["settings"]["data"]
    return DataConfig(**{**saved, "root": Path(saved["root"]), "cache": Path(saved["cache"])})
