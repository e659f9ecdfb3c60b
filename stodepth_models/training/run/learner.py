"""A model and everything that changes its weights: loss, optimizer, schedules, the average of the weights."""

import dataclasses
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from timm.optim import list_optimizers
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ...checks import did_you_mean
from ...survival import set_survival_probs, survival_probs
from ..config import ModelConfig, TrainConfig
from ..data.augmentation import make_transform
from ..data.datasets import Data
from ..errors import SettingsError, first_line
from .machine import free_group_last
from .model import Shares, build_model, freeze_norms, make_survival_schedule, prepare_for_training
from .objective import Objective
from .optimizer import make_optimizer

# timm has no list of its schedules.
_SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "rsqrt", "constant")


def check_timm(config: TrainConfig) -> None:
    """Transform an image and take a step, so that what timm does not know is found before any data is read.

    Raises:
        SettingsError: timm refuses a name or an argument, or the optimizer needs more than gradients.
    """
    side, model = config.data.image_size or 224, nn.Linear(2, 2)
    data = Data(None, None, None, (), side, side, 0, True, torch.zeros(3), torch.ones(3))
    try:
        if config.data.uses_timm:
            make_transform(config.data, data)(Image.new("RGB", (side, side)))
        optim = dataclasses.replace(config.optim, layer_decay=None)  # a single layer has none
        optimizer, _ = make_optimizer(model, optim, config.epochs, steps_per_epoch=2)
        model.weight.sum().backward()
        optimizer.step()
    except Exception as error:  # whatever an argument of the wrong kind provokes
        raise SettingsError(_refused_by_timm(first_line(error), config)) from None


def _refused_by_timm(reason: str, config: TrainConfig) -> str:
    """Name the settings that timm got, and the name that is nearest to one that it does not know."""
    names: dict[str, Any] = {
        "optim.opt": config.optim.opt,
        "optim.sched": config.optim.sched,
        "data.aa": config.data.aa,
    }
    names["optim.opt_args"] = config.optim.opt_args or None
    given = [f"{setting}={name}" for setting, name in names.items() if name is not None]
    parts = [reason.rstrip(".,")]
    if given:
        parts[0] += f", given {', '.join(given)}"
    if config.data.aa is not None:
        parts.append("policies are such as rand-m9-mstd0.5, augmix-m5, original, 3a and ta_wide")
    optimizers = tuple(map(str, list_optimizers()))
    for name, known in ((config.optim.opt, optimizers), (config.optim.sched, _SCHEDULES)):
        if name is not None and name not in known:
            parts.append(did_you_mean(name, known))
    return "; ".join(filter(None, parts))


class Learner:
    """What a run trains, and what its checkpoints hold beside the progress.

    Args:
        config: settings.
        model_config: the network; ``config.model``, without the weights where a checkpoint replaces them.
        accelerator: device and processes.
        data: images.
        steps_per_epoch: optimizer steps.

    Attributes:
        bare: the model, on the device.
        model: the same, wrapped for data parallelism.
        ema: average of the weights; None where the run keeps none.
        shares: of the FLOPs that a pass executes.
    """

    def __init__(
        self, config: TrainConfig, model_config: ModelConfig, accelerator: Accelerator, data: Data, steps_per_epoch: int
    ) -> None:
        self.config, self.accelerator = config, accelerator
        torch.manual_seed(config.seed)  # every process builds the same model
        bare = build_model(model_config, len(data.classes))
        try:
            self.shares = Shares(bare, data.image_size)
        except Exception as error:  # whatever a model provokes that is made for images of one size
            raise ValueError(
                f"{config.model.name} computes no images of {data.image_size} pixels ({first_line(error)}): set "
                "data.image_size, or an option such as model.options.img_size"
            ) from None
        self.survival, self.survival_moves_by_step = make_survival_schedule(
            bare, config.model, config.epochs, steps_per_epoch
        )
        assert data.train is not None  # load_data refuses such data
        outputs = config.model.num_classes or len(data.classes)
        self.objective = Objective(config, data.train.labels, outputs, accelerator.device)
        self.bare = prepare_for_training(bare, config.model)
        optimizer, self.scheduler = make_optimizer(self.bare, config.optim, config.epochs, steps_per_epoch)
        self.ema: ModelEmaV3 | None = None
        if config.optim.model_ema:  # before data parallelism puts hooks on the model that is copied
            decay, warmup = config.optim.model_ema_decay, config.optim.model_ema_warmup
            self.ema = ModelEmaV3(self.bare, decay, use_warmup=warmup).to(accelerator.device)
        self.model: nn.Module
        self.model, self.optimizer = accelerator.prepare(self.bare, optimizer)
        free_group_last(self.model)
        if config.compile:
            self.bare.compile()
            self.evaluated.compile()

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and kept: the average where there is one, with the survival of the model."""
        if self.ema is None:
            return self.bare
        probs = survival_probs(self.bare)
        if probs:
            set_survival_probs(self.ema.module, probs)
        return self.ema.module

    def train(self) -> None:
        """Set the model to training, but for what is frozen."""
        self.model.train()
        freeze_norms(self.bare, self.config.model)

    def step(self, number: int) -> None:
        """Go down the gradients, and move what follows the steps; ``number`` of them are done then."""
        optim = self.config.optim
        if optim.clip_grad is not None and optim.clip_mode == "norm":
            self.accelerator.clip_grad_norm_(self.bare.parameters(), optim.clip_grad)
        elif optim.clip_grad is not None:
            self.accelerator.clip_grad_value_(self.bare.parameters(), optim.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if isinstance(self.scheduler, LambdaLR):
            self.scheduler.step()
        else:
            self.scheduler.step_update(number)
        if self.ema is not None:
            self.ema.update(self.bare, step=number)
        if self.survival is not None and self.survival_moves_by_step:
            self.survival.step()

    def end_epoch(self, number: int) -> None:
        """Move what follows the epochs; ``number`` of them are done."""
        if not isinstance(self.scheduler, LambdaLR):
            self.scheduler.step(number)
        if self.survival is not None and not self.survival_moves_by_step:
            self.survival.step()

    def parts(self) -> dict[str, Any]:
        """Return what a checkpoint holds, by name."""
        found = {
            "model": self.bare, "optimizer": self.optimizer, "scheduler": self.scheduler, "survival": self.survival,
            "scaler": self.accelerator.scaler,
        }  # fmt: skip
        return found if self.ema is None else {**found, "ema": self.ema}
