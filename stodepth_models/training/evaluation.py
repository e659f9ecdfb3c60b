"""Evaluation of any weights on any data set."""

import dataclasses
import json
import logging
import time
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from ..weights.hub import saved_arguments
from ..weights.sources import Source, read_checkpoint, resolve_source, saved_preprocessing
from .config import DataConfig, EvaluateConfig, ModelConfig
from .data.batches import EvaluationBatches
from .data.datasets import Data, load_data
from .errors import SettingsError
from .run.machine import make_accelerator
from .run.metrics import evaluate
from .run.model import build_model, check_model

logger = logging.getLogger("stodepth_models")


def evaluate_weights(config: EvaluateConfig) -> dict[str, Any]:
    """Return top-1 and top-5 accuracy, negative log-likelihood, calibration error and images a second.

    Weights that are published, or that a training run saved, bring along the builder's options and how images are
    prepared, but for what the settings give. Where the weights know their classes by the names that the data set uses,
    the names decide which output stands for which class; else the order does.

    Raises:
        SettingsError: ``model.weights`` is missing, or the builder refuses the settings.
        ValueError: data or weights cannot be used, or the classes do not match.
    """
    if config.model.weights is None:
        raise SettingsError("model.weights must name the weights to evaluate, got none")
    check_model(config.model)
    source = resolve_source(config.model.weights, get_model_weights(config.model.name), config.model.name)
    if not isinstance(source, WeightsEnum):
        source = read_checkpoint(source)  # once: the settings and the model are made from what was read
    model_config = _built_as_saved(config.model, source)
    data_config = _prepared_as_in_training(config.data, source)
    accelerator = make_accelerator(config.cpu, config.precision)
    data = load_data(data_config, config.split)
    # The classes follow the weights: a classifier that starts afresh would be measured at chance.
    model = build_model(model_config, None, source).to(accelerator.device).eval()
    return _measure(model, data, _outputs_of_classes(model, data, config), config, accelerator)


def report(result: dict[str, Any], as_json: bool) -> str:
    """Return the figures as one line."""
    if as_json:
        return json.dumps(result)
    return (
        f"{result['model']} on {result['count']} {result['split']} images of {result['data']}: "
        f"top-1 {result['top1']:.2%}, top-5 {result['top5']:.2%}, NLL {result['nll']:.4f}, "
        f"calibration error {result['ece']:.4f}, {result['images_per_second']:.0f} images/s"
    )


def _built_as_saved(config: ModelConfig, source: Source) -> ModelConfig:
    # What is a setting of its own changes no evaluation.
    settings = {field.name for field in dataclasses.fields(ModelConfig)}
    saved = saved_arguments(config.name, source)
    options = {key: value for key, value in saved.items() if key not in settings}
    return dataclasses.replace(config, options={**options, **config.options})


def _prepared_as_in_training(config: DataConfig, source: Source) -> DataConfig:
    saved = saved_preprocessing(source)
    if saved is None:
        return config
    resize = config.resize
    if resize is None and config.image_size in (None, saved.side):
        resize = saved.resize
    return dataclasses.replace(
        config, mean=config.mean or saved.mean, std=config.std or saved.std,
        image_size=config.image_size or saved.side, resize=resize,
    )  # fmt: skip


def _outputs_of_classes(model: nn.Module, data: Data, config: EvaluateConfig) -> Tensor:
    """Index of the output that stands for each class of the data set, by name where the names are of one kind."""
    known = list(model.categories or ())  # type: ignore[arg-type]
    if known == list(data.classes) or not set(known).intersection(data.classes):
        return _outputs_in_order(model, known, data, config)
    unknown = [name for name in data.classes if known.count(name) != 1]
    if unknown:
        count = f"{len(unknown)} of the {len(data.classes)} classes"
        raise ValueError(
            f"{config.model.weights} does not know {count} of data.name={config.data.name}: {', '.join(unknown[:10])}"
        )
    return torch.tensor([known.index(name) for name in data.classes])


def _outputs_in_order(model: nn.Module, known: list[str], data: Data, config: EvaluateConfig) -> Tensor:
    """Pair outputs and classes in their order; where the weights know names, the number of classes has to be theirs."""
    outputs, classes = len(model.state_dict()["fc.weight"]), len(data.classes)
    weights, dataset = config.model.weights, f"data.name={config.data.name}"
    if outputs < classes or (known and outputs != classes):
        by_other_names = " by other names" if known else ""
        raise ValueError(f"{weights} knows {outputs} classes, {dataset} has {classes}{by_other_names}")
    if known and known != list(data.classes):
        logger.warning(
            "%s knows no class of %s by name, its first is %r and not %r: outputs and classes are paired in order",
            weights, dataset, known[0], data.classes[0],
        )  # fmt: skip
    return torch.arange(classes)


def _measure(
    model: nn.Module, data: Data, outputs: Tensor, config: EvaluateConfig, accelerator: Accelerator
) -> dict[str, Any]:
    split = {"test": data.test, "valid": data.valid, "train": data.train}[config.split]
    if split is None:
        raise ValueError(f"split={config.split}: the data set has no such images")
    batches = EvaluationBatches(
        data, split.relabel(outputs), config.batch_size, accelerator.device, config.data.workers,
        accelerator.process_index, accelerator.num_processes,
    )  # fmt: skip
    start = time.perf_counter()
    figures = evaluate(model, batches, accelerator)
    seconds = time.perf_counter() - start
    return {
        "model": config.model.name, "weights": config.model.weights, "data": config.data.name, "split": config.split,
        **dataclasses.asdict(figures), "error_percent": figures.error, "images_per_second": figures.count / seconds,
    }  # fmt: skip
