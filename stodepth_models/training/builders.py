"""Which builder the weights on a command line belong to, so that nobody has to name both."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torchvision.models import WeightsEnum, get_model, get_model_weights

from ..checks import did_you_mean
from ..weights.checkpoint import Checkpoint
from ..weights.config import config_of
from ..weights.guess import guess_builder
from ..weights.names import other_project
from ..weights.rebuild import saved_arguments
from ..weights.sources import read_checkpoint, resolve_source
from ..zoo import SUFFIX, builder_names
from .errors import SettingsError
from .model_config import LIBRARIES, PRETRAINED, ModelConfig


@dataclass(frozen=True)
class Owner:
    """The builder that weights belong to.

    Attributes:
        name: of the builder.
        options: its arguments without which the weights would not fit.
        is_saved: whether the weights name it themselves; else it has their names and shapes.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    is_saved: bool = True


def builder_of(weights: str, default: str | None = None) -> Owner:
    """Return the builder that weights belong to.

    Args:
        weights: name, path, folder, URL or ``hf://`` address.
        default: builder that is taken where weights of this name are published for it.

    Raises:
        SettingsError: weights of this name are published for several builders, or fit no builder.
        ValueError: the source cannot be read.
    """
    owners = [name for name in builder_names() if weights in get_model_weights(name).__members__]
    if owners and not Path(weights).exists():
        return Owner(_only(owners, weights, default))
    if is_name(weights):
        _refuse_name(weights)
    source = resolve_source(weights, None, "a model that is not named")
    if isinstance(source, WeightsEnum):
        owners = [name for name in builder_names() if isinstance(source, get_model_weights(name))]
        return Owner(_only(owners, weights, default))
    checkpoint = read_checkpoint(source)
    if checkpoint.config is not None:
        return Owner(checkpoint.config["builder"], _saved_options(checkpoint))
    guess = guess_builder(checkpoint.state_dict)
    if guess is None:
        refuse_names(checkpoint)
    return Owner(*guess, is_saved=False)


def owner_beside(weights: str, named: str, weights_win: bool = False) -> Owner:
    """Return the builder that counts where one is named beside weights, with the options that they bring along.

    Args:
        weights: as :func:`builder_of` takes them.
        named: builder of this package, with or without its suffix, or model of a library.
        weights_win: weights that name another builder count.

    Raises:
        SettingsError: the weights name another builder, and do not win.
    """
    if weights == PRETRAINED:
        return Owner(named)
    try:
        owner = builder_of(weights, default=named)
    except ValueError:  # whoever loads them for this builder says what is wrong with them
        return Owner(named)
    if _short(owner.name) == _short(named):
        return owner
    # Equal names and shapes are a guess; and a library's model may take weights of ours, as far as they fit.
    if owner.is_saved and not weights_win and not named.startswith(LIBRARIES):
        refuse_builder(named, owner.name, weights)
    if owner.is_saved and weights_win:
        return owner
    return Owner(named)


def refuse_names(checkpoint: Checkpoint) -> NoReturn:
    """Raise a SettingsError for weights whose names and shapes are those of no builder."""
    remedy = other_project(checkpoint.state_dict) or "name it with --model to see what differs"
    raise SettingsError(f"{checkpoint.name} matches no builder: {remedy}")


def refuse_builder(name: str, owner: str, weights: str) -> NoReturn:
    """Raise a SettingsError that names two builders: the one that was asked for, and that of the weights."""
    ours, theirs = _short(name), _short(owner)
    raise SettingsError(
        f"--model {ours} and --weights {weights} contradict one another, the weights are those of {theirs}: "
        f"leave out --model to take {theirs}"
    )


def is_name(weights: str) -> bool:
    """Return whether a source can be a name of weights only: no path, folder or address."""
    return weights.isidentifier() and not Path(weights).exists()


def _refuse_name(weights: str) -> NoReturn:
    """Raise a SettingsError for what looks like a name of weights and is none."""
    names: list[str] = []
    for builder in builder_names():
        names += get_model_weights(builder).__members__
    message = f"there are no weights {weights}"
    hint = did_you_mean(weights.upper(), names)
    if weights in map(_short, builder_names()):
        hint = f"{weights} is a model: give it as --model, and as --weights a file or the name of weights"
    if hint:
        message += f"; {hint}"
    raise SettingsError(f"{message}; stodepth weights lists their names")


def _saved_options(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the options that differ from the defaults of the builder and are no settings of their own."""
    config = checkpoint.config or {}
    if config["builder"].startswith(LIBRARIES):
        return dict(config.get("options", {}))
    saved = saved_arguments(config["builder"], checkpoint)
    for setting in dataclasses.fields(ModelConfig):
        saved.pop(setting.name, None)
    with torch.device("meta"):
        usual = config_of(get_model(config["builder"]))
    for key, value in usual.items():
        if saved.get(key) == value:
            saved.pop(key, None)
    return saved


def _only(owners: list[str], weights: str, default: str | None) -> str:
    for owner in owners:
        if len(owners) == 1 or _short(owner) == _short(default or ""):
            return owner
    names = ", ".join(map(_short, owners)) or "no model of the zoo"
    raise SettingsError(f"{weights} are weights of {names}: say which with --model")


def _short(name: str) -> str:
    return name.removesuffix(SUFFIX)
