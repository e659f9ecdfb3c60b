"""The registry of blocks that surgery knows: those of torchvision, timm, transformers, and those that users add."""

import logging
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .ends import scalable_weights
from .gated import GatedBlock
from .spec import BlockSpec, Residual
from .timm import TIMM_BLOCKS
from .torchvision import TORCHVISION_BLOCKS
from .torchvision_families import NAMED_TORCHVISION_BLOCKS
from .transformers import TRANSFORMERS_BLOCKS

# Blocks of optional dependencies, by the full names of their classes: entered when a model holds them.
NAMED_BLOCKS: dict[str, BlockSpec] = {**NAMED_TORCHVISION_BLOCKS, **TRANSFORMERS_BLOCKS, **TIMM_BLOCKS}

# Version 0.1.0 refused to describe these anew, and so do we. What became known since is described in scripts of its
# time, and there the script's description stands.
_NEVER_REPLACED = (
    "torchvision.models.resnet.BasicBlock",
    "torchvision.models.resnet.Bottleneck",
    "torchvision.models.convnext.CNBlock",
    "torchvision.models.efficientnet.MBConv",
    "torchvision.models.efficientnet.FusedMBConv",
    "torchvision.models.swin_transformer.SwinTransformerBlock",
    "torchvision.models.swin_transformer.SwinTransformerBlockV2",
    "timm.models.resnet.BasicBlock",
    "timm.models.resnet.Bottleneck",
)

logger = logging.getLogger("stodepth_models")

_specs: dict[type[nn.Module], BlockSpec] = {}


def register_block(
    cls: type[nn.Module],
    branch: Callable[..., Tensor] | list[Mapping[str, Any]],
    identity: Callable[[Any, Tensor], Tensor] | None = None,
    activation: Callable[[Any, Tensor], Tensor] | None = None,
    *,
    last_norm: Callable[[Any], nn.Module] | None = None,
    per_sample: Iterable[str] = (),
    shared: Iterable[str] = (),
) -> None:
    """Teach :func:`apply_stochastic_depth` a block that computes ``activation(identity(x) + branch(x))``.

    Register next to the class: a pickled model needs it again where it is loaded. Subclasses are blocks of their own.
    A class that is registered anew changes for the models that are stochastic already, too. Where this package knows
    the class of another library, the registration takes the place of what it knows, and a line of the log says so.

    Args:
        cls: class whose ``forward`` takes a tensor, and perhaps further arguments. Masks (drop path) among the
            submodules of a block give way to its gates.
        branch: takes the block and ``x``, ``(N, ...)``, and where it has more parameters, the further arguments of
            ``forward`` by their names; returns what is left out, without any stochastic depth of its own. It keeps
            ``N``. A block with several residual connections: a list of mappings in forward order, each with the
            ``branch``, and perhaps the ``identity``, ``activation`` and ``last_norm``, of one connection.
        identity: the shortcut, from the block and ``x``; None: ``x`` itself.
        activation: what follows the sum, from the block and the sum; None: nothing.
        last_norm: from the block, the layer with weight and bias that ends the branch. What moves an evaluation scale
            into weights needs it: :func:`remove_stochastic_depth`, :func:`fold_rescale` and :func:`load_pretrained`
            under ``rescale="eval"``.
        per_sample: names of further arguments that hold a row for each sample, ``(N, ...)``: gates of rows cut them to
            the surviving rows.
        shared: names of further arguments that all samples share, whatever their shape.

    Raises:
        TypeError: ``cls`` is not a class of modules, or another argument not a function.
        ValueError: ``cls`` is one of the blocks of torchvision's or timm's that version 0.1.0 knew, or a list of
            descriptions is empty, or has a key that is none of the four.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(4, 4)
        ...     def forward(self, x):
        ...         return x + self.layer(x)
        >>> sdm.register_block(Block, branch=lambda block, x: block.layer(x))
        >>> sdm.apply_stochastic_depth(torch.nn.Sequential(Block(), Block()))
        2
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"cls must be a subclass of torch.nn.Module, got {cls!r}")
    if _full_name(cls) in _NEVER_REPLACED:
        raise ValueError(f"{cls.__module__}.{cls.__name__} is known already: register a subclass")
    whole = {"branch": branch, "identity": identity, "activation": activation, "last_norm": last_norm}
    descriptions = branch if isinstance(branch, list) else [whole]
    if isinstance(branch, list):
        _check_descriptions(whole)
    residuals = tuple(_residual(**description) for description in descriptions)
    known = find_spec(cls)
    if known is not None and not known.takes_all_masks:
        logger.warning("%s: what is registered takes the place of what is known of it", _full_name(cls))
    spec = BlockSpec(residuals, takes_all_masks=True, per_sample=tuple(per_sample), shared=tuple(shared))
    _enter(cls, spec)


def _check_descriptions(whole: Mapping[str, Any]) -> None:
    """Check what describes several connections.

    Raises:
        TypeError: an entry of the list is not a mapping.
        ValueError: the list is empty, an entry has a key that is not known, or is said beside the list.
    """
    descriptions = whole["branch"]
    if not descriptions:
        raise ValueError("branch must be a function, or a list with a mapping for each residual connection, got []")
    for description in descriptions:
        if not isinstance(description, Mapping):
            raise TypeError(f"each description in branch must be a mapping, got {description!r}")
        others = [key for key in description if key not in whole]
        if others or "branch" not in description:
            raise ValueError(
                f"each description in branch must have a 'branch', and beside it only {', '.join(list(whole)[1:])}, "
                f"got {', '.join(map(str, description)) or 'none'}"
            )
    for name, function in whole.items():
        if name != "branch" and function is not None:
            raise ValueError(f"{name} must stand in the descriptions where branch is a list of them")


def _residual(
    branch: Callable[..., Tensor],
    identity: Callable[[Any, Tensor], Tensor] | None = None,
    activation: Callable[[Any, Tensor], Tensor] | None = None,
    last_norm: Callable[[Any], nn.Module] | None = None,
) -> Residual:
    """One connection of a registered block.

    Raises:
        TypeError: an argument is not a function.
    """
    functions = {"branch": branch, "identity": identity, "activation": activation, "last_norm": last_norm}
    for name, function in functions.items():
        if callable(function) or (function is None and name != "branch"):
            continue
        takes = "the block" if name == "last_norm" else "the block and x"
        raise TypeError(f"{name} must be a function of {takes}, got {function!r}")
    residual = Residual(branch, identity, activation)
    if last_norm is None:
        return residual
    return replace(residual, scalable_weights=lambda block: scalable_weights(last_norm(block)))


def find_spec(cls: type[nn.Module]) -> BlockSpec | None:
    """Return what is known of exactly this class."""
    if cls not in _specs and _full_name(cls) in NAMED_BLOCKS:
        _enter(cls, NAMED_BLOCKS[_full_name(cls)])
    return _specs.get(cls)


def _full_name(cls: type[nn.Module]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def known_names() -> list[str]:
    """Names of the known classes, for messages."""
    return list(dict.fromkeys(cls.__name__ for cls in _specs))


def original_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the class that a stochastic block had, also one whose class was derived from since, or ``cls``."""
    return cls.stodepth_original if issubclass(cls, GatedBlock) else cls


def _enter(cls: type[nn.Module], spec: BlockSpec) -> None:
    gated: Any = spec.gated
    if gated is None:
        names = _gate_names(len(spec.residuals))
        # Blocks may have the stochastic class of this one already: what is registered anew is known to them, too.
        gated = getattr(_specs.get(cls), "gated", None)
        if gated is None or gated.stodepth_gate_names != names:
            gated = _make_gated(cls)
            gated.stodepth_gate_names = names
    gated.stodepth_spec = replace(spec, gated=gated)
    _specs[cls] = gated.stodepth_spec


def _gate_names(count: int) -> tuple[str, ...]:
    if count == 1:
        return ("stochastic_residual",)
    return tuple(f"stochastic_residual{number}" for number in range(1, count + 1))


def _make_gated(cls: type[nn.Module]) -> type[nn.Module]:
    def reduce(self: Any, protocol: Any) -> Any:
        # A class made at run time cannot be pickled by name. Its original can, and gives this one again.
        return (_rebuild, (cls,), *nn.Module.__reduce_ex__(self, protocol)[2:])

    body: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__, "__reduce_ex__": reduce}
    body["stodepth_original"] = cls
    return types.new_class(f"StoDepth{cls.__name__}", (GatedBlock, cls), exec_body=lambda space: space.update(body))


def _rebuild(cls: type[nn.Module]) -> nn.Module:
    """An empty block of the stochastic class made from ``cls``, for pickle and deepcopy to fill.

    Raises:
        ValueError: the class has not been registered in this process.
    """
    spec = find_spec(cls)
    if spec is None or spec.gated is None:
        raise ValueError(f"{cls.__name__} is not registered: call register_block({cls.__name__}, ...) before loading")
    return spec.gated.__new__(spec.gated)


for _cls, _spec in TORCHVISION_BLOCKS.items():
    _enter(_cls, _spec)
