"""Which builder the weights on a command line belong to, so that nobody has to name both."""

from pathlib import Path

from torchvision.models import WeightsEnum, get_model_weights

from ..weights.guess import guess_builder
from ..weights.sources import read_checkpoint, resolve_source
from ..zoo import SUFFIX, builder_names
from .errors import SettingsError


def builder_of(weights: str, default: str | None = None) -> tuple[str, dict[str, str]]:
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
        return checkpoint.config["builder"], {}
    guess = guess_builder(checkpoint.state_dict)
    if guess is None:
        raise SettingsError(f"{checkpoint.name} matches no builder: name it with --model to see what differs")
    return guess


def _only(owners: list[str], weights: str, default: str | None) -> str:
    if default in owners:
        return default
    if len(owners) == 1:
        return owners[0]
    names = ", ".join(name.removesuffix(SUFFIX) for name in owners) or "no model of the zoo"
    raise SettingsError(f"{weights} are weights of {names}: say which with --model")
