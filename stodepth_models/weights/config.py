"""What a model was built from: enough to build it again, and to know its evaluation scales."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ..layers.residual import StochasticResidual
from ..recalibration import unfed_norms
from .errors import CheckpointError
from .scales import read_scales

Model = TypeVar("Model", bound="Configured")

LONGEST_VALUE = 80  # characters of a value in a message

logger = logging.getLogger("stodepth_models")


@dataclass(frozen=True)
class BuiltWith:
    """A builder and the options that shape its network.

    Attributes:
        builder: name of the builder.
        options: keyword arguments of the network, such as ``shortcut`` or ``norm_layer``.
    """

    builder: str
    options: Mapping[str, Any]

    @property
    def callables(self) -> dict[str, Callable[..., Any]]:
        """Options that no text file holds, such as ``norm_layer``."""
        return {key: value for key, value in self.options.items() if callable(value)}


Recipe = BuiltWith  # the name in pickles of version 0.1.0


class Configured(nn.Module):
    """Base of the models that builders make.

    Attributes:
        built_with: what the model was built from; None for one that no builder made.
        categories: names of the classes, where known.
    """

    built_with: BuiltWith | None = None
    categories: Sequence[str] | None = None
    _has_warned_of_norms = False
    _has_warned_of_scales = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a pickle holds; version 0.1.0 called the builder and its options ``recipe``."""
        state = dict(state)
        if "recipe" in state:
            state["built_with"] = state.pop("recipe")
        super().__setstate__(state)

    def train(self: Model, mode: bool = True) -> Model:
        """Set training or evaluation; the latter logs, once, which batch norms have no statistics."""
        begins_evaluation = self.training and not mode
        super().train(mode)
        if begins_evaluation and not self._has_warned_of_norms:
            self._warn_of_norms()
        return self

    def _warn_of_norms(self) -> None:
        names = unfed_norms(self)
        if names:
            self._has_warned_of_norms = True
            logger.warning(
                "%d batch norms of %s have seen no batch since their statistics were reset, for their branches were "
                "dropped, first %s: call recalibrate_bn(model, batches) before the evaluation",
                len(names),
                type(self).__name__,
                names[0],
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Copy a state dict literally; log, once, where it comes without the evaluation scales that the model has."""
        result = super().load_state_dict(state_dict, *args, **kwargs)
        if not self._has_warned_of_scales and not read_scales(state_dict):
            gates = [gate for gate in self.modules() if isinstance(gate, StochasticResidual)]
            if any(gate.eval_scale != 1.0 for gate in gates):
                self._has_warned_of_scales = True
                logger.warning(
                    "the state dict holds no evaluation scales, and %s multiplies its branches by their survival "
                    "probabilities in evaluation: for weights of constant depth use weights=, load_pretrained or "
                    "mult_flag=False",
                    type(self).__name__,
                )
        return result


def config_of(model: Configured) -> dict[str, Any]:
    """Return a model's configuration as plain data: what ``config.json`` holds.

    Raises:
        ValueError: no builder made the model, its classifier is no longer one linear layer, or its gates differ in
            mode, rescale or synchronisation.
    """
    built_with = model.built_with
    if built_with is None:
        raise ValueError(f"model must come from one of this package's builders, got a hand-made {type(model).__name__}")
    if not isinstance(model.fc, nn.Linear):
        raise ValueError(f"model.fc must be a linear layer to be described, got {type(model.fc).__name__}")
    gates = [gate for gate in model.modules() if isinstance(gate, StochasticResidual)]
    if not gates:
        raise ValueError("model must have stochastic blocks to be described, got none: save its state dict instead")
    settings = {(gate.mode, gate.rescale, gate.sync_gates) for gate in gates}
    if len(settings) > 1:
        raise ValueError(f"all blocks must share mode, rescale and sync_gates, got {sorted(settings)}")
    mode, rescale, sync_gates = settings.pop()
    config: dict[str, Any] = {}
    for key, value in built_with.options.items():
        # None is the default of every option, and a text file holds no function.
        if value is not None and not callable(value):
            config[key] = value
    config |= {
        "builder": built_with.builder,
        "num_classes": int(model.fc.out_features),  # also where NumPy has counted the classes
        "survival_probs": [gate.survival_prob for gate in gates],
        "mode": mode,
        "rescale": rescale,
        "sync_gates": sync_gates,
        "dtype": str(model.fc.weight.dtype).removeprefix("torch."),
        "callables": sorted(built_with.callables),
        "categories": _categories(model),
        "torch": torch.__version__,
    }
    return config


def _categories(model: Configured) -> list[str] | None:
    """Names of the classes, unless the classifier has been replaced by one for other classes."""
    names = model.categories
    if names is None or len(names) != model.fc.out_features:  # type: ignore[union-attr]
        return None
    return list(names)


def check_config(config: Mapping[str, Any], name: str) -> None:
    """Check the types of what a configuration holds.

    Args:
        config: what :func:`config_of` returned, as JSON gave it back.
        name: what messages call it.

    Raises:
        CheckpointError: a setting of another type, or outside its range.
    """
    for key, (what, is_allowed, is_needed) in SETTINGS.items():
        value = config.get(key)
        if (is_needed or value is not None) and not is_allowed(value):
            raise CheckpointError(f"{name}: {key} must be {what}, got {_shortened(value)}")


def _is_probability(value: Any) -> bool:
    return type(value) in (int, float) and 0.0 <= value <= 1.0


def _is_list_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in types


def _is_training(value: Any) -> bool:
    """Whether what a training run adds to a configuration says how images were prepared."""
    if not isinstance(value, dict):
        return False
    for colours in (value.get("mean"), value.get("std")):
        if not isinstance(colours, list) or len(colours) != 3:
            return False
    # Version 0.1.0 did not say how large images were scaled before their middle was cut out.
    return _is_length(value.get("image_size")) and _is_length(value.get("resize") or 1)


def _are_layers(value: Any) -> bool:
    """Whether a value is a number of blocks for each stage. More than a thousand would take hours to build."""
    return isinstance(value, list) and all(type(depth) is int and 1 <= depth <= 1000 for depth in value)


def _is_length(value: Any) -> bool:
    return type(value) is int and value > 0


def _shortened(value: Any) -> str:
    text = repr(value)
    if len(text) > LONGEST_VALUE:
        text = f"{text[:LONGEST_VALUE]}..."
    return text


# Setting: what is allowed, whether a value is, and whether every configuration has it.
SETTINGS: dict[str, tuple[str, Callable[[Any], bool], bool]] = {
    "builder": ("the name of a builder", _is(str), True),
    "survival_probs": ("a list of probabilities in [0, 1]", _is_list_of(_is_probability), True),
    "rescale": ("'eval', 'train' or 'none'", lambda value: value in ("eval", "train", "none"), True),
    "num_classes": ("a whole number, at least 1", lambda value: type(value) is int and value >= 1, False),
    "layers": ("the number of blocks in each stage, each from 1 to 1000", _are_layers, False),
    "mode": ("the name of a mode", _is(str), False),
    "sync_gates": ("true or false", _is(bool), False),
    "dtype": ("the name of a dtype", _is(str), False),
    "callables": ("a list of names", _is_list_of(_is(str)), False),
    "categories": ("a list of names", _is_list_of(_is(str)), False),
    "training": ("the settings of a training, with image_size, mean and std", _is_training, False),
}
