"""The block class that gates the residual connections of another one, as its description says."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any, ClassVar

import torch
import torch.fx
from torch import Tensor, nn

from ..layers.branch import is_relu_output
from ..layers.residual import StochasticResidual
from ..layers.tracing import trace_as_leaf
from .spec import BlockSpec, Residual


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
            gate._inplace = residual.inplace
            gate._branch_first = residual.branch_first
            gate._may_alias = True  # the activation copies the shortcut where it must
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
            x = _add(residual, self, gate, x, arguments, draws, more)
        if spec.output is None:
            return x
        return spec.output(self, x, more, arguments)

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


def _add(
    residual: Residual,
    block: GatedBlock,
    gate: StochasticResidual,
    x: Tensor,
    arguments: Mapping[str, Any],
    draws: bool,
    more: list[Any],
) -> Tensor:
    """Return the output of a residual connection.

    Args:
        residual: its description.
        block: the block.
        gate: the gate of this connection.
        x: input of the connection, ``(N, ...)``.
        arguments: arguments of the block beside ``x``.
        draws: whether gates are drawn in this pass.
        more: gets what the branch returns beside what is added; nothing where the branch is dropped.
    """
    x, identity = _input_and_shortcut(residual, block, x, arguments)
    if residual.is_there is not None and not residual.is_there(block):
        return identity
    per_sample: dict[str, Tensor] = {}
    if residual.branch_takes_arguments:
        by_row = draws and gate.mode != "batch"
        per_sample, shared = _split(block, x, arguments, by_row)
        branch = partial(_call_with, residual.branch, block, shared, tuple(per_sample))
    else:
        branch = partial(residual.branch, block)
    if residual.returns_more:
        branch = partial(_call_for_first, branch, more)
    out = gate(branch, x, identity, *per_sample.values())
    is_dropped = out is identity or (draws and gate.last_share == 0.0)
    return _activate(residual, block, out, is_dropped)


def _input_and_shortcut(
    residual: Residual, block: GatedBlock, x: Tensor, arguments: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    if residual.prepare is None:
        if residual.identity is None:
            return x, x
        return x, residual.identity(block, x)
    if residual.prepare_takes_arguments:
        return residual.prepare(block, x, **arguments)
    return residual.prepare(block, x)


def _activate(residual: Residual, block: GatedBlock, out: Tensor, is_dropped: bool) -> Tensor:
    activation = residual.activation
    if isinstance(activation, str):
        layer = getattr(block, activation)
        if is_dropped and type(layer) is nn.ReLU and is_relu_output(out):
            return out  # another ReLU would change nothing, and save its output
        if is_dropped:
            # A layer may write in place, and autograd, or a caller, still need the shortcut.
            out = out.clone()
        return layer(out)
    if is_dropped:
        out = out.clone()  # what follows the block may write in place, too
    if activation is None:
        return out
    return activation(block, out)


def _split(
    block: GatedBlock, x: Tensor, arguments: Mapping[str, Any], by_row: bool
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the arguments that have a row for each sample, and the others.

    Raises:
        TypeError: gates are drawn row by row, and nobody has said whether an argument as long as the batch holds a
            row for each sample.
    """
    spec = block.stodepth_spec
    per_sample: dict[str, Tensor] = {}
    shared: dict[str, Any] = {}
    for name, value in arguments.items():
        is_as_long = isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(x)
        if is_as_long and name in spec.ranks:
            is_as_long = value.dim() == spec.ranks[name]
        if is_as_long and name in spec.per_sample:
            per_sample[name] = value
            continue
        if is_as_long and by_row and len(x) > 1 and name not in spec.shared:
            raise TypeError(
                f"{name} of {type(block).__name__} is as long as the batch of {len(x)}, and gates of rows do not "
                f"know whether it holds a row for each sample: name it in register_block, as "
                f"per_sample=[{name!r}] or as shared=[{name!r}]"
            )
        shared[name] = value
    return per_sample, shared


def _call_with(
    branch: Callable[..., Tensor],
    block: Any,
    shared: Mapping[str, Any],
    names: tuple[str, ...],
    x: Tensor,
    *rows: Tensor,
) -> Tensor:
    """Call a branch with the arguments of the block, of which the gate has cut some to the surviving rows."""
    per_sample = dict(zip(names, rows, strict=True))
    return branch(block, x, **shared, **per_sample)


def _call_for_first(branch: Callable[..., Any], more: list[Any], *inputs: Tensor) -> Tensor:
    out, *others = branch(*inputs)
    more += others
    return out
