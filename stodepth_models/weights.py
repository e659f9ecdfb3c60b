"""Published weights, and loading that keeps the evaluation function of the network they come from."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

__all__ = ["Checkpoint", "load_checkpoint", "load_pretrained", "read_checkpoint", "resolve_source"]


class CifarResNet20_Weights(WeightsEnum):
    """Published weights of cifar_resnet20."""


class CifarResNet32_Weights(WeightsEnum):
    """Published weights of cifar_resnet32."""


class CifarResNet44_Weights(WeightsEnum):
    """Published weights of cifar_resnet44."""


class CifarResNet56_Weights(WeightsEnum):
    """Published weights of cifar_resnet56."""


class CifarResNet110_Weights(WeightsEnum):
    """Published weights of cifar_resnet110."""


class CifarResNet1202_Weights(WeightsEnum):
    """Published weights of cifar_resnet1202."""


class CifarResNet164_Weights(WeightsEnum):
    """Published weights of cifar_resnet164."""


class CifarResNet18_Weights(WeightsEnum):
    """Published weights of cifar_resnet18."""


class CifarResNet34_Weights(WeightsEnum):
    """Published weights of cifar_resnet34."""


class CifarResNet50_Weights(WeightsEnum):
    """Published weights of cifar_resnet50."""


class CifarResNet101_Weights(WeightsEnum):
    """Published weights of cifar_resnet101."""


class CifarResNet152_Weights(WeightsEnum):
    """Published weights of cifar_resnet152."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights under the names of our models.

    Attributes:
        state_dict: tensors by name.
        num_classes: rows of the classifier; None where there is none.
    """

    state_dict: dict[str, Tensor]
    num_classes: int | None


def resolve_source(name: str, enum: type[WeightsEnum], pretrained: bool, weights: Any) -> Any:
    """Turn a builder's ``pretrained`` and ``weights`` into one source, or None.

    Raises:
        ValueError: both are given, or no weights have that name.
    """
    if pretrained and weights is not None:
        raise ValueError(f"pretrained=True and weights={weights!r} are two sources: give one of them")
    if pretrained:
        if not enum.__members__:
            raise ValueError(f"no weights are published for {name}; known: none")
        return next(iter(enum.__members__.values()))
    if isinstance(weights, str):
        member = enum.__members__.get(weights.replace(f"{enum.__name__}.", ""))
        if member is None:
            near = difflib.get_close_matches(weights, enum.__members__, n=1)
            raise ValueError(f"no weights {weights!r} for {name}; known: {', '.join(enum.__members__)} {near}")
        return member
    return weights


def read_checkpoint(source: Any, progress: bool = True) -> Checkpoint:
    """Read weights from a source and give them our names."""
    if isinstance(source, WeightsEnum):
        state = source.get_state_dict(progress=progress, check_hash=True)
    elif isinstance(source, Mapping):
        state = dict(source)
    else:
        state = torch.load(source, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    state = {key.removeprefix("module.").replace("linear.", "fc."): value for key, value in state.items()}
    return Checkpoint(state, state["fc.weight"].shape[0] if "fc.weight" in state else None)


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy weights into a model."""
    model.load_state_dict(checkpoint.state_dict)


def load_pretrained(model: nn.Module, source: Any) -> None:
    """Load weights from a source into a model."""
    load_checkpoint(model, read_checkpoint(source))
