"""From settings to a model that is built, loaded and ready to train, with its survival schedule."""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights

from ...blocks.torchvision import StoDepthBasicBlock, StoDepthBottleneck
from ...flops import count_flops
from ...layers.drop_path import drop_path
from ...layers.residual import StochasticGate
from ...schedules import SurvivalSchedule
from ...survival import linear_decay, survival_probs
from ...weights.prefix import under_prefix
from ...weights.sources import read_checkpoint, resolve_source
from ..config import ModelConfig
from ..errors import SettingsError, first_line
from ..model_config import ALL_BUT_CLASSIFIER, PRETRAINED
from .libraries import build_of_library, classifiers


def build_model(config: ModelConfig, num_classes: int | None, weights: Any = None) -> nn.Module:
    """Return a model of the zoo or of a library, with weights where ``config.weights`` names some.

    Args:
        config: settings.
        num_classes: length of the output where ``config.num_classes`` does not give it; None: that of the weights.
        weights: what was read of ``config.weights``; None: they are read here.

    Raises:
        ValueError: an option that the builder does not take, or weights that do not fit.
    """
    if weights is None:
        weights = config.weights
    if config.weights_prefix is not None:
        source = resolve_source(weights, weights_enum(config), config.name)
        weights = under_prefix(read_checkpoint(source), config.weights_prefix)
    classes = config.num_classes or num_classes
    if config.is_of_library:
        return build_of_library(config, classes, weights)
    options = dict(config.options)
    if classes is not None:
        options.setdefault("num_classes", classes)
    # Masks stand for the gates: the network itself has constant depth.
    prob_0_L = (1.0, 1.0) if config.masked else config.prob_0_L
    try:
        model = get_model(
            config.name, prob_0_L=prob_0_L, mult_flag=config.mult_flag, mode=config.mode, rescale=config.rescale,
            depth_rule=config.depth_rule, sync_gates=config.sync_gates, weights=weights,
            checkpoint_stages=config.checkpoint_stages, **options,
        )  # fmt: skip
    except TypeError as error:
        raise ValueError(f"model: {error}") from None
    if config.masked:
        mask_branches(model, linear_decay(len(survival_probs(model)), *config.prob_0_L, rule=config.depth_rule))
    return model


def weights_enum(config: ModelConfig) -> type[WeightsEnum] | None:
    """Return the weights that are published for a model; None for one of a library."""
    return None if config.is_of_library else get_model_weights(config.name)


def check_model(config: ModelConfig) -> None:
    """Build the model without memory for its weights, so that a wrong option is found before any data is read.

    Raises:
        SettingsError: the builder refuses the settings, or ``config.weights`` is no name, file or URL of weights.
    """
    try:
        if config.weights not in (None, PRETRAINED):
            resolve_source(config.weights, weights_enum(config), config.name)
    except (ValueError, TypeError, OSError) as error:
        raise SettingsError(f"model.weights: {error}") from None
    try:
        with torch.device("meta"):
            build_model(dataclasses.replace(config, weights=None, weights_prefix=None), None)
    except Exception as error:  # whatever an option of the wrong kind provokes in a layer
        reason = first_line(error).removeprefix("model: ")
        given = f", given model.options {config.options}" if config.options else ""
        if not reason.startswith("model."):
            reason = f"model: {reason}"
        raise SettingsError(f"{reason}{given}") from None


def prepare_for_training(model: nn.Module, config: ModelConfig) -> nn.Module:
    """Return the model with synchronised batch norm and frozen layers, as configured."""
    if config.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in frozen_modules(model, config):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


def frozen_modules(model: nn.Module, config: ModelConfig) -> list[nn.Module]:
    """Return the modules that keep their weights: those up to ``config.freeze``, in the order of their registration.

    Raises:
        ValueError: the model has no module of that name.
    """
    last = "bn1" if config.frozen_stem else config.freeze
    if last is None:
        return []
    if last == ALL_BUT_CLASSIFIER:
        heads = classifiers(model)
        return [module for name, module in model.named_modules() if not _is_below(name, heads)]
    inside = [number for number, (name, _) in enumerate(model.named_modules()) if _is_below(name, (last,))]
    if not inside:
        stages = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"model.freeze must be {ALL_BUT_CLASSIFIER} or a module such as {stages}, got {last!r}")
    return list(model.modules())[: inside[-1] + 1]


def freeze_norms(model: nn.Module, config: ModelConfig) -> None:
    """Keep the batch-norm statistics of frozen layers; to be called after every ``model.train()``."""
    for module in frozen_modules(model, config):
        if hasattr(module, "running_mean"):
            module.eval()


def _is_below(name: str, parents: Sequence[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def mask_branches(model: nn.Module, survival: Sequence[float]) -> None:
    """Zero random rows of each branch in training and divide the others by their survival probability.

    Args:
        model: a model of the zoo at constant depth; its weights keep their names.
        survival: survival probability of each block, in forward order.
    """
    blocks = [module for module in model.modules() if isinstance(module, (StoDepthBasicBlock, StoDepthBottleneck))]
    for block, survival_prob in zip(blocks, survival, strict=True):
        block.last_norm.register_forward_hook(partial(_mask, survival_prob))


def _mask(survival_prob: float, norm: nn.Module, inputs: Any, out: Tensor) -> Tensor:
    return drop_path(out, survival_prob) if norm.training else out


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


class Shares:
    """Shares of the FLOPs of a forward pass at full depth that training executes, each in ``[0, 1]``.

    Args:
        model: a model before it is wrapped.
        side: of its images, in pixels.
    """

    def __init__(self, model: nn.Module, side: int) -> None:
        self.gates = [module for module in model.modules() if isinstance(module, StochasticGate)]
        self.count = count_flops(model, torch.empty(1, 3, side, side))

    def expected(self) -> float:
        """Return the share expected over the gates, under the survival probabilities of now."""
        return self._share(gate.survival_prob for gate in self.gates)

    def executed(self) -> float:
        """Return the share that the last forward pass executed."""
        return self._share(1.0 if gate.survival_prob == 1.0 else gate.last_share for gate in self.gates)

    def _share(self, kept: Iterable[float]) -> float:
        return self.count.expected(kept).share
