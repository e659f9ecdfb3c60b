"""Survival probabilities: depth rules, reading and setting them on a model, and what they cost and need."""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from .gates import check_choice, check_probability
from .stochastic_gate import StochasticGate

__all__ = [
    "DEPTH_RULES",
    "ExpectedFlops",
    "FlopCount",
    "count_flops",
    "expected_flops",
    "linear_decay",
    "recalibrate_bn",
    "set_survival_probs",
    "survival_probs",
    "uniform",
]

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
    check_probability("p_0", p_0)
    check_probability("p_L", p_L)
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


class ExpectedFlops(NamedTuple):
    """FLOPs of one forward pass, as ``torch.utils.flop_counter`` counts them.

    Attributes:
        share: ``training / full``, in ``[0, 1]``.
        training: expected over the gates.
        full: with every branch.
    """

    share: float
    training: float
    full: int


def expected_flops(model: nn.Module, input_size: Sequence[int]) -> ExpectedFlops:
    """Return the expected FLOPs of one training forward pass (Huang et al., arXiv:1603.09382, sec. 3, "Training time").

    Nothing is computed: a copy of the model runs on the meta device.

    Args:
        model: a model with or without stochastic blocks.
        input_size: ``(N, C, H, W)``.

    Raises:
        TypeError: ``input_size`` is no sequence of numbers.
    """
    if not isinstance(input_size, Sequence) or not all(isinstance(size, int) for size in input_size):
        raise TypeError(f"input_size must be the shape of a batch, such as (1, 3, 224, 224), got {input_size!r}")
    return count_flops(model, torch.empty(tuple(input_size), device="meta")).expected(survival_probs(model))


class FlopCount(NamedTuple):
    """FLOPs of one forward pass with every branch.

    Attributes:
        full: of the whole pass.
        gated: of what each gate drops.
        around: for each gate the positions of those around it, which drop it too.
    """

    full: int
    gated: list[int]
    around: list[list[int]]

    def expected(self, kept: Iterable[float]) -> ExpectedFlops:
        """Return the FLOPs where each gate keeps its share, in ``[0, 1]``, independently of the others."""
        kept = list(kept)
        reached = [math.prod(kept[gate] for gate in around) for around in self.around]
        dropped = zip(kept, self.gated, reached, strict=True)
        training = self.full - sum((1.0 - share) * flops * chance for share, flops, chance in dropped)
        return ExpectedFlops(training / self.full if self.full else 1.0, training, self.full)


def count_flops(model: nn.Module, *args: Any, **kwargs: Any) -> FlopCount:
    """Count the FLOPs of ``model(*args, **kwargs)``, without computing it: all tensors are moved to the meta device."""
    gates = [name for name, module in model.named_modules() if isinstance(module, StochasticGate)]
    copy = deepcopy(model).to("meta").eval()
    for module in copy.modules():
        module._forward_hooks.clear()  # of the user, who asked for no pass; those before a pass may make weights
    if gates:
        set_survival_probs(copy, 1.0)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy(*tree_map_only(Tensor, _to_meta, args), **tree_map_only(Tensor, _to_meta, kwargs))
    counts = counter.get_flop_counts()

    def flops(*path: str) -> int:
        return sum(counts.get(".".join([type(copy).__name__, *filter(None, path)]), {}).values())

    # A dropped StochasticDepthBlock still computes its shortcut.
    kept = [flops(name, "block.shortcut") + flops(name, "block.downsample") for name in gates]
    gated = [flops(name) - rest for name, rest in zip(gates, kept, strict=True)]
    around = [[i for i, outer in enumerate(gates) if name.startswith(f"{outer}.")] for name in gates]
    return FlopCount(counter.get_total_flops(), gated, around)


def _to_meta(x: Tensor) -> Tensor:
    return x.detach().to("meta")


@torch.no_grad()
def recalibrate_bn(model: nn.Module, batches: Iterable[Any]) -> None:
    """Re-estimate all batch-norm statistics at full depth, as the mean over ``batches``.

    In training a deep block saw fewer batches, and each block inputs of a shallower network than the one that is
    evaluated. Gates, dropout and the like stay in evaluation: the result is deterministic. Modes are restored.

    Args:
        model: any model; its running means and variances are overwritten, but for a pass that fails: then all are
            as before.
        batches: tensors ``(N, C, H, W)``, or tuples that begin with one, such as a DataLoader yields; moved to the
            device of the model's parameters. Shuffled: batches of one class each have other statistics than the mixed
            ones of training.

    Raises:
        ValueError: ``batches`` is empty.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    seen = False
    try:
        model.eval()
        for batch in batches:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not seen:
                _start_cumulative(norms)
            seen = True
            model(x.to(next(model.parameters()).device))
    except BaseException:
        for buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
    if not seen:
        raise ValueError("batches must hold at least one batch, got none")


def _start_cumulative(norms: list[_BatchNorm]) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()


def _gates(model: nn.Module) -> list[StochasticGate]:
    return [module for module in model.modules() if isinstance(module, StochasticGate)]


def _check_depth(L: int) -> None:
    if not isinstance(L, int) or L < 1:
        raise ValueError(f"L must be a number of blocks, at least 1, got {L!r}")
