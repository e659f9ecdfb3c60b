"""Settings of the network."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torchvision.models import list_models

from ..blocks.surgery import METHODS
from ..zoo import full_name
from .limits import at_least, within

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
            of neighbouring rows of nearly constant size; ``block`` and ``sample`` are batch and row.
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
    mode: Literal["batch", "row", "subset", "block", "sample"] = "batch"
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
            raise ValueError(f"model.name: {error}; {_elsewhere(self.name)}") from None
        object.__setattr__(self, "mode", METHODS.get(self.mode, self.mode))
        if self.drop_rate is not None:
            within("model.drop_rate", self.drop_rate, 0.0, 1.0)
        for value in self.prob_0_L:
            within("model.prob_0_L", value, 0.0, 1.0)
        if self.stoch_depth_probability is not None:
            within("model.stoch_depth_probability", self.stoch_depth_probability, 0.0, 1.0)
        within("model.final_stoch_depth_probability", self.final_stoch_depth_probability, 0.0, 1.0)
        at_least("model.ramp_epochs", self.ramp_epochs, 0)
        if self.num_classes is not None:
            at_least("model.num_classes", self.num_classes, 1)
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
            raise ValueError(
                f"model.drop_rate is for timm:NAME and torchvision:NAME: give {self.name} "
                f"model.prob_0_L=[1.0,{1 - self.drop_rate:g}]"
            )
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


def _elsewhere(name: str) -> str:
    """Say where what is no model of this package may be found."""
    if Path(name).exists():
        return f"{name} is a file or folder: give it as --weights"
    if name in list_models():
        return f"did you mean torchvision:{name}?"
    return "other libraries: timm:NAME, torchvision:NAME"
