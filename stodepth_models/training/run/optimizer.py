"""The optimizer of a run and its learning rate: those of the paper's recipes, or any of timm by name."""

import math
from types import SimpleNamespace

from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ..config import OptimConfig
from .libraries import classifiers

_RISE = 0.3  # share of a one-cycle run in which the learning rate rises (Smith and Topin, arXiv:1708.07120)
_START = 1 / 25  # learning rate at its begin, over the peak

# The layers of networks that follow torchvision's ResNets, as timm's own ResNets give them.
_RESNET_LAYERS = {"stem": r"^(?:conv1|bn1)\b", "blocks": r"^layer(\d+)\.(\d+)"}


def make_optimizer(
    model: nn.Module, config: OptimConfig, epochs: int, steps_per_epoch: int
) -> tuple[Optimizer, LambdaLR | Scheduler]:
    """Return an optimizer over the parameters that are not frozen, and its schedule: of torch, or where named of timm.

    Raises:
        Exception: whatever timm raises for a name or an argument that it does not know.
        ValueError: timm's schedule needs a metric, or does not end with the run.
    """
    optimizer = _timm_optimizer(model, config) if config.opt else _paper_optimizer(model, config)
    if not config.sched:
        return optimizer, LambdaLR(optimizer, lambda step: lr_factor(config, step / steps_per_epoch, epochs))
    if config.sched in ("none", "plateau"):
        raise ValueError(f"optim.sched={config.sched} is no schedule over epochs: take constant, or leave it out")
    settings = scheduler_kwargs(SimpleNamespace(**vars(config), epochs=epochs))
    settings |= {"updates_per_epoch": steps_per_epoch, **config.sched_args}
    scheduler, length = create_scheduler_v2(optimizer, **settings)
    if length != epochs:
        raise ValueError(f"optim.sched={config.sched} lasts {length} epochs: set epochs or optim.sched_args to match")
    return optimizer, scheduler


def lr_factor(config: OptimConfig, epoch: float, epochs: int) -> float:
    """Return the learning rate over its peak.

    Args:
        config: settings.
        epoch: epochs done, with their fraction.
        epochs: of the run.
    """
    if epoch < config.warmup_epochs:
        return config.warmup_lr / config.lr  # type: ignore[operator]  # the settings have filled it in
    done = min(1.0, epoch / epochs)
    if config.schedule == "step":
        return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if config.schedule == "cosine":
        return _fall(done)
    if config.schedule == "onecycle":
        return _START + (1 - _START) * done / _RISE if done < _RISE else _fall((done - _RISE) / (1 - _RISE))
    return 1.0


def _fall(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))


def _paper_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return SGD(
        parameters, lr=config.lr, momentum=config.momentum, dampening=config.dampening,
        weight_decay=config.weight_decay, nesterov=config.nesterov,
    )  # fmt: skip


def _timm_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    if config.layer_decay is not None:
        _name_layers(model)
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(config))
    for group in optimizer.param_groups:
        # The schedules of timm multiply by the scale themselves, from the learning rate that the group begins with.
        if not config.sched:
            group["lr"] *= group.get("lr_scale", 1.0)
    return optimizer


def _name_layers(model: nn.Module) -> None:
    """Give a model that is not timm's what timm finds layers by: else all are one layer, and the decay does nothing."""
    if hasattr(model, "group_matcher"):
        return
    if hasattr(model, "layer1"):
        vars(model)["group_matcher"] = lambda coarse: _RESNET_LAYERS
        return
    # Without a matcher timm takes each twelve parameters for a layer, and the classifier for the last one.
    vars(model)["pretrained_cfg"] = {"classifier": classifiers(model)}
