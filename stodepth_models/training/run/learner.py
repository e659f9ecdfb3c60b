"""A model and everything that changes its weights: loss, optimizer, schedules, the average of the weights."""

from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import nn

from ...survival import set_survival_probs, survival_probs
from ..config import ModelConfig, TrainConfig
from ..data.datasets import Data
from ..errors import first_line
from .machine import free_group_last
from .model import Shares, build_model, freeze_norms, make_survival_schedule, prepare_for_training
from .objective import Objective
from .optimizer import make_optimizer


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

    @property
    def lr(self) -> float:
        """Highest learning rate of the next step."""
        return max(group["lr"] for group in self.optimizer.param_groups)

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
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update(self.bare, step=number)
        if self.survival is not None and self.survival_moves_by_step:
            self.survival.step()

    def end_epoch(self) -> None:
        """Move what follows the epochs."""
        if self.survival is not None and not self.survival_moves_by_step:
            self.survival.step()

    def parts(self) -> dict[str, Any]:
        """Return what a checkpoint holds, by name."""
        found = {
            "model": self.bare, "optimizer": self.optimizer, "scheduler": self.scheduler, "survival": self.survival,
            "scaler": self.accelerator.scaler,
        }  # fmt: skip
        return found if self.ema is None else {**found, "ema": self.ema}
