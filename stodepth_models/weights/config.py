"""What a model was built from: enough to build it again, and to know its evaluation scales."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..layers.residual import StochasticResidual


@dataclass(frozen=True)
class Recipe:
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


class Recorded(nn.Module):
    """Base of the models that builders make.

    Attributes:
        recipe: what the model was built from; None for one that no builder made.
        categories: names of the classes, where known.
    """

    recipe: Recipe | None = None
    categories: Sequence[str] | None = None


def describe(model: Recorded) -> dict[str, Any]:
    """Return a model's configuration as plain data: what ``config.json`` holds.

    Raises:
        ValueError: no builder made the model, its classifier is no longer one linear layer, or its gates differ in
            mode, rescale or synchronisation.
    """
    if model.recipe is None:
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
    options = {key: value for key, value in model.recipe.options.items() if not callable(value) and value is not None}
    return {
        **options,
        "builder": model.recipe.builder,
        "num_classes": int(model.fc.out_features),  # also where NumPy has counted the classes
        "survival_probs": [gate.survival_prob for gate in gates],
        "mode": mode,
        "rescale": rescale,
        "sync_gates": sync_gates,
        "dtype": str(model.fc.weight.dtype).removeprefix("torch."),
        "callables": sorted(model.recipe.callables),
        "categories": _categories(model),
        "torch": torch.__version__,
    }


def _categories(model: Recorded) -> list[str] | None:
    """Names of the classes, unless the classifier has been replaced by one for other classes."""
    names = model.categories
    return None if names is None or len(names) != model.fc.out_features else list(names)  # type: ignore[union-attr]
