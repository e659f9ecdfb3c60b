"""Residual arithmetic on whole batches and on some rows of a batch, each in one backward pass.

Rows are dropped by leaving them out, never by multiplying with zero: what is not computed cannot leak, and it costs
neither time nor memory.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks

from .draw import Rows, dropped_runs

Hook = Callable[[Any], Any]


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
    if not inplace:
        return torch.add(identity, branch, alpha=scale)
    if scale == 1.0:
        branch += identity
        return branch
    # `out=` needs no new memory; compilers, tracers and transforms do not know it.
    is_eager = not (torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed())
    if is_eager and not torch.is_grad_enabled():
        return torch.add(identity, branch, alpha=scale, out=branch)
    return torch.add(identity, branch, alpha=scale).to(branch.dtype)


def take_rows(x: Tensor, rows: Rows) -> Tensor:
    """Return the given rows in the memory format of ``x``: one run as a view, anything else as a copy."""
    if isinstance(rows, Tensor):
        if _is_channels_last(x):
            return x.movedim(1, -1).index_select(0, rows).movedim(-1, 1)
        return x.index_select(0, rows)
    if len(rows) == 1:
        return x[rows[0]]
    return torch.cat([x[run] for run in rows])


def select_rows(x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the given rows of ``x`` and ``x`` itself, joined by one backward pass.

    Where the second result takes the place of ``x``, the gradients of both are summed in one buffer, instead of
    filling a second one with zeros. One run of rows shares its memory with ``x``.
    """
    if is_transformed():
        return take_rows(x, rows), x
    return _SelectRows.apply(x, rows)


def add_rows(identity: Tensor, branch: Tensor, rows: Rows, scale: float = 1.0, inplace: bool = False) -> Tensor:
    """Return a copy of ``identity`` in which ``scale * branch`` is added to the given rows.

    Args:
        identity: ``(N, ...)``.
        branch: ``(M, ...)``, one row for each of ``rows``.
        rows: the ``M`` rows, as drawn by :func:`draw_rows`.
        scale: factor of the branch.
        inplace: keep the dtype of ``branch``, as ``branch += identity`` does; else the two are promoted.
    """
    dtype = branch.dtype
    if not inplace:
        dtype = torch.promote_types(identity.dtype, branch.dtype)
    if is_transformed():
        # Transforms do not know the autograd functions below: plain indexing, which they differentiate themselves.
        index = _indices(rows).to(identity.device)
        return identity.to(dtype).index_add(0, index, branch.to(dtype), alpha=scale)
    return _AddRows.apply(identity, branch, rows, scale, dtype)


# These take `ctx` in `forward`: the other form, with `setup_context`, costs 50 microseconds a call.
class _SelectRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        ctx.rows = rows
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        return take_rows(x, rows).detach(), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor | None, grad_x: Tensor | None) -> tuple[Tensor | None, None]:
        if grad_rows is None:
            return grad_x, None
        if grad_x is None:
            grad_x = _zeros(ctx.shape, grad_rows)
        elif not torch.is_grad_enabled():
            grad_x = grad_x.clone()  # others may hold this gradient
        # A backward pass that is differentiated itself (double backward) must not write in place.
        if torch.is_grad_enabled() or is_transformed():
            return add_rows(grad_x, grad_rows, ctx.rows), None
        return _add_into(grad_x, grad_rows, ctx.rows), None


class _AddRows(Function):
    @staticmethod
    def forward(ctx: Any, identity: Tensor, branch: Tensor, rows: Rows, scale: float, dtype: torch.dtype) -> Tensor:
        ctx.rows = rows
        ctx.scale = scale
        return _with_rows_added(identity, branch, rows, scale, dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            grad_branch, grad = select_rows(grad, ctx.rows)
        else:
            grad_branch = take_rows(grad, ctx.rows)
        if ctx.scale != 1.0:
            grad_branch = grad_branch * ctx.scale
        return grad, grad_branch, None, None, None


def _with_rows_added(identity: Tensor, branch: Tensor, rows: Rows, scale: float, dtype: torch.dtype) -> Tensor:
    identity = identity.to(dtype)
    branch = branch.to(dtype)
    if isinstance(rows, Tensor):
        return _add_into(identity.clone(), branch, rows, scale)
    # Each run is written once; a copy of `identity` that is added to would write the surviving runs twice.
    out = torch.empty_like(identity)
    for run, part in _by_run(branch, rows):
        torch.add(identity[run], part, alpha=scale, out=out[run])
    for run in dropped_runs(rows, len(out)):
        out[run].copy_(identity[run])
    return out


def _add_into(out: Tensor, branch: Tensor, rows: Rows, scale: float = 1.0) -> Tensor:
    if not isinstance(rows, Tensor):
        for run, part in _by_run(branch, rows):
            out[run].add_(part, alpha=scale)
    elif _is_channels_last(out):
        out.movedim(1, -1).index_add_(0, rows, branch.movedim(1, -1), alpha=scale)
    else:
        out.index_add_(0, rows, branch, alpha=scale)
    return out


def _by_run(branch: Tensor, rows: tuple[slice, ...]) -> Iterator[tuple[slice, Tensor]]:
    sizes = [run.stop - run.start for run in rows]
    return zip(rows, branch.split(sizes), strict=True)


def _indices(rows: Rows) -> Tensor:
    if isinstance(rows, Tensor):
        return rows
    return torch.cat([torch.arange(run.start, run.stop) for run in rows])


def _is_channels_last(x: Tensor) -> bool:
    # Rows of such a tensor are taken and added in the order of memory: indexing the tensor itself is slow, and loses
    # the memory format.
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def _zeros(shape: torch.Size, like: Tensor) -> Tensor:
    """Zeros in the memory format of ``like``, and a batch of them where ``like`` is a batch of gradients."""
    # `new_zeros`, not `torch.zeros`: within a vmap (is_grads_batched) `like` is many gradients, and the zeros must be.
    if not _is_channels_last(like):
        return like.new_zeros(shape)
    rows, channels, *size = shape
    return like.new_zeros((rows, *size, channels)).movedim(-1, 1)


def save_input_instead_of_rows(
    x: Tensor, rows: Tensor, gather: Callable[[Tensor], Tensor]
) -> AbstractContextManager[Any]:
    """While a branch runs on ``rows = gather(x)``, let autograd save ``x`` wherever it would save ``rows``.

    ``x`` is saved anyway, by the operation that made it: without this, ResNet-50 in mode ``row`` saves 116 MiB where
    full depth saves 107, and with it 99. Hooks that surround this context (activation checkpointing, offloading) see
    every tensor that is saved, ``x`` in place of ``rows``.

    Args:
        x: input of the block.
        rows: the copy, or a view of some rows.
        gather: makes it.

    Raises:
        RuntimeError: in the backward pass, where ``x`` was changed in place in the meantime.
    """
    if type(rows) is not Tensor or rows.data_ptr() == 0:  # a wrapper of tensors has no address to know it by
        return nullcontext()
    outer = hooks_on_saved_tensors()
    if outer is None:
        return nullcontext()
    pack_outside, unpack_outside = outer
    address = rows.data_ptr()
    identity = _identity_of(rows)
    source = weakref.ref(x)  # autograd keeps the hooks: they must not keep what checkpointing frees

    def pack(saved: Tensor) -> tuple[Any, int | None]:
        # The address first, which costs less than the identity: a block saves many tensors.
        if saved.data_ptr() != address or _identity_of(saved) != identity:
            # A saved output that the hook returned itself would hold its own graph, which then is never freed.
            return pack_outside(saved.detach()), None
        x_alive: Any = source()
        return pack_outside(x_alive.detach()), version_of(x_alive)

    def unpack(packed: tuple[Any, int | None]) -> Tensor:
        held, version = packed
        saved = unpack_outside(held)
        if version is None:
            return saved
        if unpack_outside is unchanged and version_of(saved) != version:
            raise RuntimeError("the input of a stochastic block was changed in place before its backward pass")
        return gather(saved)

    return saved_tensors_hooks(pack, unpack)


def version_of(x: Tensor) -> int | None:
    """Return how often a tensor was changed in place; None where PyTorch does not count."""
    if x.is_inference() or is_transformed():
        return None
    return x._version


def _identity_of(x: Tensor) -> tuple[Any, ...]:
    """What differs between a tensor and its other views, and between a tensor before and after a change in place."""
    return x.data_ptr(), x.shape, x.stride(), version_of(x), x.is_conj(), x.is_neg()


def is_transformed() -> bool:
    """Return whether a transform of ``torch.func`` or forward-mode differentiation is at work.

    Neither supports autograd functions without rules of their own, nor hooks on saved tensors.
    """
    from torch.autograd import forward_ad

    # Private names; a release without them runs all but the transforms.
    if getattr(forward_ad, "_current_level", -1) >= 0:
        return True
    has_transforms = getattr(torch._C, "_are_functorch_transforms_active", None)
    return has_transforms is not None and has_transforms()


def hooks_on_saved_tensors() -> tuple[Hook, Hook] | None:
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
