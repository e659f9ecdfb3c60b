"""The arithmetic of stochastic depth on whole batches: pure functions on tensors.

Sources: Huang et al., arXiv:1603.09382 (the residual gate, eq. 2; the evaluation scale, eq. 5); Larsson et al.,
arXiv:1605.07648 (drop-path).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn import Parameter

from .draw import check_probability

__all__ = ["add_residual", "drop_path", "is_transformed", "keep_in_graph", "relu_once"]


def drop_path(x: Tensor, keep_prob: float = 1.0, inplace: bool = False) -> Tensor:
    """Zero random rows of ``x`` and divide the others by ``keep_prob`` (Larsson et al., arXiv:1605.07648).

    One independent gate a row, scaled in training. The branch that made ``x`` has been computed by then; where it can
    be given as a function, :class:`StochasticResidual` saves that work.

    Args:
        x: ``(N, ...)``, floating point, any number of dimensions.
        keep_prob: chance in ``[0, 1]`` that a row is kept; 0 gives zeros. Drawn from the default CPU generator.
        inplace: overwrite ``x``.

    Returns:
        Same shape, dtype and device. A dropped row is exactly zero, whatever it held.

    Raises:
        TypeError: ``keep_prob`` is no number.
        ValueError: ``keep_prob`` outside ``[0, 1]`` or nan.
    """
    check_probability("keep_prob", keep_prob)
    if keep_prob == 1.0:
        return x
    dropped = torch.rand(x.shape[0], dtype=torch.float64, device="cpu") >= keep_prob
    dropped = dropped.to(x.device, non_blocking=True).view(-1, *[1] * (x.dim() - 1))
    scaled = x.div_(keep_prob or 1.0) if inplace else x / (keep_prob or 1.0)
    return scaled.masked_fill_(dropped, 0.0)


def add_residual(identity: Tensor, branch: Tensor, scale: float = 1.0, inplace: bool = False) -> Tensor:
    """Return ``identity + scale * branch`` in one pass over memory.

    Args:
        identity: output of the shortcut.
        branch: output of the residual branch, same shape.
        scale: factor of the branch.
        inplace: keep the dtype of ``branch``, and write into it where autograd allows, as ``branch += identity`` does.
            Only for a branch whose last operation does not need its own output for the backward pass, such as batch
            norm.
    """
    if inplace and scale == 1.0:
        branch += identity
        return branch
    if inplace and not (torch.is_grad_enabled() or _is_traced_or_transformed()):
        return torch.add(identity, branch, alpha=scale, out=branch)  # no new memory
    out = torch.add(identity, branch, alpha=scale)
    return out.to(branch.dtype) if inplace else out


def keep_in_graph(x: Tensor, parameters: Iterable[Parameter], alias: bool = False) -> Tensor:
    """Return a copy of ``x`` whose backward pass gives every parameter a gradient of zeros.

    DistributedDataParallel waits for the gradients of all parameters; a dropped branch contributes zeros.

    Args:
        x: any tensor.
        parameters: what gets the zeros.
        alias: return a view instead of a copy. Only for callers that write nothing into it, which autograd refuses.
    """
    return _KeepInGraph.apply(x, alias, *parameters)


def relu_once(x: Tensor) -> Tensor:
    """Return the ReLU of ``x``, or ``x`` itself behind a ReLU: another would change nothing and save its output."""
    node: Any = x.grad_fn
    while type(node).__name__ == "_KeepInGraphBackward":  # the same answer where checkpointing repeats a step of DDP
        node = node.next_functions[0][0]
    is_relu = type(node).__name__ == "ReluBackward0" or getattr(node, "ends_in_relu", False)
    return x if is_relu else torch.relu(x)


class _KeepInGraph(Function):
    @staticmethod
    def forward(x: Tensor, alias: bool, *parameters: Parameter) -> Tensor:
        return x.view_as(x) if alias else x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.parameters = inputs[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, *(torch.zeros_like(parameter) for parameter in ctx.parameters)


def _is_traced_or_transformed() -> bool:
    """Whether a compiler, ``torch.vmap`` or forward-mode differentiation is at work, which know no ``out=``."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed()


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is at work, which know no hooks of ours."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
