#!/usr/bin/env python3
"""Measure finished runs with batch norms that are estimated anew at full depth.

    python scripts/recalibrate_runs.py runs/map -o docs/map/recalibrated.json

Writes the figures, on the validation and the test images of each run, of the weights of its last epoch after
``recalibrate_bn`` on training images that are augmented as in training. Runs that the file knows are passed over.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import stodepth_models as sdm
from stodepth_models.training.commands.evaluate import data_of_run
from stodepth_models.training.config import ModelConfig
from stodepth_models.training.data.batches import EvaluationBatches, augmented_images
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.exits import run_script
from stodepth_models.training.run.folder import RunFolder
from stodepth_models.training.run.machine import make_accelerator
from stodepth_models.training.run.metrics import evaluate
from stodepth_models.training.run.model import build_model

_BATCH = 250


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of runs, at any depth, or a run")
    parser.add_argument("--images", type=int, default=4000, help="training images; of fewer, several epochs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file of the figures by run")
    return parser.parse_args()


def recalibrate(folder: RunFolder, images: int) -> dict[str, Any]:
    """Return the figures of the last weights of a run after new statistics."""
    settings = folder.saved()["settings"]
    data_config = data_of_run(str(folder.path))
    assert data_config is not None  # a finished run has its records
    data = load_data(data_config)
    model = build_model(ModelConfig(**{**settings["model"], "weights": str(folder.last)}), len(data.classes))
    sdm.recalibrate_bn(model.eval(), augmented_images(data, images, settings["seed"]))
    accelerator = make_accelerator(cpu=True, precision="no")
    found: dict[str, Any] = {"images": images}
    for name, split in (("valid", data.valid), ("test", data.test)):
        assert split is not None
        figures = evaluate(model, EvaluationBatches(data, split, _BATCH, accelerator.device), accelerator)
        found[name] = {"top1": figures.top1, "nll": round(figures.nll, 5), "ece": round(figures.ece, 5)}
    return found


def main() -> None:
    """Parse, measure, write."""
    options = parse_arguments()
    known: dict[str, Any] = {}
    if options.output.exists():
        known = json.loads(options.output.read_text(encoding="utf-8"))
    for result in sorted(options.runs.rglob("result.json")):
        name = result.parent.relative_to(options.runs).as_posix()
        if name in known:
            continue
        known[name] = recalibrate(RunFolder(result.parent), options.images)
        options.output.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: test error {100 * (1 - known[name]['test']['top1']):.2f} %", flush=True)


if __name__ == "__main__":
    run_script(main)
