"""Compilers, tracers and transforms: what is at work, and how blocks with gates behave under it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn


@torch.compiler.disable
def call_eagerly(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a function, and leave all of it to eager mode where a compiler is at work."""
    return function(x)


def is_transformed() -> bool:
    """Return whether a transform of ``torch.func`` or forward-mode differentiation is at work.

    Neither knows autograd functions with hooks of ours: the arithmetic on rows is plain indexing there.
    """
    from torch.autograd import forward_ad

    # Private names; a release without them runs all but the transforms.
    level = getattr(forward_ad, "_current_level", -1)
    return level >= 0 or _transforms_are_active()


def _transforms_are_active() -> bool:
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is not None and active()


def hooks_on_saved_tensors() -> tuple[Callable[[Any], Any], Callable[[Any], Any]] | None:
    """Return the hooks on saved tensors that are in force; None where hooks are forbidden, or PyTorch hides them."""
    autograd: Any = getattr(torch._C, "_autograd", None)
    is_enabled = getattr(autograd, "_saved_tensors_hooks_is_enabled", None)
    top_hooks = getattr(autograd, "_top_saved_tensors_default_hooks", None)
    if is_enabled is None or top_hooks is None or not is_enabled():
        return None  # a release without the names costs memory alone
    return top_hooks(False) or (unchanged, unchanged)


def unchanged(x: Any) -> Any:
    """Return ``x``."""
    return x


def is_exported() -> bool:
    """Return whether the pass is recorded as a program, which would freeze what is drawn."""
    # The flag, not `is_exporting()`, which the compiler of torch 2.11 takes for true in any compilation.
    return getattr(torch.compiler, "_is_exporting_flag", False) or torch.jit.is_tracing()


def trace_as_leaf(block: nn.Module, *args: Any, **kwargs: Any) -> torch.fx.Proxy:
    """Enter the block as one node of an FX graph, whatever the tracer: a traced gate would be frozen.

    Raises:
        RuntimeError: the tracer prepares quantisation, which would leave the layers of the block out.
    """
    tracer: Any = args[0].tracer
    if type(tracer).__name__ == "QuantizationTracer":
        raise RuntimeError(
            f"FX quantisation does not see the layers of a {type(block).__name__}: call to_torchvision(model), or "
            "remove_stochastic_depth(model), and quantise the plain model"
        )
    return tracer.create_proxy("call_module", tracer.path_of_module(block), args, kwargs)


def is_proxy(x: Any) -> bool:
    """Return whether ``x`` stands for a tensor in an FX graph that is being traced."""
    return isinstance(x, torch.fx.Proxy)
