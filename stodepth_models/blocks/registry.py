"""The registry of blocks that surgery knows: those of torchvision, timm, transformers, and those that users add."""

import types
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .gated import BlockSpec, GatedBlock, Residual, scalable_weights
from .timm import TIMM_BLOCKS
from .timm_resnets import RESNETS
from .torchvision import NAMED_TORCHVISION_BLOCKS, TORCHVISION_BLOCKS
from .transformers import TRANSFORMERS_BLOCKS

# Blocks of optional dependencies, by the full names of their classes: entered when a model holds them.
NAMED_BLOCKS: dict[str, BlockSpec] = {**NAMED_TORCHVISION_BLOCKS, **TRANSFORMERS_BLOCKS, **TIMM_BLOCKS}

_specs: dict[type[nn.Module], BlockSpec] = {}


def register_block(
    cls: type[nn.Module],
    branch: Callable[..., Tensor],
    identity: Callable[[Any, Tensor], Tensor] | None = None,
    activation: Callable[[Any, Tensor], Tensor] | None = None,
    *,
    last_norm: Callable[[Any], nn.Module] | None = None,
    per_sample: Iterable[str] = (),
    shared: Iterable[str] = (),
) -> None:
    """Teach :func:`apply_stochastic_depth` a block that computes ``activation(identity(x) + branch(x))``.

    Register next to the class: a pickled model needs it again where it is loaded. Subclasses are blocks of their own.
    A class that is registered anew changes for the models that are stochastic already, too. What is said of a class of
    transformers, or of timm beside its ResNets, goes before what this package knows of it.

    Args:
        cls: class whose ``forward`` takes a tensor, and perhaps further arguments.
        branch: takes the block and ``x``, ``(N, ...)``, and where it has more parameters, the further arguments of
            ``forward`` by their names; returns what is left out, without any stochastic depth of its own. It keeps
            ``N``.
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
        ValueError: ``cls`` is a block of torchvision's or timm's that is known already.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"cls must be a subclass of torch.nn.Module, got {cls!r}")
    if cls in TORCHVISION_BLOCKS or _full_name(cls) in (f"timm.models.{name}" for name in RESNETS):
        raise ValueError(f"{cls.__module__}.{cls.__name__} is known already: register a subclass")
    functions = {"branch": branch, "identity": identity, "activation": activation, "last_norm": last_norm}
    for name, function in functions.items():
        if callable(function) or (function is None and name != "branch"):
            continue
        takes = "the block" if name == "last_norm" else "the block and x"
        raise TypeError(f"{name} must be a function of {takes}, got {function!r}")
    residual = Residual(branch, identity, activation)
    if last_norm is not None:
        residual = replace(residual, scalable_weights=lambda block: scalable_weights(last_norm(block)))
    _enter(cls, BlockSpec((residual,), per_sample=tuple(per_sample), shared=tuple(shared)))


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
        # A class that is registered anew keeps its stochastic class, which blocks may have already.
        gated = _specs[cls].gated if cls in _specs else _make_gated(cls)
    count = len(spec.residuals)
    if spec.gated is None:
        numbers = range(1, count + 1)
        gated.stodepth_gate_names = ("stochastic_residual",)
        if count > 1:
            gated.stodepth_gate_names = tuple(f"stochastic_residual{number}" for number in numbers)
    gated.stodepth_spec = replace(spec, gated=gated)
    _specs[cls] = gated.stodepth_spec


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
