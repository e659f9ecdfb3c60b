"""Compilers and tracers: gates run in eager mode, and a block with gates is one node of an FX graph."""

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn


@torch.compiler.disable
def call_eagerly(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a function, and leave all of it to eager mode where a compiler is at work."""
    return function(x)


def trace_as_leaf(block: nn.Module, *args: Any, **kwargs: Any) -> torch.fx.Proxy:
    """Enter the block as one node of an FX graph, whatever the tracer: a traced gate would be frozen.

    Raises:
        RuntimeError: the tracer prepares quantisation, which would leave the layers of the block out.
    """
    tracer: Any = args[0].tracer
    # torch.ao makes its own tracer, which would enter the block as a float module: nothing would be quantised.
    if type(tracer).__name__ == "QuantizationTracer":
        raise RuntimeError(
            f"FX quantisation does not see the layers of a {type(block).__name__}: call to_torchvision(model), or "
            "remove_stochastic_depth(model), and quantise the plain model"
        )
    return tracer.create_proxy("call_module", tracer.path_of_module(block), args, kwargs)
