"""Memory: a gathered copy of a block's input is gathered again in the backward pass instead of being kept beside it."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["save_instead"]


@torch.compiler.disable
def save_instead(x: Tensor, rows: Tensor, gather: Callable[[Tensor], Tensor]) -> AbstractContextManager[Any]:
    """While a branch runs on ``rows = gather(x)``, let autograd save ``x`` wherever it would save ``rows``.

    ``x`` is saved anyway, by the operation that made it. Hooks that surround this context (activation checkpointing,
    offloading) see every tensor that is saved, ``x`` in place of ``rows``.

    Args:
        x: input of the block.
        rows: the copy, or a view of some rows.
        gather: makes it.

    Raises:
        RuntimeError: in the backward pass, where ``x`` was changed in place in the meantime.
    """
    if type(rows) is not Tensor or rows.data_ptr() == 0:  # a wrapper of tensors has no address to tell it by
        return nullcontext()
    if not torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]
        return nullcontext()
    pack_outside, unpack_outside = torch._C._autograd._top_saved_tensors_default_hooks(False) or (_same, _same)
    address, kind = rows.data_ptr(), _identify(rows)
    source = weakref.ref(x)  # autograd keeps the hooks: they must not keep what checkpointing frees

    def pack(saved: Tensor) -> tuple[Any, int | None]:
        if saved.data_ptr() != address or _identify(saved) != kind:  # the address first: a block saves many tensors
            return pack_outside(saved), None
        x_alive: Any = source()
        return pack_outside(x_alive.detach()), x_alive._version

    def unpack(packed: tuple[Any, int | None]) -> Tensor:
        held, version = packed
        saved = unpack_outside(held)
        if version is None:
            return saved
        if unpack_outside is _same and saved._version != version:
            raise RuntimeError("the input of a stochastic block was changed in place before its backward pass")
        return gather(saved)

    return saved_tensors_hooks(pack, unpack)


def _identify(x: Tensor) -> tuple[Any, ...]:
    """What tells a tensor from its other views, and from itself before a change in place."""
    return x.data_ptr(), x.shape, x.stride(), x._version, x.is_conj(), x.is_neg()


def _same(x: Any) -> Any:
    return x
