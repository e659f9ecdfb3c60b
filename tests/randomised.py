"""Models that look trained: fresh batch norms are the identity, and hide what a test wants to see."""

from typing import TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def randomise_norms(model: Model) -> Model:
    """Give every normalisation a random scale, shift and statistics, in place."""
    for module in model.modules():
        if "Norm" in type(module).__name__:
            tensors = dict([*module.named_parameters(), *module.named_buffers()])
            for name in {"weight", "running_var"} & {*tensors}:
                nn.init.uniform_(tensors[name], 0.6, 1.0)
            for name in {"bias", "running_mean"} & {*tensors}:
                nn.init.normal_(tensors[name], std=0.2)
    return model
