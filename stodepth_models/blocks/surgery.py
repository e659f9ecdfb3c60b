"""Stochastic depth for a model that someone else built, and off again: blocks change their class, weights stay.

Signature and drop rates follow MosaicML Composer's ``apply_stochastic_depth``; the method is that of Huang et al.,
arXiv:1603.09382.
"""

import copy
import difflib
import logging
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from torch import nn
from torchvision.models import ResNet

from ..checks import check_choice, check_flag, check_probability
from ..layers.draw import MODES, RESCALES
from ..layers.residual import StochasticGate, StochasticResidual
from ..survival import linear_decay, uniform
from .fold import Gated, fold_gates
from .gated import GatedBlock, mask_rate
from .masks import masks_beside
from .registry import find_spec, known_names, original_class

logger = logging.getLogger("stodepth_models")

METHODS = {"block": "batch", "sample": "row", **{mode: mode for mode in MODES}}
DISTRIBUTIONS = ("linear", "uniform")
COMPOSER_NAMES = {"ResNetBottleneck": "Bottleneck"}
SAVED_MASKS = "_stodepth_masks"  # attribute of a stochastic block: the masks whose place its gates take
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

# What builders of this package write on the models they make.
ATTRIBUTES_OF_BUILDERS = {
    *("recipe", "built_with", "categories", "checkpoint_stages", "_hub_mixin_config"),
    *("_has_warned_of_norms", "_has_warned_of_scales"),
}


def apply_stochastic_depth(
    model: nn.Module,
    target_layer_name: str | type[nn.Module] | None = None,
    stochastic_method: str = "block",
    drop_rate: float | None = 0.2,
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
        drop_rate: chance in ``[0, 1]`` that the last block is dropped. None: each branch has the rate of the mask
            (drop path) that the model carries for it, and 0 where it carries none; with
            ``stochastic_method="sample"`` the model is trained as before, without the work of dropped branches.
        drop_distribution: ``"linear"``: block i of L, from 1, is dropped with ``i / L * drop_rate``; ``"uniform"``: all
            with ``drop_rate``. It has no part in ``drop_rate=None``.
        optimizers: not needed, since the parameters stay; accepted for Composer's sake.
        rescale: where the expectation is matched. ``"train"``: a surviving branch is divided by its survival
            probability in training, evaluation is as it was. ``"eval"``: evaluation times the survival probability, as
            Composer does. ``"none"``: neither.
        sync_gates: all ranks draw the same gates; see :class:`StochasticGate`.

    Returns:
        Number of blocks that are stochastic now by this call.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value that is not allowed, no block to change, a mask (drop path) in a block that is not known
            while ``target_layer_name`` is None, or ``drop_rate=None`` and no mask with a rate above 0. The model is
            left as it was.
    """
    check_method(stochastic_method, drop_distribution, rescale, sync_gates)
    if drop_rate is not None:
        check_probability("drop_rate", drop_rate)
    blocks = _find_blocks(model, target_layer_name)
    for name, block in blocks:
        if not isinstance(block, GatedBlock):
            _check_swappable(name, block)
    _check_masks(model, blocks, target_layer_name)
    count = len(blocks)
    if drop_rate is None:
        probs = _survival_of_masks(model, blocks)
    elif drop_distribution == "linear":
        probs = [[prob] for prob in linear_decay(count, 1.0, 1.0 - drop_rate, rule="paper")]
    else:
        probs = [[prob] for prob in uniform(count, 1.0 - drop_rate)]
    before: dict[StochasticResidual, float] = {}
    for (_, block), of_block in zip(blocks, probs, strict=True):
        if isinstance(block, GatedBlock):
            before.update({gate: gate.eval_scale for gate in block.stodepth_gates})
        else:
            _make_stochastic(block)
        gates: list[StochasticResidual] = block.stodepth_gates  # type: ignore[assignment]
        for gate, survival_prob in zip(gates, cycle(of_block), strict=False):
            gate.survival_prob, gate.mode, gate.rescale = survival_prob, METHODS[stochastic_method], rescale
            gate.sync_gates = sync_gates
    _log_changes(model, before)
    return count


def _check_masks(model: nn.Module, blocks: list[tuple[str, nn.Module]], target: str | type[nn.Module] | None) -> None:
    """Refuse a model that would be half converted, unless the caller has chosen the blocks.

    Raises:
        ValueError: masks would stay in blocks that are not known, and no target was given.
    """
    unknown, alone = masks_beside(model, {block for _, block in blocks})
    kind = type(model).__name__
    if unknown and target is None:
        raise ValueError(
            f"{kind} masks branches (drop path) in {', '.join(unknown)} too, where the masks would stay: teach them "
            "with register_block, or choose the blocks to change with target_layer_name"
        )
    if unknown or alone:
        logger.warning("%s: the masks (drop path) in %s stay", kind, ", ".join([*unknown, *alone]))


def _survival_of_masks(model: nn.Module, blocks: list[tuple[str, nn.Module]]) -> list[list[float]]:
    """Survival probabilities of the residual connections of each block, by the masks that the model carries."""
    probs: list[list[float]] = []
    for _, block in blocks:
        spec: Any = find_spec(original_class(type(block)))
        masks = {name: getattr(block, name, None) for name in spec.mask_names()}
        masks.update(vars(block).get(SAVED_MASKS, {}))
        probs.append([1.0 - mask_rate(masks.get(residual.mask)) for residual in spec.residuals])
    if all(prob == 1.0 for of_block in probs for prob in of_block):
        raise ValueError(
            "drop_rate=None takes the rates of the masks (drop path) that the model carries, and "
            f"{type(model).__name__} carries none above 0: build it with drop_path_rate, or give drop_rate"
        )
    return probs


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
    blocks = _gated_blocks(model)
    staying = _gates_beside(model, blocks)
    remark = f"gates written by hand stay, at {', '.join(staying)}" if staying else _seen(model)
    if not blocks:
        raise ValueError(f"model must have known blocks with stochastic depth, got {type(model).__name__}: {remark}")
    _restore_blocks(blocks)
    if staying:
        logger.warning("%s: %s", type(model).__name__, remark)


def to_torchvision(model: nn.Module) -> ResNet:
    """Return a plain ``torchvision.models.ResNet`` with the same evaluation outputs; ``model`` is left as it is.

    Evaluation scales are folded into the weights. The result needs nothing of this package, also when pickled, and
    keeps the attributes that others have set on the model.

    Args:
        model: a model of the ImageNet family.

    Raises:
        TypeError: ``model`` is not a torchvision ResNet, or of a subclass of it.
        ValueError: a model of the CIFAR family, which torchvision has no class for, or one with gates in other places
            than its residual blocks, or in blocks that :func:`remove_stochastic_depth` refuses.
    """
    kind = type(model).__name__
    if not isinstance(model, ResNet):
        if _is_ours(type(model)):
            raise ValueError(
                f"model must be of the ImageNet family, torchvision has no {kind}: use fold_rescale(model)"
            )
        raise TypeError(f"model must be a torchvision ResNet with stochastic depth, got {kind}")
    if _foreign_class(model) is not ResNet:
        raise TypeError(
            f"model must be a ResNet itself, got its subclass {kind}, whose own code would be lost: "
            "use remove_stochastic_depth(model)"
        )
    _check_swappable("", model)
    others = _gates_beside(model, _gated_blocks(model))
    if others:
        raise ValueError(f"gates must sit in torchvision's residual blocks, got others at {', '.join(others)}")
    for _, block in _gated_blocks(model):
        if not block.stodepth_original.__module__.startswith("torchvision."):
            raise ValueError(f"gates must sit in torchvision's residual blocks, got one in {type(block).__name__}")
    plain = copy.deepcopy(model)
    _restore_blocks(_gated_blocks(plain))
    if _is_ours(type(model)):
        for attribute in vars(plain).keys() & ATTRIBUTES_OF_BUILDERS:
            delattr(plain, attribute)
    for module in plain.modules():
        module.__class__ = _foreign_class(module)
    return plain


def _check_swappable(name: str, block: nn.Module) -> None:
    """Refuse a block whose class does not decide what it computes.

    Raises:
        ValueError: the block has a ``forward`` of its own, or its class was derived from the stochastic one.
    """
    if "forward" in vars(block):
        raise ValueError(
            f"{name or 'the model'} has a forward method of its own, which would outlive a change of its class: "
            "undo what has replaced it, or call apply_stochastic_depth first and remove_stochastic_depth last"
        )
    if not isinstance(block, GatedBlock):
        return
    gated: Any = block.stodepth_spec.gated or type(block)
    if type(block) is not gated:
        raise ValueError(
            f"{name or 'the model'} is a {type(block).__name__}, made from {gated.__name__}, and would lose what "
            "that class adds: undo that (parametrize, fully_shard), or call remove_stochastic_depth before it"
        )


def _make_stochastic(block: Any) -> None:
    """Swap the class of a known block: its masks give way to gates."""
    spec: Any = find_spec(type(block))
    masks: dict[str, nn.Module] = {}
    for name in spec.mask_names():
        if isinstance(getattr(block, name, None), nn.Module):
            masks[name] = getattr(block, name)
            setattr(block, name, nn.Identity())
    vars(block)[SAVED_MASKS] = masks  # past the registration of submodules
    block.__class__ = spec.gated
    block.stodepth_add_gates()


def _restore_blocks(blocks: list[tuple[str, GatedBlock]]) -> None:
    """Give stochastic blocks their original classes, and their masks, back; scales move into the weights.

    Raises:
        ValueError: a block refuses. All are left as they were.
    """
    gates: list[Gated] = []
    for name, block in blocks:
        _check_swappable(name, block)
        gates += [(name, block, gate) for gate in block.stodepth_gates]
    fold_gates(gates)
    for _, block in blocks:
        for gate_name in block.stodepth_gate_names:
            delattr(block, gate_name)
        for mask_name, mask in _saved_masks(block).items():
            setattr(block, mask_name, mask.train(block.training))
        block.__class__ = block.stodepth_original  # type: ignore[assignment]


def _saved_masks(block: GatedBlock) -> dict[str, nn.Module]:
    saved = vars(block).pop(SAVED_MASKS, {})
    if "_mask" in vars(block):  # of a pickle of version 0.1.0: the one mask, in a tuple
        name = block.stodepth_spec.residuals[0].mask
        return {str(name): vars(block).pop("_mask")[0]}
    return saved


def _gated_blocks(model: nn.Module) -> list[tuple[str, GatedBlock]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, GatedBlock)]


def _gates_beside(model: nn.Module, blocks: list[tuple[str, GatedBlock]]) -> list[str]:
    """Names of the gates that are not those of the given blocks."""
    known: set[nn.Module] = set()
    for _, block in blocks:
        known.update(block.stodepth_gates)
    gates = [(name, module) for name, module in model.named_modules() if isinstance(module, StochasticGate)]
    return [name or "the model" for name, gate in gates if gate not in known]


def _log_changes(model: nn.Module, before: dict[StochasticResidual, float]) -> None:
    changed = [scale for gate, scale in before.items() if scale not in (1.0, gate.eval_scale)]
    if changed:
        logger.warning(
            "%s computes something else in evaluation now: %d branches were scaled there, by %.3g on average; "
            "fold_rescale before apply_stochastic_depth would have kept what it computed",
            type(model).__name__,
            len(changed),
            sum(changed) / len(changed),
        )


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "stodepth_models"


def _foreign_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, or the nearest base that is not of this package."""
    bases = original_class(type(module)).__mro__
    return next(cls for cls in bases if not _is_ours(cls))


def _find_blocks(model: nn.Module, target: str | type[nn.Module] | None) -> list[tuple[str, nn.Module]]:
    """Names and modules of the blocks to change, in forward order."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not (target is None or isinstance(target, (str, type))):
        raise TypeError(f"target_layer_name must be a class, the name of one, or None, got {target!r}")
    known = list(_known_blocks(model))
    blocks = [(name, block) for name, block, cls in known if target is None or _matches(cls, target)]
    if blocks:
        return blocks
    wanted = "a known residual block"
    if target is not None:
        names = list(dict.fromkeys(name for _, _, cls in known for name in _names_of(cls)))
        wanted = f"target_layer_name={target!r} among its known blocks: {', '.join(names) or 'none'}"
        near = difflib.get_close_matches(str(target), names, 1)
        if near:
            wanted += f"; did you mean {near[0]!r}"
    raise ValueError(
        f"{type(model).__name__} does not hold {wanted}; {_seen(model)}; known: {', '.join(known_names())}; "
        "teach others with register_block"
    )


def _known_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module, type[nn.Module]]]:
    for name, module in model.named_modules():
        cls = original_class(type(module))
        spec = find_spec(cls)
        if spec is not None and spec.is_residual(module):
            yield name, module, cls


def _names_of(cls: type[nn.Module]) -> list[str]:
    """What ``target_layer_name`` can say of a known class."""
    names = [cls.__name__]
    for composers, ours in COMPOSER_NAMES.items():
        if ours in names:
            names.append(composers)
    gated = getattr(find_spec(cls), "gated", None)
    if gated is not None:
        names.append(gated.__name__)
    return names


def _matches(cls: type[nn.Module], target: str | type[nn.Module]) -> bool:
    if isinstance(target, str):
        return target in _names_of(cls)
    return cls is original_class(target)


def _seen(model: nn.Module) -> str:
    """The classes of modules that could be blocks: those that hold others."""
    classes: dict[type[nn.Module], None] = {}
    for module in model.modules():
        if next(module.children(), None) is not None and type(module) not in (type(model), *CONTAINERS):
            classes[type(module)] = None
    names = dict.fromkeys(map(_distinct_name, classes))
    return f"block classes seen: {', '.join(names) or 'none'}"


def _distinct_name(cls: type[nn.Module]) -> str:
    """The name of a class, with its module where it is that of a known one."""
    is_namesake = cls.__name__ in known_names() and find_spec(original_class(cls)) is None
    return f"{cls.__module__}.{cls.__name__}" if is_namesake else cls.__name__
