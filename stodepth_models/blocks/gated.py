"""The block class that gates the residual connections of another one, as its description says."""

from inspect import signature
from typing import Any, ClassVar

import torch
import torch.fx
from torch import Tensor, nn

from ..layers.residual import StochasticResidual
from ..layers.tracing import trace_as_leaf
from .spec import BlockSpec


class GatedBlock(nn.Module):
    """Mixed in before a block's class: its residual connections, each through a gate of its own.

    The gates are submodules without weights, so that the state dict stays that of the original class. This class comes
    first, and would take a name away from the block: its own names begin with that of the package.

    Attributes:
        stodepth_original: the class that the block had.
        stodepth_spec: its residual connections.
        stodepth_gate_names: names of the gates, in forward order.
    """

    stodepth_original: ClassVar[type[nn.Module]]
    stodepth_spec: ClassVar[BlockSpec]
    stodepth_gate_names: ClassVar[tuple[str, ...]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stodepth_add_gates()

    def stodepth_add_gates(self) -> None:
        """Add a gate for each residual connection, at survival probability 1."""
        for name, residual in zip(self.stodepth_gate_names, self.stodepth_spec.residuals, strict=True):
            gate = StochasticResidual()
            gate._inplace, gate._branch_first, gate._may_alias = residual.inplace, residual.branch_first, True
            self.add_module(name, gate.train(self.training))

    @property
    def stodepth_gates(self) -> list[StochasticResidual]:
        """The gates, in forward order."""
        return [getattr(self, name) for name in self.stodepth_gate_names]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the original class returns for ``x``, ``(N, ...)``, and its further arguments."""
        if args and isinstance(args[0], torch.fx.Proxy):
            return trace_as_leaf(self, *args, **kwargs)
        # Nothing touches `x` before the compiler leaves this frame: its guards do not multiply with the shapes.
        for gate in self.stodepth_gates:
            if gate.draws():
                return self._stodepth_forward_drawing(*args, **kwargs)
        return self._stodepth_forward(False, *args, **kwargs)

    @torch.compiler.disable
    def _stodepth_forward_drawing(self, *args: Any, **kwargs: Any) -> Any:
        return self._stodepth_forward(True, *args, **kwargs)

    def _stodepth_forward(self, draws: bool, *args: Any, **kwargs: Any) -> Any:
        x, arguments = self._stodepth_bind(*args, **kwargs)
        spec = self.stodepth_spec
        if spec.input is not None:
            x = spec.input(self, x)
        more: list[Any] = []
        for residual, gate in zip(spec.residuals, self.stodepth_gates, strict=True):
            x = residual.add(self, gate, x, arguments, draws, more)
        return x if spec.output is None else spec.output(self, x, more, arguments)

    def _stodepth_bind(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return ``x`` and the arguments beside it by their names in the original's ``forward``."""
        stream = self.stodepth_spec.stream
        if len(args) == 1 and not kwargs and stream is None:
            return args[0], {}
        bound = signature(self.stodepth_original.forward).bind(self, *args, **kwargs)
        _, x, *positional = bound.args
        _, first, *names = bound.arguments
        arguments = {**dict(zip(names, positional, strict=False)), **bound.kwargs}
        if stream is not None:
            arguments[first] = x
            x = arguments.pop(stream)
        return x, arguments
