"""Which builder the weights on a command line belong to, so that nobody has to name both."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torchvision.models import WeightsEnum, get_model, get_model_weights

from ..weights.checkpoint import Checkpoint
from ..weights.config import config_of
from ..weights.guess import guess_builder
from ..weights.rebuild import saved_arguments
from ..weights.sources import read_checkpoint, resolve_source
from ..zoo import SUFFIX, builder_names
from .errors import SettingsError
from .model_config import LIBRARIES, ModelConfig


def builder_of(weights: str, default: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return the name of a builder, and the options without which the weights would not fit.

    Args:
        weights: name, path, folder, URL or ``hf://`` address.
        default: builder that is taken where weights of this name are published for it.

    Raises:
        SettingsError: weights of this name are published for several builders, or fit no builder.
        ValueError: the source cannot be read.
    """
    owners = [name for name in builder_names() if weights in get_model_weights(name).__members__]
    if owners and not Path(weights).exists():
        return _only(owners, weights, default), {}
    source = resolve_source(weights, None, "a model that is not named")
    if isinstance(source, WeightsEnum):
        owners = [name for name in builder_names() if isinstance(source, get_model_weights(name))]
        return _only(owners, weights, default), {}
    checkpoint = read_checkpoint(source)
    if checkpoint.config is not None:
        return checkpoint.config["builder"], _saved_options(checkpoint)
    guess = guess_builder(checkpoint.state_dict)
    if guess is None:
        raise SettingsError(f"{checkpoint.name} matches no builder: name it with --model to see what differs")
    return guess


def _saved_options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the options that differ from the defaults of the builder and are no settings of their own."""
    config = checkpoint.config or {}
    if config["builder"].startswith(LIBRARIES):
        return dict(config.get("options", {}))
    saved = saved_arguments(config["builder"], checkpoint)
    settings = {field.name for field in dataclasses.fields(ModelConfig)}
    with torch.device("meta"):
        usual = config_of(get_model(config["builder"]))
    return {key: value for key, value in saved.items() if key not in settings and value != usual.get(key)}


def _only(owners: list[str], weights: str, default: str | None) -> str:
    if default in owners:
        return default
    if len(owners) == 1:
        return owners[0]
    names = ", ".join(name.removesuffix(SUFFIX) for name in owners) or "no model of the zoo"
    raise SettingsError(f"{weights} are weights of {names}: say which with --model")
