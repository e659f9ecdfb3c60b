"""Blocks with gates in FX graphs, which a traced gate would freeze."""

from typing import Any

import torch.fx
from torch import nn

__all__ = ["trace_as_leaf"]


def trace_as_leaf(block: nn.Module, x: torch.fx.Proxy) -> torch.fx.Proxy:
    """Enter the block as one node of an FX graph, whatever the tracer."""
    tracer: Any = x.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(block), (x,), {})
