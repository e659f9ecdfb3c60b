"""Stochastic depth for a model that someone else built, and off again: blocks change their class, weights stay.

Signature and drop rates follow MosaicML Composer's ``apply_stochastic_depth``; the method is that of Huang et al.,
arXiv:1603.09382.
"""

import difflib
import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..layers.draw import MODES, RESCALES, check_choice, check_flag, check_probability
from ..layers.stochastic_gate import StochasticGate
from ..survival import linear_decay, uniform
from .fold import fold_gates
from .registry import find_known, known_names, original_class
from .swap import check_swappable, gates_of, make_stochastic, restore

__all__ = ["apply_stochastic_depth", "check_method", "remove_stochastic_depth"]

logger = logging.getLogger("stodepth_models")

METHODS = {"block": "batch", "sample": "row", **{mode: mode for mode in MODES}}
DISTRIBUTIONS = ("linear", "uniform")
COMPOSER_NAMES = {"ResNetBottleneck": "Bottleneck"}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def apply_stochastic_depth(
    model: nn.Module,
    target_layer_name: str | type[nn.Module] | None = None,
    stochastic_method: str = "block",
    drop_rate: float = 0.2,
    drop_distribution: str = "linear",
    optimizers: Any = None,
    *,
    rescale: str = "train",
    sync_gates: bool = False,
) -> int:
    """Give every known residual block of ``model`` a branch that is left out at random, in place.

    Blocks change their class; parameters, their names, optimizers and checkpoints stay as they are. Stochastic depth
    that a block already carries is replaced. On a block that is stochastic already, the settings are replaced. Where
    that changes a scale in evaluation, a line of the log says so: :func:`fold_rescale` before it keeps the outputs.

    Args:
        model: a torchvision or timm ResNet, alone or as a backbone, torchvision's ConvNeXt, EfficientNet or Swin
            Transformer, or any model with blocks that :func:`register_block` knows.
        target_layer_name: class, or name of the class, of the blocks to change; ``"ResNetBottleneck"`` is Composer's
            name of Bottleneck. None: every known block.
        stochastic_method: ``"block"`` draws one gate for a whole batch, ``"sample"`` one for each row; ``"batch"``,
            ``"row"`` and ``"subset"`` are the modes of :class:`StochasticResidual`.
        drop_rate: chance in ``[0, 1]`` that the last block is dropped.
        drop_distribution: ``"linear"``: block i of L, from 1, is dropped with ``i / L * drop_rate``; ``"uniform"``: all
            with ``drop_rate``.
        optimizers: not needed, since the parameters stay; accepted for Composer's sake.
        rescale: where the expectation is matched. ``"train"``: a surviving branch is divided by its survival
            probability in training, evaluation is as it was. ``"eval"``: evaluation times the survival probability, as
            Composer does. ``"none"``: neither.
        sync_gates: all ranks draw the same gates; see :class:`StochasticGate`.

    Returns:
        Number of blocks that are stochastic now by this call.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value that is not allowed, or no block to change. The model is left as it was.
    """
    check_method(stochastic_method, drop_distribution, rescale, sync_gates)
    check_probability("drop_rate", drop_rate)
    blocks = _find_blocks(model, target_layer_name)
    for name, block in blocks:
        if not gates_of(block):
            check_swappable(name, block)
    before = {gate: gate.eval_scale for _, block in blocks for gate in gates_of(block)}
    count, last = len(blocks), 1.0 - drop_rate
    probs = linear_decay(count, 1.0, last, rule="paper") if drop_distribution == "linear" else uniform(count, last)
    for (_, block), survival_prob in zip(blocks, probs, strict=True):
        for gate in gates_of(block) or make_stochastic(block):
            gate.survival_prob, gate.mode, gate.rescale = survival_prob, METHODS[stochastic_method], rescale
            gate.sync_gates = sync_gates
    changed = [scale for gate, scale in before.items() if scale not in (1.0, gate.eval_scale)]
    if changed:
        logger.warning(
            "%s computes something else in evaluation now: %d branches were scaled there, by %.3g on average; "
            "fold_rescale before apply_stochastic_depth would have kept what it computed",
            type(model).__name__,
            len(changed),
            sum(changed) / len(changed),
        )
    return count


def check_method(stochastic_method: str, drop_distribution: str, rescale: str, sync_gates: bool) -> None:
    """Refuse what :func:`apply_stochastic_depth` would refuse, whatever the model.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value that is not allowed.
    """
    check_choice("stochastic_method", stochastic_method, tuple(METHODS))
    check_choice("drop_distribution", drop_distribution, DISTRIBUTIONS)
    check_choice("rescale", rescale, RESCALES)
    check_flag("sync_gates", sync_gates)


def remove_stochastic_depth(model: nn.Module) -> None:
    """Give every stochastic block its original class back, in place; evaluation outputs stay.

    Under ``rescale="eval"`` the evaluation scale is multiplied into the layer that ends the branch. Stochastic depth
    that a block carried before :func:`apply_stochastic_depth` is back in its place. Gates in classes that call them by
    themselves stay, which a line of the log says.

    Args:
        model: a model with stochastic blocks, also one that this package built.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: no stochastic block, one with a ``forward`` of its own, one that has changed its class since
            (``parametrize``, ``fully_shard``), or a scaled branch that does not end in a layer with a weight of its
            own. The model is left as it was.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    blocks = [(name, module) for name, module in model.named_modules() if gates_of(module)]
    staying = _gates_beside(model, [block for _, block in blocks])
    remark = f"gates written by hand stay, at {', '.join(staying)}" if staying else _seen(model)
    if not blocks:
        raise ValueError(f"model must have known blocks with stochastic depth, got {type(model).__name__}: {remark}")
    for name, block in blocks:
        check_swappable(name, block)
    fold_gates([(name, block, gate) for name, block in blocks for gate in gates_of(block)])
    for _, block in blocks:
        restore(block)
    if staying:
        logger.warning("%s: %s", type(model).__name__, remark)


def _gates_beside(model: nn.Module, blocks: list[nn.Module]) -> list[str]:
    """Names of the gates that are not those of the given blocks."""
    known = {gate for block in blocks for gate in gates_of(block)}
    modules = model.named_modules()
    return [name or "the model" for name, gate in modules if isinstance(gate, StochasticGate) and gate not in known]


def _find_blocks(model: nn.Module, target: str | type[nn.Module] | None) -> list[tuple[str, nn.Module]]:
    """Names and modules of the blocks to change, in forward order."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not (target is None or isinstance(target, (str, type))):
        raise TypeError(f"target_layer_name must be a class, the name of one, or None, got {target!r}")
    blocks = [(name, block) for name, block, cls in _known_blocks(model) if target is None or _matches(cls, target)]
    if not blocks:
        wanted = "a known residual block" if target is None else f"target_layer_name={target!r} among its known blocks"
        names = [*COMPOSER_NAMES, *_names_of(model)]
        near = difflib.get_close_matches(target, names, 1) if isinstance(target, str) else []
        wanted += f", did you mean {near[0]!r}" if near else ""
        raise ValueError(
            f"{type(model).__name__} does not hold {wanted}; {_seen(model)}; known: {known_names()}; "
            "teach others with register_block"
        )
    return blocks


def _known_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module, type[nn.Module]]]:
    for name, module in model.named_modules():
        cls = original_class(type(module))
        known = find_known(cls)
        if known is not None and known.is_residual(module):
            yield name, module, cls


def _names_of(model: nn.Module) -> list[str]:
    """What ``target_layer_name`` can say of this model."""
    classes = [(cls, getattr(find_known(cls), "stochastic", None)) for _, _, cls in _known_blocks(model)]
    return [cls.__name__ for pair in dict.fromkeys(classes) for cls in pair if cls]


def _matches(cls: type[nn.Module], target: str | type[nn.Module]) -> bool:
    if isinstance(target, str):
        stochastic = getattr(find_known(cls), "stochastic", None)
        return COMPOSER_NAMES.get(target, target) in [known.__name__ for known in (cls, stochastic) if known]
    return cls is original_class(target)


def _seen(model: nn.Module) -> str:
    """The classes of modules that could be blocks: those that hold others."""
    classes = dict.fromkeys(type(m) for m in model.modules() if next(m.children(), None) is not None)
    for container in (type(model), *CONTAINERS):
        classes.pop(container, None)
    return f"block classes seen: {', '.join(dict.fromkeys(map(_name, classes))) or 'none'}"


def _name(cls: type[nn.Module]) -> str:
    """The name of a class, with its module where it is that of a known one."""
    is_namesake = cls.__name__ in known_names().split(", ") and find_known(original_class(cls)) is None
    return f"{cls.__module__}.{cls.__name__}" if is_namesake else cls.__name__
