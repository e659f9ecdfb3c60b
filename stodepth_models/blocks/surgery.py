"""Stochastic depth for a model that someone else built, and off again: blocks change their class, weights stay.

Signature and drop rates follow MosaicML Composer's ``apply_stochastic_depth``; the method is that of Huang et al.,
arXiv:1603.09382.
"""

import copy
import logging
from itertools import cycle
from typing import Any

from torch import nn
from torchvision.models import ResNet

from ..checks import check_choice, check_flag, check_probability
from ..layers.draw import MODES, RESCALES
from ..layers.residual import StochasticResidual
from ..survival import linear_decay, uniform
from .carried import check_masks, check_scales, survival_of_masks
from .find import classes_seen, find_blocks, gated_blocks_of, gates_beside
from .gated import GatedBlock
from .registry import original_class
from .swap import check_swappable, make_stochastic, restore_blocks

logger = logging.getLogger("stodepth_models")

METHODS = {"block": "batch", "sample": "row", **{mode: mode for mode in MODES}}
DISTRIBUTIONS = ("linear", "uniform")

# What builders of this package write on the models they make.
ATTRIBUTES_OF_BUILDERS = {
    *("recipe", "built_with", "categories", "checkpoint_stages", "pruned_depth", "_hub_mixin_config"),
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
        model: a model of torchvision, timm or transformers whose blocks are known, alone or as a backbone
            (``docs/surgery.md`` lists them), or any model with blocks that :func:`register_block` knows.
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

    Examples:
        >>> import torchvision, stodepth_models as sdm
        >>> model = torchvision.models.resnet18()
        >>> sdm.apply_stochastic_depth(model, drop_rate=0.2)
        8
        >>> round(sdm.survival_probs(model)[-1], 2)
        0.8
    """
    check_method(stochastic_method, drop_distribution, rescale, sync_gates)
    if drop_rate is not None:
        check_probability("drop_rate", drop_rate)
    blocks = find_blocks(model, target_layer_name)
    for name, block in blocks:
        if not isinstance(block, GatedBlock):
            check_swappable(name, block)
    check_masks(model, blocks, target_layer_name)
    if drop_rate is None:
        probs = survival_of_masks(model, blocks)
        if rescale == "train":
            check_scales(blocks)
    else:
        probs = _survival_of_rule(len(blocks), drop_rate, drop_distribution)
    before: dict[StochasticResidual, float] = {}
    for (_, block), of_block in zip(blocks, probs, strict=True):
        if isinstance(block, GatedBlock):
            before.update({gate: gate.eval_scale for gate in block.stodepth_gates})
        else:
            make_stochastic(block)
        gates: list[StochasticResidual] = block.stodepth_gates  # type: ignore[assignment]
        for gate, survival_prob in zip(gates, cycle(of_block), strict=False):
            gate.survival_prob, gate.mode, gate.rescale = survival_prob, METHODS[stochastic_method], rescale
            gate.sync_gates = sync_gates
    _log_changes(model, before)
    return len(blocks)


def _survival_of_rule(count: int, drop_rate: float, distribution: str) -> list[list[float]]:
    """The survival probability of each of ``count`` blocks, which all its residual connections share."""
    if distribution == "linear":
        probs = linear_decay(count, 1.0, 1.0 - drop_rate, rule="paper")
    else:
        probs = uniform(count, 1.0 - drop_rate)
    return [[prob] for prob in probs]


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

    Examples:
        >>> import torchvision, stodepth_models as sdm
        >>> model = torchvision.models.resnet18()
        >>> sdm.apply_stochastic_depth(model)
        8
        >>> sdm.remove_stochastic_depth(model)
        >>> sdm.survival_probs(model)
        []
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    blocks = gated_blocks_of(model)
    staying = gates_beside(model, blocks)
    remark = f"gates written by hand stay, at {', '.join(staying)}" if staying else classes_seen(model)
    if not blocks:
        raise ValueError(f"model must have known blocks with stochastic depth, got {type(model).__name__}: {remark}")
    restore_blocks(blocks)
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

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.resnet18_stodepth_lineardecay(num_classes=5)
        >>> type(sdm.to_torchvision(model))
        <class 'torchvision.models.resnet.ResNet'>
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
    check_swappable("", model)
    others = gates_beside(model, gated_blocks_of(model))
    if others:
        raise ValueError(f"gates must sit in torchvision's residual blocks, got others at {', '.join(others)}")
    for _, block in gated_blocks_of(model):
        if not block.stodepth_original.__module__.startswith("torchvision."):
            raise ValueError(f"gates must sit in torchvision's residual blocks, got one in {type(block).__name__}")
    plain = copy.deepcopy(model)
    restore_blocks(gated_blocks_of(plain))
    if _is_ours(type(model)):
        for attribute in vars(plain).keys() & ATTRIBUTES_OF_BUILDERS:
            delattr(plain, attribute)
    for module in plain.modules():
        module.__class__ = _foreign_class(module)
    return plain


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
