#!/usr/bin/env python3
"""Measure finished runs with batch norms that are estimated anew at full depth.

    python scripts/recalibrate_runs.py runs/map --images 4000

Writes ``recalibrated.json`` into the folder of each run: the figures on its validation and its test images of the
weights of the last epoch, after ``recalibrate_bn`` on so many training images, augmented as in training. Runs that
have the file are passed over.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import stodepth_models as sdm
from stodepth_models.training.commands.evaluate import data_of_run
from stodepth_models.training.config import ModelConfig
from stodepth_models.training.data.batches import EvaluationBatches, TrainBatches
from stodepth_models.training.data.datasets import Data, load_data
from stodepth_models.training.data.order import SampleOrder
from stodepth_models.training.exits import run_script
from stodepth_models.training.run.folder import RunFolder
from stodepth_models.training.run.machine import make_accelerator
from stodepth_models.training.run.metrics import evaluate
from stodepth_models.training.run.model import build_model

RECALIBRATED = "recalibrated.json"
_BATCH = 250


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of runs, at any depth, or a run")
    parser.add_argument("--images", type=int, default=4000, help="training images; of fewer, several epochs")
    return parser.parse_args()


def training_images(data: Data, images: int, seed: int) -> Iterator[Tensor]:
    """Yield batches of training images, augmented as in training; few of them come again in the next epoch."""
    assert data.train is not None
    count = len(data.train.labels)
    order = SampleOrder(count, min(_BATCH, count), seed)
    batches = TrainBatches(data, order, torch.device("cpu"), workers=0)
    seen = 0
    for epoch in itertools.count():
        for batch in batches.epoch(epoch):
            for x, _ in batch.parts:
                yield x
                seen += len(x)
        if seen >= images:
            return


def recalibrate(folder: RunFolder, images: int) -> dict[str, Any]:
    """Return the figures of the last weights of a run after new statistics."""
    settings = folder.saved()["settings"]
    data_config = data_of_run(str(folder.path))
    assert data_config is not None  # a finished run has its records
    data = load_data(data_config)
    model = build_model(ModelConfig(**{**settings["model"], "weights": str(folder.last)}), len(data.classes))
    sdm.recalibrate_bn(model.eval(), training_images(data, images, settings["seed"]))
    accelerator = make_accelerator(cpu=True, precision="no")
    found: dict[str, Any] = {"images": images}
    for name, split in (("valid", data.valid), ("test", data.test)):
        if split is not None:
            batches = EvaluationBatches(data, split, _BATCH, accelerator.device)
            found[name] = dataclasses.asdict(evaluate(model, batches, accelerator))
    return found


def main() -> None:
    """Parse, measure, write."""
    options = parse_arguments()
    for result in sorted(options.runs.rglob("result.json")):
        folder = RunFolder(result.parent)
        target = folder.path / RECALIBRATED
        if target.exists():
            continue
        found = recalibrate(folder, options.images)
        target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        error = {name: 100 * (1 - figures["top1"]) for name, figures in found.items() if name != "images"}
        print(f"{folder.path}: {', '.join(f'{name} error {value:.2f} %' for name, value in error.items())}", flush=True)


if __name__ == "__main__":
    run_script(main)
