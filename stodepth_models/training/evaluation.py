"""Evaluation of any weights on any data set."""

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from ..weights.preprocessing import saved_preprocessing
from ..weights.rebuild import saved_arguments
from ..weights.sources import Source, read_checkpoint, resolve_source
from .config import DataConfig, EvaluateConfig, ModelConfig
from .data.batches import EvaluationBatches
from .data.datasets import Data, load_data
from .errors import SettingsError
from .evaluation_page import write_page
from .predictions import PredictionRecorder, accuracy_interval
from .run.libraries import number_of_outputs
from .run.machine import make_accelerator
from .run.metrics import evaluate
from .run.model import build_model, check_model, weights_enum


def evaluate_weights(config: EvaluateConfig) -> dict[str, Any]:
    """Return top-1 and top-5 accuracy, negative log-likelihood, calibration error and images a second.

    ``top1_interval`` is the 95 % interval of top-1 accuracy. Weights that are published, or that a training run saved,
    bring along the builder's options and how images are prepared, but for what the settings give. Where the weights
    know names of their classes, the names decide which output stands for which class; else the order does.

    Raises:
        SettingsError: ``model.weights`` is missing, or the builder refuses the settings.
        ValueError: data or weights cannot be used, or the names of the classes do not match.
    """
    if config.model.weights is None:
        raise SettingsError("model.weights must name the weights to evaluate, got none")
    check_model(config.model)
    _make_folder(config.report)
    source = resolve_source(config.model.weights, weights_enum(config.model), config.model.name)
    if not isinstance(source, WeightsEnum):
        source = read_checkpoint(source)  # once: the settings and the model are made from what was read
    model_config = _built_as_saved(config.model, source)
    data_config = _prepared_as_in_training(config.data, source)
    accelerator = make_accelerator(config.cpu, config.precision)
    data = load_data(data_config, config.split)
    # The classes follow the weights: a classifier that starts afresh would be measured at chance.
    model = build_model(model_config, None, source).to(accelerator.device).eval()
    return _measure(model, data, config, accelerator)


def report(result: dict[str, Any], as_json: bool) -> str:
    """Return the figures as one line."""
    if as_json:
        return json.dumps(result)
    low, high = result["top1_interval"]
    line = (
        f"{result['model']} on {result['count']} {result['split']} images of {result['data']}: "
        f"top-1 {result['top1']:.2%} (95 % interval {low:.2%} to {high:.2%}), top-5 {result['top5']:.2%}, "
        f"NLL {result['nll']:.4f}, calibration error {result['ece']:.4f}, {result['images_per_second']:.0f} images/s"
    )
    if "report" in result:
        line += f"; classes and worst predictions: {result['report']}"
    return line


def _make_folder(folder: Path | None) -> None:
    """Make the folder of the page before the evaluation, which may take long."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"report must be a folder that can be written, got {folder} ({error.strerror})") from None


def _built_as_saved(config: ModelConfig, source: Source) -> ModelConfig:
    # What is a setting of its own changes no evaluation.
    settings = {field.name for field in dataclasses.fields(ModelConfig)}
    if config.is_of_library:
        return config  # the model is built from what the file says
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


def _outputs_of_classes(known: list[str], outputs: int, data: Data, config: EvaluateConfig) -> Tensor:
    """Return the output that stands for each class of the data set: by name where the weights know names."""
    classes = list(data.classes)
    weights, dataset = config.model.weights, f"data.name={config.data.name}"
    if config.classes_in_order or not known or known == classes or _is_imagenet(classes, outputs):
        if outputs < len(classes) or (known and outputs != len(classes)):
            raise ValueError(f"{weights} knows {outputs} classes, {dataset} has {len(classes)}")
        return torch.arange(len(classes))
    if not set(known).intersection(classes):
        raise ValueError(
            f"{weights} ({_some(known)}) and {dataset} ({_some(classes)}) have no class names in common: accuracy is "
            "meaningless; rename the folders, or add --classes_in_order true where the order is the same"
        )
    unknown = [name for name in classes if known.count(name) != 1]
    if unknown:
        count = f"{len(unknown)} of the {len(classes)} classes"
        raise ValueError(f"{weights} does not know {count} of {dataset}: {', '.join(unknown[:10])}")
    return torch.tensor([known.index(name) for name in classes])


def _is_imagenet(classes: list[str], outputs: int) -> bool:
    """Return whether all classes go by WordNet numbers: sorted, they have the order of all weights for ImageNet."""
    return len(classes) == outputs and all(re.fullmatch(r"n\d{8}", name) for name in classes)


def _names_of_outputs(known: list[str], number: int, outputs: Tensor, data: Data, in_order: bool) -> tuple[str, ...]:
    """Return names for the page: those of the weights, but where the settings say that they do not hold."""
    if known and not in_order:
        return tuple(known)
    names = [f"output {output}" for output in range(number)]
    for output, name in zip(outputs.tolist(), data.classes, strict=True):
        names[output] = name
    return tuple(names)


def _title(config: EvaluateConfig) -> str:
    return f"{config.model.name} on {_name_of(config.data)}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    if len(names) > 3:
        shown += ", ..."
    return shown


def _name_of(data: DataConfig) -> str:
    """What a reader calls the images: a folder, or a data set of the Hub, by its own name."""
    if data.label is None and data.name in ("folder", "hfds"):
        return data.root.name
    return data.label or data.name


def _measure(model: nn.Module, data: Data, config: EvaluateConfig, accelerator: Accelerator) -> dict[str, Any]:
    splits = {"test": data.test, "valid": data.valid, "train": data.train}
    split = splits[config.split]
    if split is None:
        others = " or ".join(f"--split {name}" for name in splits if name != config.split)
        raise ValueError(f"split={config.split}: the data set has no such images; try {others}")
    known, number = list(model.categories or ()), number_of_outputs(model)  # type: ignore[arg-type]
    outputs = _outputs_of_classes(known, number, data, config)
    batches = EvaluationBatches(
        data, split.relabel(outputs), config.batch_size, accelerator.device, config.data.workers,
        accelerator.process_index, accelerator.num_processes,
    )  # fmt: skip
    recorder = PredictionRecorder()
    start = time.perf_counter()
    figures = evaluate(model, batches, accelerator, recorder)
    seconds = time.perf_counter() - start
    right = round(figures.top1 * figures.count)
    result = {
        "model": config.model.name, "weights": config.model.weights,
        "data": _name_of(config.data), "split": config.split,
        **dataclasses.asdict(figures), "top1_interval": accuracy_interval(right, figures.count),
        "error_percent": figures.error, "images_per_second": figures.count / seconds,
    }  # fmt: skip
    if config.report is not None:
        names = _names_of_outputs(known, number, outputs, data, config.classes_in_order)
        predictions = recorder.gather(names, accelerator)
        if accelerator.is_main_process:
            page = write_page(config.report, _title(config), result, predictions, data, split)
            result["report"] = str(page)
    return result
