"""What a model was built from: enough to build it again, and to know its evaluation scales."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

__all__ = ["Recipe", "Recorded"]


@dataclass(frozen=True)
class Recipe:
    """A builder and the options that shape its network.

    Attributes:
        builder: name of the builder.
        options: keyword arguments of the network, such as ``shortcut`` or ``norm_layer``.
    """

    builder: str
    options: Mapping[str, Any] = field(default_factory=dict)


class Recorded(nn.Module):
    """Base of the models that builders make.

    Attributes:
        recipe: what the model was built from; None for one that no builder made.
        categories: names of the classes, where known.
    """

    recipe: Recipe | None = None
    categories: Sequence[str] | None = None
