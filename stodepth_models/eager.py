"""Where ``torch.compile`` is kept away from the training of gated branches."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["EAGER_DEVICES", "call_eagerly"]

# Devices on which a compiled branch trains more slowly than PyTorch's own kernels do (docs/performance.md).
EAGER_DEVICES = {"cpu"}


@torch.compiler.disable
def call_eagerly(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a function, out of a compiler's sight."""
    return function(x)
