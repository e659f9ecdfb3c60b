"""Settings of a run: frozen dataclasses, checked at construction, that the command line and YAML files fill."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .checks import at_least, positive, within
from .sections import DataConfig, ModelConfig, OptimConfig

__all__ = ["DataConfig", "EvaluateConfig", "ModelConfig", "OptimConfig", "TrainConfig"]


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: the network.
        data: the images.
        optim: the optimizer.
        epochs: passes over the training images.
        batch_size: images a step, over all processes and micro-batches.
        seed: of initial weights, data order, augmentation and gates; below 2**31.
        output: folder of the run.
        resume: go on from the last checkpoint in ``output``, bit-exactly; starts afresh where there is none.
        precision: ``"no"`` (float32), ``"bf16"`` or ``"fp16"``.
        cpu: leave a GPU alone.
        deterministic: convolutions that repeat bit by bit on a GPU.
        checkpoint_minutes: minutes between checkpoints within an epoch; one is written after each epoch too.
        checkpoint_steps: steps between checkpoints within an epoch; 0: by the clock alone.
        test_each_epoch: evaluate the test images after each epoch, for the curve; no choice is made on them.
        stop_at_chance: epochs in a row at chance accuracy that stop the run; 0: never.
        log_steps: steps between updates of the progress bar; the loss is checked at these.
        trackers: ``tensorboard``, ``wandb``, or any other that Accelerate knows.
        progress: show a progress bar.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    epochs: int = 30
    batch_size: int = 128
    seed: int = 0
    output: Path = Path("runs/run")
    resume: bool = False
    precision: Literal["no", "bf16", "fp16"] = "no"
    cpu: bool = False
    deterministic: bool = True
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int = 0
    test_each_epoch: bool = False
    stop_at_chance: int = 3
    log_steps: int = 20
    trackers: tuple[str, ...] = ("tensorboard",)
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in {"epochs": 1, "batch_size": 2, "checkpoint_steps": 0, "stop_at_chance": 0}.items():
            at_least(name, getattr(self, name), least)
        at_least("log_steps", self.log_steps, 1)
        within("seed", self.seed, 0, 2**31 - 1)
        positive("checkpoint_minutes", self.checkpoint_minutes)
        if self.optim.warmup_epochs >= self.epochs:
            raise ValueError(f"optim.warmup_epochs must be below epochs={self.epochs}, got {self.optim.warmup_epochs}")
        if self.model.ramp_epochs > self.epochs:
            raise ValueError(f"model.ramp_epochs must be at most epochs={self.epochs}, got {self.model.ramp_epochs}")


@dataclass(frozen=True)
class EvaluateConfig:
    """An evaluation.

    Attributes:
        model: the network; ``model.weights`` names what is evaluated.
        data: the images.
        split: ``"test"``, ``"valid"`` or ``"train"``.
        batch_size: images a forward pass.
        precision: ``"no"`` (float32), ``"bf16"`` or ``"fp16"``.
        cpu: leave a GPU alone.
        json: print one line of JSON.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    split: Literal["test", "valid", "train"] = "test"
    batch_size: int = 256
    precision: Literal["no", "bf16", "fp16"] = "no"
    cpu: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
