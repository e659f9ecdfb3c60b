"""The arithmetic of stochastic depth: pure functions on tensors.

Rows are dropped by leaving them out, never by multiplying with zero: what is not computed cannot leak, and it costs
neither time nor memory. Sources: Huang et al., arXiv:1603.09382 (the residual gate, eq. 2; the evaluation scale,
eq. 5); Larsson et al., arXiv:1605.07648 (drop-path).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn import Parameter

from .eager import EAGER_DEVICES
from .gates import Rows, check_probability, dropped_runs

__all__ = ["add_residual", "add_rows", "drop_path", "is_transformed", "keep_in_graph", "select_rows", "take_rows"]


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


def take_rows(x: Tensor, rows: Rows) -> Tensor:
    """Return the given rows in the memory format of ``x``: one run as a view, anything else as a copy."""
    if isinstance(rows, Tensor):
        taken = _rows_first(x).index_select(0, rows)
        return taken.movedim(-1, 1) if _is_channels_last(x) else taken
    return x[rows[0]] if _is_one_run(rows) else torch.cat([x[run] for run in rows])


@torch.compiler.disable
def select_rows(x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the given rows of ``x`` and ``x`` itself, joined by one backward pass.

    Where the second result takes the place of ``x``, the gradients of both are summed in one buffer, instead of
    filling a second one with zeros. One run of rows shares its memory with ``x``, but not where branches are compiled:
    the compiler tells a view from a whole tensor, and compiles for either.
    """
    return (take_rows(x, rows), x) if is_transformed() else _SelectRows.apply(x, rows)


@torch.compiler.disable
def add_rows(
    identity: Tensor, branch: Tensor, rows: Rows, scale: float = 1.0, dtype: torch.dtype | None = None
) -> Tensor:
    """Return a copy of ``identity`` in which ``scale * branch`` is added to the given rows.

    Args:
        identity: ``(N, ...)``.
        branch: ``(M, ...)``, one row for each of ``rows``.
        rows: the ``M`` rows, as drawn by :func:`gates.draw_rows`.
        scale: factor of the branch.
        dtype: dtype of the result; None: what the two promote to.
    """
    if is_transformed():
        dtype = dtype or torch.promote_types(identity.dtype, branch.dtype)
        index = rows if isinstance(rows, Tensor) else torch.cat([torch.arange(run.start, run.stop) for run in rows])
        return identity.to(dtype).index_add(0, index.to(identity.device), branch.to(dtype), alpha=scale)
    return _AddRows.apply(identity, branch, rows, scale, dtype)


def keep_in_graph(x: Tensor, parameters: Iterable[Parameter]) -> Tensor:
    """Return a copy of ``x`` whose backward pass gives every parameter a gradient of zeros.

    DistributedDataParallel waits for the gradients of all parameters; a dropped branch contributes zeros.
    """
    return _KeepInGraph.apply(x, *parameters)


# These take `ctx` in `forward`: the other form, with `setup_context`, costs 50 microseconds a call.
class _SelectRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        ctx.rows, ctx.shape = rows, x.shape
        ctx.set_materialize_grads(False)
        taken = take_rows(x, rows).detach()
        if _is_one_run(rows) and x.device.type not in EAGER_DEVICES:
            taken = taken.clone()
        return taken, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor | None, grad_x: Tensor | None) -> tuple[Tensor | None, None]:
        if grad_rows is None:
            return grad_x, None
        if grad_x is None:
            grad_x = torch.empty(ctx.shape, **_layout(grad_rows)).zero_()
        add = add_rows if torch.is_grad_enabled() else _with_rows_added
        return add(grad_x, grad_rows, ctx.rows), None


class _AddRows(Function):
    @staticmethod
    def forward(
        ctx: Any, identity: Tensor, branch: Tensor, rows: Rows, scale: float, dtype: torch.dtype | None
    ) -> Tensor:
        ctx.rows, ctx.scale = rows, scale
        return _with_rows_added(identity, branch, rows, scale, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        if torch.is_grad_enabled():
            grad_branch, grad = select_rows(grad, ctx.rows)
        else:
            grad_branch = take_rows(grad, ctx.rows)
        return grad, grad_branch if ctx.scale == 1.0 else grad_branch * ctx.scale, None, None, None


def _with_rows_added(
    identity: Tensor, branch: Tensor, rows: Rows, scale: float = 1.0, dtype: torch.dtype | None = None
) -> Tensor:
    dtype = dtype or torch.promote_types(identity.dtype, branch.dtype)
    identity, branch = identity.to(dtype), branch.to(dtype)
    if isinstance(rows, Tensor):
        out = identity.clone()
        branch = branch.movedim(1, -1) if _is_channels_last(out) else branch  # whatever its own memory format
        _rows_first(out).index_add_(0, rows, branch, alpha=scale)
        return out
    out = torch.empty_like(identity)  # written once, run by run
    done = 0
    for run in rows:
        size = run.stop - run.start
        torch.add(identity[run], branch.narrow(0, done, size), alpha=scale, out=out[run])
        done += size
    for run in dropped_runs(rows, len(out)):
        out[run].copy_(identity[run])
    return out


class _KeepInGraph(Function):
    @staticmethod
    def forward(x: Tensor, *parameters: Parameter) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.parameters = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(torch.zeros_like(parameter) for parameter in ctx.parameters)


def _is_traced_or_transformed() -> bool:
    """Whether a compiler, ``torch.vmap`` or forward-mode differentiation is at work, which know no ``out=``."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed()


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode differentiation is at work, which know no hooks of ours."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_one_run(rows: Rows) -> bool:
    return not isinstance(rows, Tensor) and len(rows) == 1


def _rows_first(x: Tensor) -> Tensor:
    """View of ``x`` in the order of its memory: indexing channels-last memory directly is slow and loses the format."""
    return x.movedim(1, -1) if _is_channels_last(x) else x


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def _layout(x: Tensor) -> dict[str, Any]:
    channels_last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    memory_format = channels_last if _is_channels_last(x) else torch.contiguous_format
    return {"dtype": x.dtype, "device": x.device, "memory_format": memory_format}
