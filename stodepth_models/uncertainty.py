"""How sure a model is: predictions over the sub-networks that its gates draw.

A trained network with stochastic depth is an ensemble of networks of different depth (Huang et al., arXiv:1603.09382,
sec. 3). Samples of it in evaluation, as Gal and Ghahramani (arXiv:1506.02142) take them with dropout, show where the
members disagree.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .checks import check_whole
from .layers.drop_path import DropPath
from .layers.modes import restored_modes
from .layers.residual import StochasticGate


class MCPrediction(NamedTuple):
    """Predictions over sampled sub-networks.

    Attributes:
        probs: mean of the class probabilities, ``(N, K, ...)``.
        entropy: predictive entropy, that of ``probs``, in nats, ``(N, ...)``, in ``[0, log K]``.
        mutual_information: between prediction and sub-network, in nats, ``(N, ...)``: the part of the entropy that
            comes from their disagreement (Houlsby et al., arXiv:1112.5745). 0 where all agree.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0))  # a single network: nothing disagrees
        >>> prediction = sdm.mc_predict(model, torch.zeros(1, 3, 32, 32), samples=2)
        >>> isinstance(prediction, sdm.MCPrediction)
        True
        >>> round(prediction.mutual_information.item(), 4)
        0.0
    """

    probs: Tensor
    entropy: Tensor
    mutual_information: Tensor


@torch.no_grad()
def mc_predict(model: nn.Module, x: Any, samples: int = 20) -> MCPrediction:
    """Predict with ``samples`` random sub-networks: gates are drawn as in training, all else is in evaluation.

    Batch norm keeps its running statistics and dropout is off. Modes are restored, and gates come from the default CPU
    generator: ``torch.manual_seed`` reproduces the result.

    Args:
        model: a classifier with stochastic blocks that returns logits, ``(N, K, ...)``.
        x: its input.
        samples: number of forward passes, at least 1.

    Raises:
        TypeError: ``samples`` is not a whole number, or the model does not return a tensor.
        ValueError: ``samples`` below 1, or a model without stochastic blocks.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay(pretrained=True)
        >>> prediction = sdm.mc_predict(model, torch.zeros(2, 3, 32, 32), samples=4)
        >>> prediction.probs.shape, prediction.entropy.shape
        (torch.Size([2, 10]), torch.Size([2]))
    """
    check_whole("samples", samples, 1)
    gates: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, (StochasticGate, DropPath)):
            gates.append(module)
    if not gates:
        raise ValueError(f"model must have stochastic blocks, got {type(model).__name__} without any")
    with _only_training(model, gates):
        probs = _softmax(model(x))
        mean = probs
        mean_entropy = _entropy(probs)
        # Running means: the memory does not grow with the number of samples.
        for count in range(2, samples + 1):
            probs = _softmax(model(x))
            mean = mean + (probs - mean) / count
            mean_entropy = mean_entropy + (_entropy(probs) - mean_entropy) / count
    entropy = _entropy(mean)
    # Entropy is concave, so that the difference is at least 0 but for rounding.
    mutual_information = (entropy - mean_entropy).clamp(min=0.0)
    return MCPrediction(mean, entropy, mutual_information)


@contextmanager
def _only_training(model: nn.Module, gates: list[nn.Module]) -> Iterator[None]:
    """Within, the given modules are in training mode, without their children, and all others in evaluation."""
    with restored_modes(model):
        model.eval()
        for gate in gates:
            gate.training = True
        yield


def _softmax(logits: Any) -> Tensor:
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return a tensor of logits, got {type(logits).__name__}: wrap it in one that does")
    return logits.float().softmax(1)


def _entropy(probs: Tensor) -> Tensor:
    # xlogy is 0 where a probability is 0; probs * probs.log() would be nan there.
    return torch.special.entr(probs).sum(1)
