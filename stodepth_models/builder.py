"""What the builders of all families share: checked arguments, weights, and a place in torchvision's registry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from numbers import Integral
from os import PathLike
from typing import Any, TypeVar

from torch import Tensor, nn
from torchvision.models import WeightsEnum

from .blocks.surgery import METHODS
from .checks import check_choice, check_flag, check_probability, did_you_mean
from .layers.draw import MODES, RESCALES
from .layers.residual import StochasticResidual, gates_of
from .survival import DEPTH_RULES, linear_decay, set_survival_probs
from .weights.config import BuiltWith, Configured
from .weights.load import builder_source, load_checkpoint
from .weights.names import CLASSIFIER
from .weights.network import find_network
from .weights.sources import read_checkpoint
from .zoo import register_builder, registry

Model = TypeVar("Model", bound=Configured)
Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

# What `weights` takes beside the builder's enum; real types, for torchvision's registry reads the annotation.
AnySource = str | PathLike[str] | Mapping[str, Tensor] | None


ARGUMENTS = """

    Args:
        pretrained: load torchvision's ``IMAGENET1K_V1``, in the CIFAR family the weights that ship with this package.
        prob_0_L: survival probability of the first and of the last residual block, linear between.
        mult_flag: scale each branch by its survival probability in evaluation, as in the paper; False: no scaling.
        weights: member of the builder's weights enum or its name, a path, a URL, ``hf://org/repo`` or a state dict,
            loaded so that evaluation outputs are those of the network it comes from.
        progress: show a progress bar while downloading.
        mode: ``"batch"``, one gate a block and step, as in the paper; ``"row"``, one a sample; ``"subset"``, a window
            of neighbouring rows of nearly constant size.
        rescale: where the expectation is matched: ``"eval"`` (the paper), ``"train"`` (timm, torchvision) or
            ``"none"``; None follows ``mult_flag``.
        depth_rule: ``"inclusive"`` or ``"paper"``, in which the first block is dropped too; see :func:`linear_decay`.
        sync_gates: all ranks draw the same gates.
{shortcut}        **kwargs: ``num_classes``, ``layers`` (blocks a stage, in place of the name's) and whatever else
            :class:`StoDepthResNet` or :class:`CifarResNet` takes.

    Raises:
        TypeError: an argument of the wrong type, or one that the network does not take.
        ValueError: a value that is not allowed, two sources of weights, or weights that do not fit.
        FileNotFoundError: ``weights`` is a path without a file.

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.{name}(prob_0_L=(1.0, 0.8), num_classes=5)
        >>> sdm.survival_probs(model)[-1]
        0.8
    """
_SHORTCUT = """        shortcut: ``"A"`` or ``"B"``; see :class:`CifarResNet`.
"""


_CHANNELS = (
    "images.expand(-1, 3, -1, -1) where they are grey, else a convolution of your own in place of model.conv1 "
    "(docs/training.md, 'Grey images and other channels')"
)

# Arguments of other projects, and what takes their place here.
FOREIGN_ARGUMENTS = {
    "multFlag": "mult_flag",
    "prob_0_l": "prob_0_L",
    "p_L": "prob_0_L=(1.0, p_L)",
    "features_only": "torchvision.models.feature_extraction.create_feature_extractor",
    **dict.fromkeys(("in_chans", "in_channels", "input_channels", "n_channels", "num_channels"), _CHANNELS),
    "n_classes": "num_classes",
    "checkpoint_path": "weights",
    "stochastic_method": "mode",
}
_SURVIVAL = ("stoch_depth_probability", "survival_prob", "survival_rate", "keep_prob")
_DROP_RATES = (
    "drop_rate", "drop_prob", "drop_path", "drop_path_rate", "drop_connect_rate", "death_rate", "stoch_depth_rate",
    "stoch_depth_prob", "stochastic_depth_prob", "stochastic_depth_rate",
)  # fmt: skip
for _name in _SURVIVAL:
    FOREIGN_ARGUMENTS[_name] = f"prob_0_L=({_name}, {_name})"
for _name in _DROP_RATES:
    FOREIGN_ARGUMENTS[_name] = f"prob_0_L=(1.0, 1.0 - {_name}), mode='row', rescale='train'"


def register(builder: Builder) -> Builder:
    """Enter a builder in torchvision's registry, and document the arguments that all builders take."""
    # `python -OO` leaves docstrings out.
    if builder.__doc__:
        shortcut = ""
        if "shortcut" in signature(builder).parameters:
            shortcut = _SHORTCUT
        builder.__doc__ += ARGUMENTS.format(name=builder.__name__, shortcut=shortcut)
    register_builder(builder)
    return builder


@dataclass(frozen=True)
class StochasticDepth:
    """The stochastic-depth arguments that every builder takes.

    Attributes:
        prob_0_L: survival probability of the first and of the last residual block, linear between.
        mult_flag: scale each branch by its survival probability in evaluation, as in the paper; False: no scaling.
        mode: ``"batch"``, ``"row"`` or ``"subset"``; see :class:`StochasticResidual`. ``"block"`` and
            ``"sample"``, the names of :func:`apply_stochastic_depth`, are batch and row.
        rescale: ``"eval"``, ``"train"`` or ``"none"``; None follows ``mult_flag``: ``"eval"`` or ``"none"``.
        depth_rule: ``"inclusive"`` or ``"paper"``; see :func:`linear_decay`.
        sync_gates: all ranks draw the same gates.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a value that is not allowed, or ``mult_flag=False`` beside ``rescale="eval"``.
    """

    prob_0_L: tuple[float, float]
    mult_flag: bool
    mode: str
    rescale: str | None
    depth_rule: str
    sync_gates: bool

    def __post_init__(self) -> None:
        is_pair = isinstance(self.prob_0_L, (tuple, list)) and len(self.prob_0_L) == 2
        if not is_pair:
            raise ValueError(f"prob_0_L must be a pair of probabilities in [0, 1], got {self.prob_0_L!r}")
        for value in self.prob_0_L:
            check_probability("prob_0_L", value)
        check_flag("mult_flag", self.mult_flag)
        check_flag("sync_gates", self.sync_gates)
        if self.mode not in ("block", "sample"):  # the names of MosaicML Composer and of surgery
            check_choice("mode", self.mode, MODES)
        check_choice("depth_rule", self.depth_rule, DEPTH_RULES)
        if self.rescale is not None:
            check_choice("rescale", self.rescale, RESCALES)
        if self.rescale == "eval" and not self.mult_flag:
            raise ValueError("mult_flag=False and rescale='eval' contradict each other: give one of them")

    def apply_to(self, model: nn.Module) -> None:
        """Set every gate of a freshly built model."""
        rescale = self.rescale
        if rescale is None:
            rescale = "none"
            if self.mult_flag:
                rescale = "eval"
        gates = gates_of(model)
        for gate in gates:
            gate.sync_gates = self.sync_gates
            if isinstance(gate, StochasticResidual):
                gate.mode = METHODS[self.mode]
                gate.rescale = rescale
        first, last = self.prob_0_L
        set_survival_probs(model, linear_decay(len(gates), first, last, rule=self.depth_rule))


def _check_classes(count: Any) -> None:
    message = f"num_classes must be a whole number, at least 1, got {count!r}"
    if isinstance(count, bool) or not isinstance(count, Integral):
        raise TypeError(message)
    if count < 1:
        raise ValueError(message)


def _check_options(name: str, architecture: Any, options: dict[str, Any]) -> None:
    """Raise a TypeError that names ours where an argument is another project's, or is misspelt."""
    known = list(signature(registry()[name]).parameters)
    # A class passes what it does not know on to the next one, up to torchvision's.
    for cls in architecture.func.__mro__:
        known += signature(cls.__init__).parameters
    for option in options:
        if option in FOREIGN_ARGUMENTS:
            raise TypeError(f"{name} takes no {option}: use {FOREIGN_ARGUMENTS[option]}")
        if option not in known:
            message = f"{name} takes no {option}"
            hint = did_you_mean(option, known)
            if hint:
                message = f"{message}; {hint}"
            raise TypeError(message)


def build(
    name: str,
    architecture: partial[Model],
    enum: type[WeightsEnum],
    pretrained: bool,
    weights: Any,
    progress: bool,
    depth: StochasticDepth,
    options: dict[str, Any],
) -> Model:
    """Build a model, give it stochastic depth, and load weights where they are asked for.

    Args:
        name: name of the builder.
        architecture: the network's class with what the builder fixes; makes the model from ``options``.
        enum: the builder's published weights.
        pretrained: load the builder's default weights.
        weights: member or name of ``enum``, or any source that :func:`load_pretrained` takes.
        progress: show a progress bar while downloading.
        depth: checked arguments of stochastic depth.
        options: keyword arguments of ``architecture``; without ``num_classes``, that of the weights is taken.
    """
    check_flag("pretrained", pretrained)
    _check_options(name, architecture, options)
    _check_classes(options.get("num_classes", 1))
    source = builder_source(name, enum, pretrained, weights)
    # The model is built before anything is read or downloaded: a wrong option raises at once.
    model = architecture(**options)
    checkpoint = None
    if source is not None:
        shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
        checkpoint = find_network(read_checkpoint(source, progress=progress), shapes)
        classes = checkpoint.num_classes
        if classes is not None and "num_classes" not in options:
            options = {"num_classes": classes, **options}
            if classes != len(model.state_dict()[f"{CLASSIFIER}weight"]):
                model = architecture(**options)
    depth.apply_to(model)
    model.built_with = BuiltWith(name, options)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model
