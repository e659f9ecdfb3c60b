"""Residual connections of blocks that someone else wrote: how to compute them, and a block class that gates them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch.fx
from torch import Tensor, nn

from ..layers.branch import output_dtype
from ..layers.eager import for_any_batch
from ..layers.residual import StochasticResidual
from ..layers.tracing import trace_as_leaf

__all__ = ["Connection", "GatedBlock", "KnownBlock", "Scaling", "affine"]

Scaling = list[tuple[Tensor, int]]
"""Weights to multiply by powers of a factor, so that a branch's output is multiplied by the factor."""


def affine(layer: Any) -> Scaling:
    """Return the scaling of a layer whose output is linear in its weight and bias, such as a normalisation.

    Raises:
        ValueError: ``layer`` has no weight, or more than weight and bias (adapters, parametrizations), or is None: not
            known.
    """
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if layer is None:
        raise ValueError("it does not end in a layer that is known")
    if not isinstance(weight, Tensor):
        raise ValueError(f"it ends in {type(layer).__name__} without a weight")
    if any(parameter is not weight and parameter is not bias for parameter in layer.parameters()):
        raise ValueError(f"it ends in {type(layer).__name__} with parameters beside weight and bias")
    return [(weight, 1), (bias, 1)] if isinstance(bias, Tensor) else [(weight, 1)]


def _promoted(block: Any, x: Tensor, identity: Tensor) -> torch.dtype:
    """Dtype of ``identity + branch(x)`` for a branch that ends in a convolution or a linear layer."""
    return torch.promote_types(identity.dtype, output_dtype(x))


def _not_foldable(block: Any) -> Scaling:
    return affine(None)


@dataclass(frozen=True)
class Connection:
    """One residual connection, ``activation(identity(x) + branch(x))``; every function takes the block first.

    Attributes:
        branch: what the gate leaves out.
        identity: the shortcut; None: ``x``.
        activation: what follows the sum, also in place; None: nothing.
        inplace: the block adds into its branch's output and keeps its dtype; see :class:`StochasticResidual`.
        dtype: dtype of the result, from block, ``x`` and identity, where the branch is not computed.
        scaling: the weights that scale the branch. A ValueError says what it ends in instead.
    """

    branch: Callable[[Any, Tensor], Tensor]
    identity: Callable[[Any, Tensor], Tensor] | None = None
    activation: Callable[[Any, Tensor], Tensor] | None = None
    inplace: bool = False
    dtype: Callable[[Any, Tensor, Tensor], torch.dtype] = _promoted
    scaling: Callable[[Any], Scaling] = _not_foldable

    def add(self, block: nn.Module, gate: StochasticResidual, x: Tensor) -> Tensor:
        """Return the connection's output for ``x``, ``(N, ...)``."""
        identity = x if self.identity is None else self.identity(block, x)
        return self._finish(block, gate, x, identity, gate(partial(self.branch, block), x, identity))

    @torch.compiler.disable(recursive=False)  # see StochasticResidual
    def add_gated(self, block: nn.Module, gate: StochasticResidual, x: Tensor) -> Tensor:
        """What :meth:`add` returns, outside of compiled code."""
        given = for_any_batch(x)
        identity = given if self.identity is None else self.identity(block, given)
        identity = x if identity is given else identity
        return self._finish_eagerly(block, gate, x, identity, gate(partial(self.branch, block), x, identity))

    def _finish(self, block: nn.Module, gate: StochasticResidual, x: Tensor, identity: Tensor, out: Tensor) -> Tensor:
        if gate.has_dropped_all():  # a copy, as what follows may write in place and autograd need the shortcut
            out = out.to(out.dtype if self.inplace else self.dtype(block, x, identity), copy=out is identity)
        return out if self.activation is None else self.activation(block, out)

    @torch.compiler.disable
    def _finish_eagerly(
        self, block: nn.Module, gate: StochasticResidual, x: Tensor, identity: Tensor, out: Tensor
    ) -> Tensor:
        return self._finish(block, gate, x, identity, out)


class GatedBlock(nn.Module):
    """Mixed in before a block's class: its residual connections, each through a gate of its own.

    The gates are submodules without weights, so that the state dict stays that of the original class. This class comes
    first, and would take a name away from the block: its own names begin with that of the package.

    Attributes:
        stodepth_original: the class that the block had.
        stodepth_connections: in forward order; the output of one is the input of the next.
    """

    stodepth_original: ClassVar[type[nn.Module]]
    stodepth_connections: ClassVar[tuple[Connection, ...]]

    @classmethod
    def stodepth_gate_names(cls) -> list[str]:
        """Names of the gates, in forward order."""
        count = len(cls.stodepth_connections)
        return (
            [f"stochastic_residual{number}" for number in range(1, count + 1)] if count > 1 else ["stochastic_residual"]
        )

    @property
    def stodepth_gates(self) -> list[StochasticResidual]:
        """The gates, in forward order."""
        return [getattr(self, name) for name in self.stodepth_gate_names()]

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``x``, ``(N, ...)``."""
        draws = any(gate.draws() for gate in self.stodepth_gates)
        return self._stodepth_forward_gated(x) if draws else self._stodepth_forward(x)

    def _stodepth_forward(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):
            return trace_as_leaf(self, x)
        for connection, gate in zip(self.stodepth_connections, self.stodepth_gates, strict=True):
            x = connection.add(self, gate, x)
        return x

    @torch.compiler.disable(recursive=False)
    def _stodepth_forward_gated(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):
            return trace_as_leaf(self, x)
        for connection, gate in zip(self.stodepth_connections, self.stodepth_gates, strict=True):
            x = connection.add_gated(self, gate, x)
        return x


@dataclass(frozen=True)
class KnownBlock:
    """What surgery knows of a block class.

    Attributes:
        connections: its residual connections in forward order.
        mask: name of a submodule that masks the branch at random, whose place the gates take.
        is_residual: whether a block of the class has a residual connection at all.
        stochastic: class to swap in; None: one is made from ``connections``.
    """

    connections: tuple[Connection, ...]
    mask: str | None = None
    is_residual: Callable[[Any], bool] = lambda block: True
    stochastic: type[nn.Module] | None = None
