"""Models that a configuration describes, built again without their weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchvision.models import WeightsEnum, get_model_builder

from ..layers.branch import BATCH_NORMS
from ..layers.residual import StochasticGate
from ..survival import set_survival_probs
from ..zoo import builder_names
from .checkpoint import Checkpoint
from .errors import CheckpointError
from .names import CLASSIFIER
from .sources import Source, read_checkpoint

# What a configuration says beside the keyword arguments of its builder; "training" is what a training run adds.
BESIDE_ARGUMENTS = ("builder", "survival_probs", "dtype", "callables", "categories", "torch", "training")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def saved_arguments(builder: str, source: Source) -> dict[str, Any]:
    """Return the keyword arguments that a builder had for the model whose weights were saved.

    Args:
        builder: name of the builder that shall load them.
        source: weights, as :func:`resolve_source` or :func:`read_checkpoint` return them; nothing is known of those
            that no model of this builder was saved to.

    Raises:
        CheckpointError: the configuration is damaged, or describes another network than that of the weights.
    """
    if isinstance(source, WeightsEnum):
        return {}
    checkpoint = read_checkpoint(source, progress=False)
    config = checkpoint.config
    if config is None or config["builder"] != builder:
        return {}
    if not config.get("callables"):
        check_describes(config, {}, checkpoint)
    return _builder_arguments(config)


def check_describes(config: Mapping[str, Any], overrides: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Compare a configuration with the weights before memory is allocated: it may ask for ten million classes.

    Raises:
        CheckpointError: a weight has another shape by the configuration.
    """
    with torch.device("meta"):
        twin = rebuild(config, overrides)
    for name, tensor in twin.state_dict().items():
        follows_override = name.startswith(CLASSIFIER) and "num_classes" in overrides
        weight = checkpoint.state_dict.get(name)
        if weight is not None and weight.shape != tensor.shape and not follows_override:
            raise CheckpointError(
                f"the configuration of {checkpoint.name} describes another network: {name} is {tuple(tensor.shape)} "
                f"by the configuration and {tuple(weight.shape)} in the file"
            )


def rebuild(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Build the model that a configuration describes, without its weights.

    Args:
        config: what :func:`config_of` returned.
        overrides: keyword arguments of the builder that take the place of the configuration's.

    Raises:
        CheckpointError: the configuration is damaged, or names no builder of this package.
        ValueError: an override is missing or not allowed.
    """
    name = config["builder"]
    if name not in builder_names():
        raise CheckpointError(f"the configuration names no builder of this package, got {name!r}")
    own = config.get("callables", ())
    _check_overrides(own, overrides)
    arguments = _builder_arguments(config)
    if "mult_flag" in overrides:
        del arguments["rescale"]
    try:
        model = get_model_builder(name)(**{**arguments, **overrides})
        if "prob_0_L" not in overrides:
            set_survival_probs(model, config["survival_probs"])
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        if overrides.keys() - own:  # then it is the caller's to mend
            raise
        raise CheckpointError(f"the configuration is not one of {name}: {error}") from error
    return model.to(DTYPES.get(config.get("dtype", ""), torch.float32))


def _check_overrides(own: Sequence[str], overrides: Mapping[str, Any]) -> None:
    missing = [key for key in own if key not in overrides]
    if missing:
        raise ValueError(f"the model was built with its own {', '.join(missing)}: give it to from_pretrained again")
    given = [key for key in ("weights", "pretrained") if key in overrides]
    if given:
        raise ValueError(f"from_pretrained loads the saved weights, got {', '.join(given)} as well")
    if "depth_rule" in overrides and "prob_0_L" not in overrides:
        raise ValueError("depth_rule lays a line through prob_0_L: give prob_0_L as well")


def _builder_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of the builder that a configuration holds."""
    return {key: value for key, value in config.items() if key not in BESIDE_ARGUMENTS}


def check_rebuilds(model: nn.Module, config: Mapping[str, Any], callables: Mapping[str, Any]) -> None:
    """Refuse to save what could not be loaded, such as a model whose layers were replaced after it was built."""
    with torch.device("meta"):
        twin = rebuild(config, callables)
    # Weights of the same shapes can belong to other layers: a convolution with another stride, say.
    for what, read in (("weights", _shapes), ("layers", _layers)):
        ours, theirs = read(model), read(twin)
        changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if changed:
            raise ValueError(
                f"{config['builder']} was changed after it was built, from_pretrained could not rebuild it; "
                f"{len(changed)} {what} differ: {', '.join(changed[:10])}"
            )


def _shapes(model: nn.Module) -> dict[str, Any]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _layers(model: nn.Module) -> dict[str, Any]:
    """What each layer without parts computes in evaluation, as far as its class and ``repr`` say."""
    layers: dict[str, Any] = {}
    for name, module in model.named_modules():
        has_parts = next(module.children(), None) is not None
        if not has_parts and not isinstance(module, StochasticGate):
            layers[name] = _what(module)
    return layers


def _what(layer: nn.Module) -> Any:
    if isinstance(layer, BATCH_NORMS):  # momentum is for training, and SyncBatchNorm evaluates alike
        return BATCH_NORMS, layer.eps, layer.track_running_stats
    return type(layer), layer.extra_repr().replace("inplace=True", "")
