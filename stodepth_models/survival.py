"""Survival probabilities: over the depth of a network, and those that a model has."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from torch import nn

from .checks import check_choice, check_probability, holds_one_number
from .layers.residual import StochasticGate, gates_of

DEPTH_RULES = ("inclusive", "paper")


def linear_decay(L: int, p_0: float = 1.0, p_L: float = 0.5, rule: str = "inclusive") -> list[float]:
    """Survival probabilities that fall linearly with depth.

    Args:
        L: number of residual blocks, at least 1.
        p_0: probability in ``[0, 1]`` at the input.
        p_L: probability in ``[0, 1]`` of the last block.
        rule: ``"inclusive"`` runs from ``p_0`` at the first block to ``p_L`` at the last (timm). ``"paper"`` is
            ``p_l = p_0 - l / L * (p_0 - p_L)`` for ``l = 1..L`` (Huang et al., arXiv:1603.09382, eq. 4; Composer):
            the first block is dropped too. A single block has ``p_L`` under both.

    Returns:
        ``L`` probabilities, input side first.

    Raises:
        TypeError: a probability that is no number.
        ValueError: a probability outside ``[0, 1]`` or nan, ``L`` below 1, or an unknown rule.

    Examples:
        >>> import stodepth_models as sdm
        >>> sdm.linear_decay(5, 1.0, 0.5)
        [1.0, 0.875, 0.75, 0.625, 0.5]
        >>> sdm.linear_decay(5, 1.0, 0.5, rule="paper")
        [0.9, 0.8, 0.7, 0.6, 0.5]
    """
    _check_depth(L)
    p_0 = check_probability("p_0", p_0)
    p_L = check_probability("p_L", p_L)
    check_choice("rule", rule, DEPTH_RULES)
    probs = []
    for block in range(L):
        if rule == "paper" or L == 1:
            share = (block + 1) / L  # blocks count from 1: a block 0 with p_0 would stand before the first one
        else:
            share = block / (L - 1)
        # Not p_0 - share * (p_0 - p_L), which rounds: the last probability would differ from p_L.
        probs.append((1.0 - share) * p_0 + share * p_L)
    return probs


def uniform(L: int, p: float) -> list[float]:
    """One survival probability for all blocks.

    Args:
        L: number of residual blocks, at least 1.
        p: probability in ``[0, 1]``.

    Raises:
        TypeError: ``p`` is no number.
        ValueError: ``p`` outside ``[0, 1]`` or nan, or ``L`` below 1.

    Examples:
        >>> import stodepth_models as sdm
        >>> sdm.uniform(3, 0.8)
        [0.8, 0.8, 0.8]
    """
    _check_depth(L)
    return [check_probability("p", p)] * L


def survival_probs(model: nn.Module) -> list[float]:
    """Return the survival probability of every stochastic block, in forward order; empty where there is none.

    Forward order is that of ``model.modules()``: modules are taken to be registered in the order they are called in.

    Raises:
        TypeError: ``model`` is no module.

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.resnet18_stodepth_lineardecay(prob_0_L=(1.0, 0.3))
        >>> [round(p, 2) for p in sdm.survival_probs(model)]
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
    """
    return [gate.survival_prob for gate in gates_of(model)]


def set_survival_probs(model: nn.Module, probs: float | Sequence[float]) -> None:
    """Set the survival probability of every stochastic block. Weights do not change.

    Under ``rescale="eval"`` the evaluation scale follows the probability, and with it the function.

    Args:
        model: a model with stochastic blocks.
        probs: one probability in ``[0, 1]`` for all blocks, or a list with one for each, in the order of
            :func:`survival_probs`.

    Raises:
        TypeError: a probability that is no number, or ``model`` is no module.
        ValueError: no stochastic block, a list of another length, or a probability outside ``[0, 1]`` or nan.

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay()
        >>> sdm.set_survival_probs(model, sdm.linear_decay(9, 1.0, 0.8))
        >>> sdm.survival_probs(model)[-1]
        0.8
        >>> sdm.set_survival_probs(model, 1.0)  # constant depth
    """
    gates = stochastic_gates(model)
    values: list[Any] = [probs] * len(gates)
    if isinstance(probs, Iterable) and not isinstance(probs, str) and not holds_one_number(probs):
        values = list(probs)
    if len(values) != len(gates):
        raise ValueError(
            f"probs must hold one probability for each of the {len(gates)} blocks, got {len(values)}; a line from p_0 "
            f"to p_L is linear_decay({len(gates)}, p_0, p_L)"
        )
    # All of them are checked before the first is set: an error leaves the model as it was.
    checked = [check_probability("probs", value) for value in values]
    for gate, value in zip(gates, checked, strict=True):
        gate.survival_prob = value


def stochastic_gates(model: nn.Module) -> list[StochasticGate]:
    """Return the gates of a model that must have some.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it has no stochastic block.
    """
    gates = gates_of(model)
    if not gates:
        raise ValueError(f"model must have stochastic blocks, got {type(model).__name__} without any")
    return gates


def _check_depth(L: int) -> None:
    if not isinstance(L, Integral) or L < 1:
        raise ValueError(f"L must be a number of blocks, at least 1, got {L!r}")
