"""From settings to a model: built, loaded, and made ready to train."""

import dataclasses
from collections.abc import Iterable

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from ...flops import count_flops
from ...layers.stochastic_gate import StochasticGate
from ...survival import linear_decay, survival_probs
from ...weights.load import builder_source
from ..config import ModelConfig
from ..errors import SettingsError
from .masking import mask_branches

__all__ = ["Shares", "build_model", "check_model", "freeze_stem", "prepare_for_training"]


def build_model(config: ModelConfig, num_classes: int | None) -> nn.Module:
    """Return a model of the zoo, with weights where ``config.weights`` names some.

    Args:
        config: settings.
        num_classes: length of the output where ``config.num_classes`` does not give it; None: that of the weights.

    Raises:
        ValueError: an option that the builder does not take, or weights that do not fit.
    """
    classes = config.num_classes or num_classes
    options = config.options if classes is None else {"num_classes": classes, **config.options}
    try:
        model = get_model(
            config.name, prob_0_L=(1.0, 1.0) if config.masked else config.prob_0_L,
            mult_flag=config.mult_flag, mode=config.mode, rescale=config.rescale, depth_rule=config.depth_rule,
            sync_gates=config.sync_gates, weights=config.weights, checkpoint_stages=config.checkpoint_stages, **options,
        )  # fmt: skip
    except TypeError as error:
        raise ValueError(f"model: {error}") from None
    if config.masked:
        mask_branches(model, linear_decay(len(survival_probs(model)), *config.prob_0_L, rule=config.depth_rule))
    return model


def check_model(config: ModelConfig) -> None:
    """Build the model without memory for its weights, so that a wrong option is found before any data is read.

    Raises:
        SettingsError: the builder refuses the settings, or ``config.weights`` is no name, file or URL of weights.
    """
    try:
        builder_source(config.name, get_model_weights(config.name), False, config.weights)
    except (ValueError, TypeError, OSError) as error:
        raise SettingsError(f"model.weights: {error}") from None
    try:
        with torch.device("meta"):
            build_model(dataclasses.replace(config, weights=None), None)
    except Exception as error:  # whatever an option of the wrong kind provokes in a layer
        reason = next(iter(str(error).splitlines()), type(error).__name__).removeprefix("model: ")
        given = f", given model.options {config.options}" if config.options else ""
        raise SettingsError(f"model: {reason}{given}") from None


def prepare_for_training(model: nn.Module, config: ModelConfig) -> nn.Module:
    """Return the model with synchronised batch norm and a frozen stem, as configured."""
    if config.sync_batchnorm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.frozen_stem:
        for module in (model.conv1, model.bn1):
            module.requires_grad_(False)
    return model.to(memory_format=torch.channels_last)


def freeze_stem(model: nn.Module, config: ModelConfig) -> None:
    """Keep the stem's batch-norm statistics; to be called after every ``model.train()``."""
    if config.frozen_stem:
        model.bn1.eval()  # type: ignore[union-attr]


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
