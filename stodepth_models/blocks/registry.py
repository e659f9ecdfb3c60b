"""The registry of blocks that surgery knows: those of torchvision and timm, and the ones that users register."""

import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .gated import Connection, GatedBlock, KnownBlock, affine
from .torchvision import TORCHVISION_BLOCKS

__all__ = ["find_known", "known_names", "original_class", "register_block"]

TIMM_MODULE = "timm.models.resnet"

_known: dict[type[nn.Module], KnownBlock] = {}


def register_block(
    cls: type[nn.Module],
    branch: Callable[[Any, Tensor], Tensor],
    identity: Callable[[Any, Tensor], Tensor] | None = None,
    activation: Callable[[Any, Tensor], Tensor] | None = None,
    *,
    last_norm: Callable[[Any], nn.Module] | None = None,
) -> None:
    """Teach :func:`apply_stochastic_depth` a block that computes ``activation(identity(x) + branch(x))``.

    Register next to the class: a pickled model needs it again where it is loaded. Subclasses are blocks of their own.
    A class that is registered anew changes for the models that are stochastic already, too.

    Args:
        cls: class whose ``forward`` takes one tensor.
        branch: takes the block and ``x``, ``(N, ...)``; returns what is left out, without any stochastic depth of its
            own. It keeps ``N``.
        identity: the shortcut, from the block and ``x``; None: ``x`` itself.
        activation: what follows the sum, from the block and the sum; None: nothing.
        last_norm: from the block, the layer with weight and bias that ends the branch. What moves an evaluation scale
            into weights needs it: :func:`remove_stochastic_depth`, :func:`fold_rescale` and :func:`load_pretrained`
            under ``rescale="eval"``.

    Raises:
        TypeError: ``cls`` is not a class of modules, or another argument not a function.
        ValueError: ``cls`` is a block of torchvision's or timm's that is known already.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"cls must be a subclass of torch.nn.Module, got {cls!r}")
    if cls in TORCHVISION_BLOCKS or (cls.__module__ == TIMM_MODULE and find_known(cls)):
        raise ValueError(f"{cls.__module__}.{cls.__name__} is known already: register a subclass")
    functions = {"branch": branch, "identity": identity, "activation": activation, "last_norm": last_norm}
    for name, function in functions.items():
        if not callable(function) and (function is not None or name == "branch"):
            raise TypeError(
                f"{name} must be a function of the block{' and x' * (name != 'last_norm')}, got {function!r}"
            )
    scaling: dict[str, Any] = {} if last_norm is None else {"scaling": lambda block: affine(last_norm(block))}
    _enter(cls, KnownBlock((Connection(branch, identity, activation, **scaling),)))


def find_known(cls: type[nn.Module]) -> KnownBlock | None:
    """Return what is known of exactly this class."""
    if cls not in _known and cls.__module__ == TIMM_MODULE:
        from .timm import TIMM_BLOCKS  # timm is an optional dependency; here it is loaded already

        for block, known in TIMM_BLOCKS.items():
            if block not in _known:
                _enter(block, known)
    return _known.get(cls)


def known_names() -> str:
    """Names of the known classes, for messages."""
    return ", ".join(dict.fromkeys(cls.__name__ for cls in _known))


def original_class(cls: type[nn.Module]) -> type[nn.Module]:
    """Return the class that a stochastic block had, also one whose class was derived from since, or ``cls``."""
    if issubclass(cls, GatedBlock):
        return cls.stodepth_original
    if cls in _known:
        return cls
    return next((original for original, known in _known.items() if issubclass(cls, known.stochastic or ())), cls)


def _enter(cls: type[nn.Module], known: KnownBlock) -> None:
    if known.stochastic is None:
        gated: Any = _known[cls].stochastic if cls in _known else _make_gated(cls)
        gated.stodepth_connections = known.connections  # of blocks that have the class already, too
        known = replace(known, stochastic=gated)
    _known[cls] = known


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
    known = find_known(cls)
    if known is None or known.stochastic is None:
        raise ValueError(f"{cls.__name__} is not registered: call register_block({cls.__name__}, ...) before loading")
    return known.stochastic.__new__(known.stochastic)


for _cls, _block in TORCHVISION_BLOCKS.items():
    _enter(_cls, _block)
