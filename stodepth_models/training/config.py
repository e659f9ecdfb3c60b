"""Settings: frozen dataclasses, checked at construction, that the command line and YAML files fill."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..zoo import full_name

DATASETS = Literal[
    "cifar10", "cifar100", "svhn", "cinic10", "folder", "imagenet", "fashion_mnist", "digits", "hfds", "fake"
]  # fmt: skip

LIBRARIES = ("timm:", "torchvision:")
PRETRAINED = "pretrained"  # names the weights of a library's model
ALL_BUT_CLASSIFIER = "body"

# Arguments of the builder that are settings themselves, and the names of those settings.
_OF_THEIR_OWN = {
    "pretrained": "weights", "weights": "weights", "prob_0_L": "prob_0_L", "mult_flag": "mult_flag", "mode": "mode",
    "rescale": "rescale", "depth_rule": "depth_rule", "sync_gates": "sync_gates",
    "checkpoint_stages": "checkpoint_stages", "num_classes": "num_classes",
}  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: builder, with or without its suffix ``_stodepth_lineardecay``, or a model of a library, such as
            ``timm:vit_small_patch16_224`` or ``torchvision:convnext_tiny``, for which ``drop_rate`` takes the place of
            ``prob_0_L``, ``depth_rule`` and ``mult_flag``.
        drop_rate: of a library's model: chance that its last block is dropped, linear from 0; none given: the rates of
            the masks (drop path) that it carries.
        prob_0_L: survival probability of the first and of the last block, linear between; ``[1.0, 1.0]`` is constant
            depth.
        stoch_depth_probability: one survival probability for all blocks at the start, instead of ``prob_0_L``; moves
            epoch by epoch, linearly, to ``final_stoch_depth_probability``.
        final_stoch_depth_probability: survival probability of all blocks in the last epoch, where
            ``stoch_depth_probability`` is given.
        ramp_epochs: epochs over which the survival probabilities fall from 1 to the model's own; 0: none.
        mult_flag: scale branches by their survival probability in evaluation, as in the paper.
        mode: what one gate decides: a branch for the whole ``batch`` (the paper), for each ``row``, or for a ``subset``
            of neighbouring rows of nearly constant size.
        rescale: where branches are scaled: in evaluation (``eval``), in training (``train``) or nowhere (``none``);
            none given: follows ``mult_flag``.
        depth_rule: ``inclusive`` begins at the first probability; ``paper`` drops the first block too.
        masked: compute every branch and zero rows of it, as timm does: the baseline of comparisons. Needs ``mode=row``
            and ``rescale=train``.
        sync_gates: all processes draw the same gates.
        sync_batchnorm: batch-norm statistics over all processes (GPUs only); needs ``sync_gates``.
        weights: file, folder of a run, URL or name of weights to start from; they bring along the builder where
            ``name`` is not given. ``pretrained``: those of a library's model.
        weights_prefix: beginning of the names of the network in weights of several, such as ``encoder_q.``; none given:
            the one under which they fit.
        num_classes: length of the output; none given: the classes of the data set.
        frozen_stem: keep the first convolution and its batch norm as they are loaded.
        freeze: keep all layers up to this one as they are loaded, such as ``layer2`` or ``blocks.5``; ``body``: all but
            the classifier.
        checkpoint_stages: recompute activations in the backward pass, to save memory.
        options: further arguments of the builder, such as ``shortcut`` or ``zero_init_residual``.
    """

    name: str = "cifar_resnet20_stodepth_lineardecay"
    drop_rate: float | None = None
    prob_0_L: tuple[float, float] = (1.0, 0.5)
    stoch_depth_probability: float | None = None
    final_stoch_depth_probability: float = 0.5
    ramp_epochs: int = 0
    mult_flag: bool = True
    mode: Literal["batch", "row", "subset"] = "batch"
    rescale: Literal["eval", "train", "none"] | None = None
    depth_rule: Literal["inclusive", "paper"] = "inclusive"
    masked: bool = False
    sync_gates: bool = False
    sync_batchnorm: bool = False
    weights: str | None = None
    weights_prefix: str | None = None
    num_classes: int | None = None
    frozen_stem: bool = False
    freeze: str | None = None
    checkpoint_stages: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_of_library(self) -> bool:
        """Whether the network is one of timm or torchvision, not of this package."""
        return self.name.startswith(LIBRARIES)

    def __post_init__(self) -> None:
        try:
            if not self.is_of_library:
                object.__setattr__(self, "name", full_name(self.name))
        except ValueError as error:
            raise ValueError(f"model.name: {error}; other libraries: timm:NAME, torchvision:NAME") from None
        if self.drop_rate is not None:
            _within("model.drop_rate", self.drop_rate, 0.0, 1.0)
        for value in self.prob_0_L:
            _within("model.prob_0_L", value, 0.0, 1.0)
        if self.stoch_depth_probability is not None:
            _within("model.stoch_depth_probability", self.stoch_depth_probability, 0.0, 1.0)
        _within("model.final_stoch_depth_probability", self.final_stoch_depth_probability, 0.0, 1.0)
        _at_least("model.ramp_epochs", self.ramp_epochs, 0)
        if self.num_classes is not None:
            _at_least("model.num_classes", self.num_classes, 1)
        for option in self.options:
            if option in _OF_THEIR_OWN:
                raise ValueError(f"model.options.{option} is given as model.{_OF_THEIR_OWN[option]}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.weights_prefix is not None and self.weights is None:
            raise ValueError("model.weights_prefix is a part of model.weights: give both")
        has_schedule = self.ramp_epochs > 0 or self.stoch_depth_probability is not None
        if self.ramp_epochs and self.stoch_depth_probability is not None:
            raise ValueError("model.ramp_epochs and model.stoch_depth_probability are two schedules: give one of them")
        if self.drop_rate is not None and not self.is_of_library:
            raise ValueError(f"model.drop_rate is for timm:NAME and torchvision:NAME, {self.name} has model.prob_0_L")
        if self.is_of_library and (self.masked or self.frozen_stem or self.checkpoint_stages):
            raise ValueError(
                f"{self.name} takes neither model.masked nor model.frozen_stem nor model.checkpoint_stages: "
                "leave them out; model.freeze keeps layers as they are"
            )
        if self.frozen_stem and self.freeze is not None:
            raise ValueError("model.frozen_stem and model.freeze both say what is kept: give one of them")
        if self.masked and (self.mode, self.rescale) != ("row", "train"):
            raise ValueError(
                "model.masked=true masks rows and scales in training: add model.mode=row model.rescale=train"
            )
        if self.masked and has_schedule:
            raise ValueError("model.masked=true follows no schedule: leave out the other settings of survival")
        if self.masked and (self.sync_gates or self.sync_batchnorm):
            raise ValueError(
                "model.masked=true draws masks in each process: leave out model.sync_gates and model.sync_batchnorm"
            )
        if self.sync_batchnorm and not self.sync_gates:
            raise ValueError(
                "model.sync_batchnorm=true would wait for processes that drop the block: add model.sync_gates=true"
            )


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Attributes:
        name: data set; ``folder`` is any folder or archive with ``train/`` (``valid/``, ``test/``) and in each a
            folder a class; ``hfds`` is one of Hugging Face's library, ``root`` its name or folder.
        root: folder that holds the data set or receives its download; for ``folder``, ``cinic10`` and ``imagenet``
            the folder or archive (.tar, .tar.gz, .tar.xz, .zip) itself.
        cache: folder that archives are unpacked into, once.
        max_unpacked_gb: most gigabytes that an archive may unpack to.
        max_files: most files that an archive may hold.
        download: fetch a torchvision data set that is not in ``root``.
        valid_size: training images held back for validation where the data set has no such split; none given: 5,000
            (CIFAR), 6,000 (SVHN), else a tenth.
        split_seed: chooses the images held back.
        images_per_class: train on so many images of each class alone, chosen by ``split_seed``; none given: on all.
        image_size: side in pixels; none given: that of the images up to 64 pixels, else 224.
        resize: shorter side in pixels that images above 64 pixels are scaled to in evaluation, before the middle is cut
            out; none given: ``image_size / 0.875``, or in an evaluation what the weights ask for.
        padding: zero padding in pixels before the random crop of small images; none given: 4, less for
            images below 32 pixels, 0 for SVHN.
        flip: mirror at random; none given: yes, except for digits and SVHN.
        aa: policy of timm, such as ``rand-m9-mstd0.5-inc1`` (RandAugment) or ``augmix-m5``, or ``ta_wide``
            (TrivialAugment); none given: none.
        color_jitter: strength of random brightness, contrast and saturation; none given: none.
        reprob: chance that a rectangle of an image is erased.
        remode: erase with ``"const"`` (the mean), ``"rand"`` (one random colour) or ``"pixel"`` (noise).
        transform_args: further arguments of ``timm.data.create_transform``, such as ``scale`` or ``vflip``.
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of CutMix; 0: none.
        mixup_prob: chance that a batch is mixed.
        mixup_switch_prob: chance of CutMix where both are on.
        mixup_mode: one mixture a ``"batch"``, ``"pair"`` or ``"elem"`` (image).
        mixup_off_epoch: epochs after which nothing is mixed; 0: never.
        sampling: ``"shuffled"``: each image once an epoch; ``"balanced"``: each class as often as the others.
        mean: mean of each channel, in [0, 1]; none given: measured on the training images, or in an evaluation what the
            weights were trained with, where their file says so.
        std: standard deviation of each channel; goes with ``mean``.
        unreadable: ``"stop"`` at an image that cannot be read, or ``"skip"`` it with a warning.
        changed: with ``resume``, ``"stop"`` where the images are not those that the run began with, or ``"accept"``
            as many others with a warning: a mended image, say.
        workers: processes that decode large images.
        label: what tables and plots call the data set; none given: its usual name, or that of ``root``.
        fake_images: number of images of ``fake``; a fifth as many for validation and for the test.
        fake_classes: number of classes of ``fake``.
    """

    name: DATASETS = "cifar10"
    root: Path = Path("data")
    cache: Path = Path("~/.cache/stodepth_models")
    max_unpacked_gb: float = 500.0
    max_files: int = 20_000_000
    download: bool = True
    valid_size: int | None = None
    split_seed: int = 0
    images_per_class: int | None = None
    image_size: int | None = None
    resize: int | None = None
    padding: int | None = None
    flip: bool | None = None
    aa: str | None = None
    color_jitter: float | None = None
    reprob: float = 0.0
    remode: Literal["const", "rand", "pixel"] = "pixel"
    transform_args: dict[str, Any] = field(default_factory=dict)
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    mixup_off_epoch: int = 0
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    unreadable: Literal["stop", "skip"] = "stop"
    changed: Literal["stop", "accept"] = "stop"
    workers: int = 2
    label: str | None = None
    fake_images: int = 500
    fake_classes: int = 10

    def __post_init__(self) -> None:
        for name in ("valid_size", "images_per_class", "image_size", "resize", "fake_images", "fake_classes"):
            if getattr(self, name) is not None:
                _at_least(f"data.{name}", getattr(self, name), 1)
        _at_least("data.workers", self.workers, 0)
        _at_least("data.max_files", self.max_files, 1)
        _positive("data.max_unpacked_gb", self.max_unpacked_gb)
        _within("data.split_seed", self.split_seed, 0, 2**31 - 1)
        if self.padding is not None:
            _at_least("data.padding", self.padding, 0)
        for name in ("mixup", "cutmix", "mixup_off_epoch"):
            _at_least(f"data.{name}", getattr(self, name), 0)
        for name in ("reprob", "mixup_prob", "mixup_switch_prob"):
            _within(f"data.{name}", getattr(self, name), 0.0, 1.0)
        if (self.mean is None) != (self.std is None):
            raise ValueError("data.mean and data.std go together: give both or none")
        for mean, std in zip(self.mean or (), self.std or (), strict=True):
            _within("data.mean", mean, 0.0, 1.0)
            _positive("data.std", std)

    @property
    def uses_timm(self) -> bool:
        """Whether training images pass timm's transform instead of the crop and flip alone."""
        return bool(self.aa or self.color_jitter or self.reprob or self.transform_args)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0


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
            _positive(f"optim.{name}", getattr(self, name))
        for name in ("momentum", "dampening", "label_smoothing", "model_ema_decay"):
            _within(f"optim.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("weight_decay", "warmup_epochs", "min_lr"):
            _at_least(f"optim.{name}", getattr(self, name), 0)
        _at_least("optim.accumulate", self.accumulate, 1)
        if self.clip_grad is not None:
            _positive("optim.clip_grad", self.clip_grad)
        if self.layer_decay is not None:
            _within("optim.layer_decay", self.layer_decay, 0.0, 1.0)
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
        for name, least in {
            "epochs": 1,
            "batch_size": 2,
            "patience": 0,
            "checkpoint_steps": 0,
            "stop_at_chance": 0,
        }.items():
            _at_least(name, getattr(self, name), least)
        _at_least("log_steps", self.log_steps, 1)
        _within("seed", self.seed, 0, 2**31 - 1)
        _positive("checkpoint_minutes", self.checkpoint_minutes)
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
        _at_least("batch_size", self.batch_size, 1)


def _at_least(name: str, value: float, least: float) -> None:
    """Raise a ValueError unless ``value`` is at least ``least``."""
    if not value >= least:  # `not ...` also refuses nan
        raise ValueError(f"{name} must be at least {least}, got {value}")


def _positive(name: str, value: float) -> None:
    """Raise a ValueError unless ``value`` is above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def _within(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless ``value`` is in ``[low, high]``."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:.10g}, {high:.10g}], got {value}")
