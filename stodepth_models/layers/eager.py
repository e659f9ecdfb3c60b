"""Where ``torch.compile`` is kept away from the training of gated branches, and what it is given elsewhere."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._dynamo import maybe_mark_dynamic

__all__ = ["EAGER_DEVICES", "call_eagerly", "for_any_batch"]

# Devices on which a compiled branch trains more slowly than PyTorch's own kernels do (docs/performance.md).
EAGER_DEVICES = {"cpu"}


@torch.compiler.disable
def call_eagerly(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a function, out of a compiler's sight."""
    return function(x)


@torch.compiler.disable
def for_any_batch(x: Tensor) -> Tensor:
    """Return a view of ``x`` that compiled code takes in any number of rows, so that each number needs no graph.

    The mark is on the view alone: on ``x`` it would be seen where ``x`` goes next, and be one more kind of input there.
    Where nothing is compiled, it is ``x`` itself.
    """
    if x.device.type in EAGER_DEVICES:
        return x
    view = x.view_as(x)
    maybe_mark_dynamic(view, 0)
    return view
