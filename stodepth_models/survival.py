"""Survival probabilities: depth rules, and reading and setting them on a model."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from torch import nn

from .layers.draw import check_choice, check_probability
from .layers.residual import StochasticGate

__all__ = ["DEPTH_RULES", "linear_decay", "set_survival_probs", "survival_probs", "uniform"]

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
    """
    _check_depth(L)
    p_0, p_L = check_probability("p_0", p_0), check_probability("p_L", p_L)
    check_choice("rule", rule, DEPTH_RULES)
    if rule == "paper":
        shares = [block / L for block in range(1, L + 1)]
    else:
        shares = [block / (L - 1) for block in range(L)] if L > 1 else [1.0]
    return [(1.0 - share) * p_0 + share * p_L for share in shares]


def uniform(L: int, p: float) -> list[float]:
    """One survival probability for all blocks.

    Args:
        L: number of residual blocks, at least 1.
        p: probability in ``[0, 1]``.

    Raises:
        TypeError: ``p`` is no number.
        ValueError: ``p`` outside ``[0, 1]`` or nan, or ``L`` below 1.
    """
    _check_depth(L)
    return [check_probability("p", p)] * L


def survival_probs(model: nn.Module) -> list[float]:
    """Return the survival probability of every stochastic block, in forward order; empty where there is none.

    Forward order is that of ``model.modules()``: modules are taken to be registered in the order they are called in.
    """
    return [gate.survival_prob for gate in _gates(model)]


def set_survival_probs(model: nn.Module, probs: float | Sequence[float]) -> None:
    """Set the survival probability of every stochastic block. Weights do not change.

    Under ``rescale="eval"`` the evaluation scale follows the probability, and with it the function.

    Args:
        model: a model with stochastic blocks.
        probs: one probability in ``[0, 1]`` for all blocks, or a list with one for each, in the order of
            :func:`survival_probs`.

    Raises:
        TypeError: a probability that is no number.
        ValueError: no stochastic block, a list of another length, or a probability outside ``[0, 1]`` or nan.
    """
    gates = _gates(model)
    if not gates:
        raise ValueError(f"model must have stochastic blocks, got {type(model).__name__} without any")
    values: list[Any] = (
        list(probs) if isinstance(probs, Iterable) and not isinstance(probs, str) else [probs] * len(gates)
    )
    if len(values) != len(gates):
        raise ValueError(
            f"probs must hold one probability for each of the {len(gates)} blocks, got {len(values)}; a line from p_0 "
            f"to p_L is linear_decay({len(gates)}, p_0, p_L)"
        )
    checked = [check_probability("probs", value) for value in values]  # all of them before the first is set
    for gate, value in zip(gates, checked, strict=True):
        gate.survival_prob = value


def _gates(model: nn.Module) -> list[StochasticGate]:
    return [module for module in model.modules() if isinstance(module, StochasticGate)]


def _check_depth(L: int) -> None:
    if not isinstance(L, Integral) or L < 1:
        raise ValueError(f"L must be a number of blocks, at least 1, got {L!r}")
