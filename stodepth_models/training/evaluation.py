"""Evaluation of any weights on any data set."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..sources import saved_preprocessing
from .config import DataConfig, EvaluateConfig
from .data import Data, load_data
from .loaders import EvaluationBatches
from .machine import make_accelerator
from .metrics import evaluate
from .models import build_model
from .outcome import SettingsError

__all__ = ["evaluate_weights", "report"]


def evaluate_weights(config: EvaluateConfig) -> dict[str, Any]:
    """Return top-1 and top-5 accuracy, negative log-likelihood, calibration error and images a second.

    Weights that a training run saved bring their own standardisation, unless ``data.mean`` is given.

    Raises:
        SettingsError: ``model.weights`` is missing.
        ValueError: data or weights cannot be used, or the classes do not match.
    """
    if config.model.weights is None:
        raise SettingsError("model.weights must name the weights to evaluate, got none")
    data_config = _standardised_as_in_training(config.data, config.model.weights)
    accelerator = make_accelerator(config.cpu, config.precision)
    data = load_data(data_config, training=False)
    # The classes follow the weights: a classifier that starts afresh would be measured at chance.
    model = build_model(config.model, None).to(accelerator.device).eval()
    _check_classes(len(model.state_dict()["fc.weight"]), data, config)
    return _measure(model, data, config, accelerator)


def report(result: dict[str, Any], as_json: bool) -> str:
    """Return the figures as one line."""
    if as_json:
        return json.dumps(result)
    return (
        f"{result['model']} on {result['count']} {result['split']} images of {result['data']}: "
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, NLL {result['nll']:.4f}, "
        f"calibration error {result['ece']:.4f}, {result['images_per_second']:.0f} images/s"
    )


def _standardised_as_in_training(config: DataConfig, weights: str) -> DataConfig:
    if config.mean is not None or not Path(weights).is_file() or not weights.endswith(".safetensors"):
        return config
    saved = saved_preprocessing(Path(weights))
    if saved is None:
        return config
    return dataclasses.replace(config, mean=saved.mean, std=saved.std, image_size=config.image_size or saved.side)


def _check_classes(outputs: int, data: Data, config: EvaluateConfig) -> None:
    if outputs < len(data.classes):
        raise ValueError(
            f"{config.model.weights} knows {outputs} classes, data.name={config.data.name} has {len(data.classes)}"
        )


def _measure(model: Any, data: Data, config: EvaluateConfig, accelerator: Accelerator) -> dict[str, Any]:
    split = {"test": data.test, "valid": data.valid, "train": data.train}[config.split]
    if split is None:
        raise ValueError(f"split={config.split}: the data set has no such images")
    batches = EvaluationBatches(
        data, split, config.batch_size, accelerator.device, config.data.workers,
        accelerator.process_index, accelerator.num_processes,
    )  # fmt: skip
    start = time.perf_counter()
    figures = evaluate(model, batches, accelerator)
    seconds = time.perf_counter() - start
    return {
        "model": config.model.name, "weights": config.model.weights, "data": config.data.name, "split": config.split,
        **dataclasses.asdict(figures), "error_percent": figures.error, "images_per_second": figures.count / seconds,
    }  # fmt: skip
