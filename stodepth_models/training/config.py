"""Settings: frozen dataclasses, checked at construction, that the command line and YAML files fill."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .data_config import DataConfig
from .limits import at_least, positive, within
from .model_config import ModelConfig


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its learning rate and the loss.

    Attributes:
        lr: peak learning rate, for the global batch.
        opt: optimizer of timm by name, such as ``adamw``, ``lamb`` or ``sgd``, without weight decay on norms and
            biases; none given: the paper's SGD.
        opt_eps: small number in the denominator of the optimizer; none given: its own.
        opt_betas: decay rates of the optimizer's averages; none given: its own.
        opt_args: further arguments of the optimizer.
        layer_decay: factor of the learning rate from each layer to the one before it; needs ``opt``.
        sched: schedule of timm by name, such as ``cosine``, ``multistep``, ``poly`` or ``constant``, with a linear
            warm-up; none given: ``schedule``.
        sched_on_updates: timm's schedule moves after each step instead of each epoch.
        min_lr: learning rate at the end of timm's schedule.
        decay_epochs: epochs between decays of timm's ``step``; none given: timm's own.
        decay_rate: factor of timm's ``step`` and ``multistep``; the power of ``poly``.
        sched_args: further arguments of ``timm.scheduler.create_scheduler_v2``, such as ``decay_milestones``.
        schedule: ``"step"`` multiplies by ``gamma`` after each of ``milestones``; ``"cosine"`` falls to 0;
            ``"onecycle"`` rises for three tenths of the run and falls to 0; ``"constant"``.
        milestones: epochs after which ``step`` multiplies.
        gamma: factor at a milestone.
        warmup_epochs: epochs at ``warmup_lr`` before ``schedule`` counts; it keeps its own time. With ``sched`` the
            learning rate rises from ``warmup_lr`` on a line.
        warmup_lr: learning rate of the warm-up; none given: 0.01 with ``schedule``, 1e-5 with ``sched``.
        momentum: momentum of SGD, and of the optimizers of timm that have one.
        nesterov: take Nesterov's momentum, in the paper's SGD.
        dampening: dampening of the momentum of the paper's SGD; 0 with ``nesterov``.
        weight_decay: L2 penalty on all parameters; with ``opt`` that of the optimizer.
        clip_grad: most that the gradients may be, as ``clip_mode`` measures them; none given: no limit.
        clip_mode: ``"norm"`` of all gradients together, or ``"value"`` of each.
        model_ema: evaluate and keep an exponential moving average of the weights.
        model_ema_decay: share of the old average that each step keeps.
        model_ema_warmup: let the decay rise from 0 to its value.
        label_smoothing: share of the target spread over all classes.
        class_weights: factor of the loss of each class, or ``"balanced"``: in inverse proportion to its training
            images, 1 on average over them; none given: 1.
        accumulate: micro-batches a step; the global batch is split into them.
    """

    lr: float = 0.1
    opt: str | None = None
    opt_eps: float | None = None
    opt_betas: tuple[float, ...] | None = None
    opt_args: dict[str, Any] = field(default_factory=dict)
    layer_decay: float | None = None
    sched: str | None = None
    sched_on_updates: bool = False
    min_lr: float = 0.0
    decay_epochs: float | None = None
    decay_rate: float = 0.1
    sched_args: dict[str, Any] = field(default_factory=dict)
    schedule: Literal["step", "cosine", "onecycle", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_epochs: int = 0
    warmup_lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    dampening: float = 0.0
    weight_decay: float = 1e-4
    clip_grad: float | None = None
    clip_mode: Literal["norm", "value"] = "norm"
    model_ema: bool = False
    model_ema_decay: float = 0.9998
    model_ema_warmup: bool = False
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.warmup_lr is None:
            object.__setattr__(self, "warmup_lr", 1e-5 if self.sched else 0.01)
        for name in ("lr", "gamma", "warmup_lr"):
            positive(f"optim.{name}", getattr(self, name))
        for name in ("momentum", "dampening", "label_smoothing", "model_ema_decay"):
            within(f"optim.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("weight_decay", "warmup_epochs", "min_lr"):
            at_least(f"optim.{name}", getattr(self, name), 0)
        at_least("optim.accumulate", self.accumulate, 1)
        if self.clip_grad is not None:
            positive("optim.clip_grad", self.clip_grad)
        if self.layer_decay is not None:
            within("optim.layer_decay", self.layer_decay, 0.0, 1.0)
        if self.layer_decay is not None and not self.opt:
            raise ValueError("optim.layer_decay needs an optimizer of timm: add optim.opt=sgd, say")
        if not self.opt and self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("optim.nesterov=true needs optim.momentum above 0 and optim.dampening=0")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: the network.
        data: the images.
        optim: the optimizer.
        epochs: passes over the training images.
        batch_size: images a step, over all processes and micro-batches.
        seed: seed of initial weights, data order, augmentation and gates; below 2**31.
        output: folder of the run.
        resume: go on from the last checkpoint in ``output``, bit-exactly; starts afresh where there is none.
        precision: arithmetic of the network: ``no`` (float32), ``bf16`` or ``fp16``.
        cpu: leave a GPU alone.
        deterministic: choose convolutions that repeat bit by bit on a GPU.
        compile: compile the model with ``torch.compile``; passes that draw gates run in eager mode all the same.
        patience: epochs in a row without better validation accuracy that end the run; 0: never.
        checkpoint_minutes: minutes between checkpoints within an epoch; one is written after each epoch too.
        checkpoint_steps: steps between checkpoints within an epoch; 0: by the clock alone.
        test_each_epoch: evaluate the test images after each epoch, for the curve; no choice is made on them.
        stop_at_chance: epochs in a row at chance accuracy that stop the run; 0: never.
        log_steps: steps between updates of the progress bar; the loss is checked at these.
        trackers: where figures are logged: ``tensorboard``, ``wandb``, ``mlflow``, or any other that Accelerate knows.
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
    compile: bool = False
    patience: int = 0
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int = 0
    test_each_epoch: bool = False
    stop_at_chance: int = 3
    log_steps: int = 20
    trackers: tuple[str, ...] = ("tensorboard",)
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("patience", "checkpoint_steps", "stop_at_chance"):
            at_least(name, getattr(self, name), 0)
        for name in ("epochs", "log_steps"):
            at_least(name, getattr(self, name), 1)
        at_least("batch_size", self.batch_size, 2)
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
        split: the images to evaluate: ``test``, ``valid`` or ``train``.
        batch_size: images a forward pass.
        precision: arithmetic of the network: ``no`` (float32), ``bf16`` or ``fp16``.
        cpu: leave a GPU alone.
        json: print one line of JSON.
        report: folder that receives a page, ``index.html``, with accuracy by class, confusion matrix and the worst
            predictions; none given: no page.
        classes_in_order: pair outputs and classes in their order, whatever their names; for weights that know the
            same classes by other names.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    split: Literal["test", "valid", "train"] = "test"
    batch_size: int = 256
    precision: Literal["no", "bf16", "fp16"] = "no"
    cpu: bool = False
    json: bool = False
    report: Path | None = None
    classes_in_order: bool = False

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
