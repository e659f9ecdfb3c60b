"""The description of a block: its residual connections, and how its ``forward`` takes and returns what it does.

A family of blocks is a :class:`BlockSpec`, in ``torchvision.py``, ``timm.py``, ``transformers.py`` or a user's
:func:`register_block`: how to compute each residual branch, its shortcut and its activation. ``gated.py`` computes
them, with gates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

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
        is_there: from the block, whether it has this connection; where it has not, what ``prepare`` does stays. None:
            each block has it.
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
    is_there: Callable[[Any], bool] | None = None
    branch_first: bool = False

    # Read from the signatures once: a forward pass has no time for it.
    branch_takes_arguments: bool = field(init=False, default=False)
    prepare_takes_arguments: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "branch_takes_arguments", _takes_arguments(self.branch))
        if self.prepare is not None:
            object.__setattr__(self, "prepare_takes_arguments", _takes_arguments(self.prepare))


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
        names: dict[str, None] = {}  # a set would lose their order
        for residual in self.residuals:
            if residual.mask is not None:
                names[residual.mask] = None
        return list(names)
