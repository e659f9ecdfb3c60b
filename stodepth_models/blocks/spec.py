"""The description of a block: its residual connections, and how its ``forward`` takes and returns what it does.

A family of blocks is a :class:`BlockSpec`, in ``torchvision.py``, ``timm.py``, ``transformers.py`` or a user's
:func:`register_block`: how to compute each residual branch, its shortcut and its activation. ``gated.py`` does the rest
for all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

from ..layers.branch import is_relu_output
from ..layers.residual import StochasticResidual
from .ends import ScalableWeights, scalable_weights
from .masks import is_mask


def _not_scalable(block: Any) -> ScalableWeights:
    return scalable_weights(None)


def _always(block: Any) -> bool:
    return True


def _takes_arguments(function: Callable[..., Any]) -> bool:
    """Whether a function of a block and ``x`` takes the block's further arguments too."""
    kinds = [parameter.kind for parameter in signature(function).parameters.values()]
    return len(kinds) > 2 or Parameter.VAR_KEYWORD in kinds


@dataclass(frozen=True)
class Residual:
    """One residual connection, ``activation(identity(x) + branch(x))``; every function takes the block first.

    Attributes:
        branch: what the gate leaves out, from the block and ``x``, and where it has more parameters, from the arguments
            of the block beside ``x``.
        identity: the shortcut, from the block and ``x``; None: ``x``.
        prepare: in place of ``identity``, from the block and ``x``, and where it has more parameters, from the
            arguments of the block beside ``x``, the branch's input and the shortcut: what they share, such as the
            normalisation in front of both, is computed once and for all rows.
        activation: what follows the sum, also in place: a function of the block and the sum, or the name of a
            submodule; None: nothing.
        mask: name of a submodule that masks the branch at random, whose place the gate takes.
        returns_more: the branch returns a tuple: what is added, and what ``BlockSpec.output`` gets beside it.
        inplace: the block adds into its branch's output and keeps its dtype, as ``out += identity`` does.
        branch_first: the block computes ``branch + identity``, and not ``identity + branch``, which is the same but for
            the memory format of the sum.
        is_there: from the block, whether it has this connection; where it has not, what ``prepare`` does stays.
        scalable_weights: from the block, the weights that scale the branch. A ValueError says what it ends in instead.
    """

    branch: Callable[..., Any]
    identity: Callable[[Any, Tensor], Tensor] | None = None
    activation: Callable[[Any, Tensor], Tensor] | str | None = None
    mask: str | None = None
    inplace: bool = False
    scalable_weights: Callable[[Any], ScalableWeights] = _not_scalable
    returns_more: bool = False
    prepare: Callable[..., tuple[Tensor, Tensor]] | None = None
    is_there: Callable[[Any], bool] = _always
    branch_first: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "_takes_arguments", _takes_arguments(self.branch))

    def add(
        self,
        block: Any,
        gate: StochasticResidual,
        x: Tensor,
        arguments: Mapping[str, Any],
        draws: bool,
        more: list[Any],
    ) -> Tensor:
        """Return the connection's output.

        Args:
            block: the block.
            gate: the gate of this connection.
            x: input of the connection, ``(N, ...)``.
            arguments: arguments of the block beside ``x``.
            draws: whether gates are drawn in this pass.
            more: gets what the branch returns beside what is added; nothing where the branch is dropped.
        """
        x, identity = self._start(block, x, arguments)
        if not self.is_there(block):
            return identity
        if self._takes_arguments:  # type: ignore[attr-defined]
            spec: BlockSpec = block.stodepth_spec
            per_sample, shared = spec.split(block, x, arguments, by_row=draws and gate.mode != "batch")
            branch = partial(_call_with, self.branch, block, shared, tuple(per_sample))
        else:
            per_sample = {}
            branch = partial(self.branch, block)
        if self.returns_more:
            branch = partial(_call_for_first, branch, more)
        out = gate(branch, x, identity, *per_sample.values())
        is_dropped = out is identity or (draws and gate.last_share == 0.0)
        return self._activate(block, out, is_dropped)

    def _start(self, block: Any, x: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the input of the branch, and the shortcut."""
        if self.prepare is None:
            identity = x if self.identity is None else self.identity(block, x)
            return x, identity
        if _takes_arguments(self.prepare):
            return self.prepare(block, x, **arguments)
        return self.prepare(block, x)

    def _activate(self, block: Any, out: Tensor, is_dropped: bool) -> Tensor:
        activation = self.activation
        if isinstance(activation, str):
            activation = getattr(block, activation)
            if is_dropped and type(activation) is nn.ReLU and is_relu_output(out):
                return out  # another ReLU would change nothing, and save its output
            activation = partial(_apply, activation)
        if is_dropped:
            # What follows may write in place, and autograd, or a caller, still need the shortcut.
            out = out.clone()
        return out if activation is None else activation(block, out)


def _call_with(
    branch: Callable[..., Tensor],
    block: Any,
    shared: Mapping[str, Any],
    names: tuple[str, ...],
    x: Tensor,
    *rows: Tensor,
) -> Tensor:
    return branch(block, x, **shared, **dict(zip(names, rows, strict=True)))


def _call_for_first(branch: Callable[..., Any], more: list[Any], *inputs: Tensor) -> Tensor:
    out, *others = branch(*inputs)
    more += others
    return out


def _apply(activation: Callable[[Tensor], Tensor], block: Any, out: Tensor) -> Tensor:
    return activation(out)


@dataclass(frozen=True)
class BlockSpec:
    """What surgery knows of a block class.

    Attributes:
        residuals: its residual connections in forward order; the output of one is the input of the next.
        is_residual: whether a block of the class has a residual connection at all.
        masks_alone: a block without a residual connection uses its mask nevertheless.
        takes_all_masks: the gates take the place of every mask among the block's submodules, whatever its name.
        per_sample: arguments of ``forward`` beside ``x`` that hold a row for each sample, where they have more than
            one: gates of rows cut them to the surviving rows.
        shared: arguments that all samples share, whatever their first dimension.
        ranks: how many dimensions an argument of ``per_sample`` has where it holds a row for each sample; with another
            number all samples share it.
        stream: argument of ``forward`` that the connections add to; None: the first. The first is then an argument
            beside ``x`` like any other.
        input: from the block and ``x``, the input of the first connection, which keeps ``N``; None: ``x``.
        output: what ``forward`` returns, from the block, the last connection's output, the list of what branches with
            ``returns_more`` returned beside, for the surviving rows, and the arguments beside ``x``; None: that output.
        gated: class to swap in; None: one is made.
    """

    residuals: tuple[Residual, ...]
    is_residual: Callable[[Any], bool] = _always
    masks_alone: bool = False
    takes_all_masks: bool = False
    per_sample: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    stream: str | None = None
    input: Callable[[Any, Tensor], Tensor] | None = None
    output: Callable[[Any, Tensor, list[Any], Mapping[str, Any]], Any] | None = None
    gated: type[nn.Module] | None = None

    def mask_names(self, block: nn.Module) -> list[str]:
        """Return the names of the submodules of ``block`` that mask a branch, each once."""
        if self.takes_all_masks:
            return [name for name, child in block.named_children() if is_mask(child)]
        return list(dict.fromkeys(residual.mask for residual in self.residuals if residual.mask is not None))

    def split(
        self, block: nn.Module, x: Tensor, arguments: Mapping[str, Any], by_row: bool
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the arguments that have a row for each sample, and the others.

        Raises:
            TypeError: gates are drawn row by row, and nobody has said whether an argument as long as the batch holds a
                row for each sample.
        """
        per_sample: dict[str, Tensor] = {}
        shared: dict[str, Any] = {}
        for name, value in arguments.items():
            is_as_long = isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(x)
            if is_as_long and name in self.ranks:
                is_as_long = value.dim() == self.ranks[name]
            if is_as_long and name in self.per_sample:
                per_sample[name] = value
                continue
            if is_as_long and by_row and len(x) > 1 and name not in self.shared:
                raise TypeError(
                    f"{name} of {type(block).__name__} is as long as the batch of {len(x)}, and gates of rows do not "
                    f"know whether it holds a row for each sample: name it in register_block, as "
                    f"per_sample=[{name!r}] or as shared=[{name!r}]"
                )
            shared[name] = value
        return per_sample, shared
