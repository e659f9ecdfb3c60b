"""Models of timm and torchvision by name, with gates in the place of their masks."""

from typing import Any

import timm
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from ...blocks.masks import masks_rows
from ...blocks.surgery import apply_stochastic_depth
from ...checks import did_you_mean
from ...layers.residual import StochasticGate
from ...survival import survival_probs
from ...weights.checkpoint import Checkpoint
from ...weights.config import Configured, config_of
from ...weights.load import load_pretrained
from ..config import ModelConfig
from ..model_config import PRETRAINED


def build_of_library(config: ModelConfig, num_classes: int | None, weights: Any) -> nn.Module:
    """Return a model such as ``timm:vit_small_patch16_224``, with gates that drop its last block at ``drop_rate``.

    Args:
        config: settings.
        num_classes: length of the output; None: that of the weights, where their file says so, else of the library.
        weights: ``"pretrained"`` for those of the library, whatever :func:`load_pretrained` takes, or None.

    Raises:
        ValueError: no model of that name, or no block that is known where ``drop_rate`` is given.
    """
    library, _, name = config.name.partition(":")
    _check_name(library, name)
    saved = weights.config if isinstance(weights, Checkpoint) else None
    saved = saved or {}
    options = {**saved.get("options", {}), **config.options}
    classes = num_classes or saved.get("num_classes")
    if classes is not None:
        options["num_classes"] = classes
    if library == "timm":
        model = timm.create_model(name, pretrained=weights == PRETRAINED, **options)
    else:
        if name in ("googlenet", "inception_v3"):  # whose other outputs no loss here takes
            options = {"aux_logits": False, "init_weights": True, **options}
        model = get_model(name, **options)
    if weights == PRETRAINED:
        weights = None if library == "timm" else get_model_weights(name).DEFAULT
    if config.drop_rate is not None or any(map(masks_rows, model.modules())):
        apply_stochastic_depth(
            model, stochastic_method=config.mode, drop_rate=config.drop_rate, rescale=config.rescale or "train",
            sync_gates=config.sync_gates,
        )  # fmt: skip
    if weights is not None:
        load_pretrained(model, weights)
    vars(model)["categories"] = saved.get("categories")
    return model


def _check_name(library: str, name: str) -> None:
    if library == "timm" and (":" in name or timm.is_model(name.rpartition("/")[2])):  # hf-hub:NAME is for timm to find
        return
    known = timm.list_models() if library == "timm" else list_models()
    if library == "timm" or name.lower() not in known:
        message = f"model.name: {library} has no model {name!r}"
        raise ValueError("; ".join(filter(None, [message, did_you_mean(name, known, count=3)])))


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers that the classes come out of: as timm gives them, else the last with weights."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier")
    if names is None:
        names = [name for name, module in model.named_modules() if list(module.parameters(recurse=False))][-1]
    return (names,) if isinstance(names, str) else tuple(names)


def number_of_outputs(model: nn.Module) -> int:
    """Return how many classes a model tells apart."""
    return len(model.get_submodule(classifiers(model)[0]).weight)  # type: ignore[arg-type]


def describe(model: nn.Module, config: ModelConfig) -> dict[str, Any]:
    """Return a model's configuration as plain data: what the file of its weights says of it."""
    if isinstance(model, Configured):
        return config_of(model)
    gates = [module for module in model.modules() if isinstance(module, StochasticGate)]
    return {
        "builder": config.name, "options": config.options, "num_classes": number_of_outputs(model),
        "survival_probs": survival_probs(model), "mode": config.mode, "rescale": gates[0].rescale if gates else "none",
    }  # fmt: skip
