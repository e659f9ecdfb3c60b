"""Training and evaluation modes of a model that are changed for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def restored_modes(model: nn.Module) -> Iterator[None]:
    """Within its context the modes of a model may be changed; each module's own one is restored at the end."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        # Not `model.train()`: a frozen norm is in evaluation mode within a model that trains.
        for module, training in modes.items():
            module.training = training
