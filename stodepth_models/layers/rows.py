"""The arithmetic of stochastic depth on some rows of a batch: taken out, and added back, each in one backward pass.

Rows are dropped by leaving them out, never by multiplying with zero: what is not computed cannot leak, and it costs
neither time nor memory.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .draw import Rows, dropped_runs
from .eager import EAGER_DEVICES
from .functional import is_transformed

__all__ = ["add_rows", "select_rows", "take_rows"]


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
    identity: Tensor,
    branch: Tensor,
    rows: Rows,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
    relu: bool = False,
) -> Tensor:
    """Return a copy of ``identity`` in which ``scale * branch`` is added to the given rows.

    Args:
        identity: ``(N, ...)``.
        branch: ``(M, ...)``, one row for each of ``rows``.
        rows: the ``M`` rows, as drawn by :func:`gates.draw_rows`.
        scale: factor of the branch.
        dtype: dtype of the result; None: what the two promote to.
        relu: apply a ReLU to the sum.
    """
    if is_transformed():
        dtype = dtype or torch.promote_types(identity.dtype, branch.dtype)
        index = rows if isinstance(rows, Tensor) else torch.cat([torch.arange(run.start, run.stop) for run in rows])
        out = identity.to(dtype).index_add(0, index.to(identity.device), branch.to(dtype), alpha=scale)
        return out.relu() if relu else out
    return _AddRows.apply(identity, branch, rows, scale, dtype, relu)


# These take `ctx` in `forward`: the other form, with `setup_context`, costs 50 microseconds a call.
class _SelectRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        ctx.rows, ctx.shape, ctx.fresh = rows, x.shape, None
        ctx.set_materialize_grads(False)
        taken = take_rows(x, rows).detach()
        if _is_one_run(rows) and x.device.type not in EAGER_DEVICES:
            taken = taken.clone()
        return taken, x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor | None, grad_x: Tensor | None) -> tuple[Tensor | None, None]:
        fresh, ctx.fresh = ctx.fresh, None
        if grad_rows is None:
            return grad_x, None
        if grad_x is None:
            grad_x = fresh = torch.empty(ctx.shape, **_layout(grad_rows)).zero_()
        if torch.is_grad_enabled():
            return add_rows(grad_x, grad_rows, ctx.rows), None
        return (_add_into if grad_x is fresh else _with_rows_added)(grad_x, grad_rows, ctx.rows), None


class _AddRows(Function):
    @staticmethod
    def forward(
        ctx: Any, identity: Tensor, branch: Tensor, rows: Rows, scale: float, dtype: torch.dtype | None, relu: bool
    ) -> Tensor:
        ctx.rows, ctx.scale, ctx.ends_in_relu = rows, scale, relu
        ctx.select = identity.grad_fn if type(identity.grad_fn) is _SelectRows._backward_cls else None
        out = _with_rows_added(identity, branch, rows, scale, dtype, relu)
        if relu:
            ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.ends_in_relu:
            grad = torch.ops.aten.threshold_backward(grad, *ctx.saved_tensors, 0)
        if torch.is_grad_enabled():
            grad_branch, grad = select_rows(grad, ctx.rows)
        else:
            grad_branch = take_rows(grad, ctx.rows)
            if ctx.ends_in_relu and ctx.select is not None and not _is_one_run(ctx.rows):
                ctx.select.fresh = grad  # on its way from here to there: the branch got a copy of its rows
        return grad, grad_branch if ctx.scale == 1.0 else grad_branch * ctx.scale, None, None, None, None


def _with_rows_added(
    identity: Tensor,
    branch: Tensor,
    rows: Rows,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
    relu: bool = False,
) -> Tensor:
    dtype = dtype or torch.promote_types(identity.dtype, branch.dtype)
    identity, branch = identity.to(dtype), branch.to(dtype)
    if isinstance(rows, Tensor):
        out = _add_into(identity.clone(), branch, rows, scale)
        return out.relu_() if relu else out
    out = torch.empty_like(identity)  # written once, run by run
    for run, part in _by_run(branch, rows):
        kept = torch.add(identity[run], part, alpha=scale, out=out[run])
        if relu:
            kept.relu_()
    for run in dropped_runs(rows, len(out)):
        if relu:
            torch.clamp_min(identity[run], 0, out=out[run])
        else:
            out[run].copy_(identity[run])
    return out


def _add_into(out: Tensor, branch: Tensor, rows: Rows, scale: float = 1.0) -> Tensor:
    if isinstance(rows, Tensor):
        branch = branch.movedim(1, -1) if _is_channels_last(out) else branch  # whatever its own memory format
        _rows_first(out).index_add_(0, rows, branch, alpha=scale)
        return out
    for run, part in _by_run(branch, rows):
        out[run].add_(part, alpha=scale)
    return out


def _by_run(branch: Tensor, rows: tuple[slice, ...]) -> Iterator[tuple[slice, Tensor]]:
    return zip(rows, branch.split([run.stop - run.start for run in rows]), strict=True)


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
