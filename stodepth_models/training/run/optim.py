"""Optimizer, learning rate and survival schedule of a run."""

import math

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from ...schedules import SurvivalSchedule
from ..config import ModelConfig, OptimConfig

__all__ = ["lr_factor", "make_optimizer", "make_survival_schedule"]

_RISE = 0.3  # share of a one-cycle run in which the learning rate rises (Smith and Topin, arXiv:1708.07120)
_START = 1 / 25  # learning rate at its begin, over the peak


def make_optimizer(
    model: nn.Module, config: OptimConfig, epochs: int, steps_per_epoch: int
) -> tuple[SGD, LambdaLR]:  # fmt: skip
    """Return SGD over the parameters that are not frozen, and a scheduler to step after each of its steps."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = SGD(
        parameters, lr=config.lr, momentum=config.momentum, dampening=config.dampening,
        weight_decay=config.weight_decay, nesterov=config.nesterov,
    )  # fmt: skip
    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(config, step / steps_per_epoch, epochs))


def lr_factor(config: OptimConfig, epoch: float, epochs: int) -> float:
    """Return the learning rate over its peak.

    Args:
        config: settings.
        epoch: epochs done, with their fraction.
        epochs: of the run.
    """
    if epoch < config.warmup_epochs:
        return config.warmup_lr / config.lr
    done = min(1.0, epoch / epochs)
    if config.schedule == "step":
        return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if config.schedule == "cosine":
        return _fall(done)
    if config.schedule == "onecycle":
        return _START + (1 - _START) * done / _RISE if done < _RISE else _fall((done - _RISE) / (1 - _RISE))
    return 1.0


def make_survival_schedule(
    model: nn.Module, config: ModelConfig, epochs: int, steps_per_epoch: int
) -> tuple[SurvivalSchedule | None, bool]:
    """Return the schedule of the survival probabilities, None where they stay, and whether it moves at each step.

    ``ramp_epochs`` does; ``stoch_depth_probability`` moves from epoch to epoch.
    """
    if config.stoch_depth_probability is not None:
        start, end = config.stoch_depth_probability, config.final_stoch_depth_probability
        return SurvivalSchedule(model, max(1, epochs - 1), start=start, end=end), False
    if config.ramp_epochs:
        return SurvivalSchedule(model, config.ramp_epochs * steps_per_epoch), True
    return None, False


def _fall(share: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * share))
