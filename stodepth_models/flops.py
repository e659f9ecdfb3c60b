"""FLOPs of a forward pass: with every branch, expected over the gates, and left by the gates that were drawn."""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .layers.residual import StochasticGate
from .survival import set_survival_probs, survival_probs


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

    Examples:
        >>> import stodepth_models as sdm
        >>> model = sdm.cifar_resnet110_stodepth_lineardecay(prob_0_L=(1.0, 0.5))
        >>> round(sdm.expected_flops(model, (1, 3, 32, 32)).share, 2)
        0.75
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
        # Hooks are the user's, who asked for no pass; those before a pass stay, for they may make weights.
        getattr(module, "_forward_hooks", {}).clear()
    if gates:
        set_survival_probs(copy, 1.0)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy(*_on_meta(args), **_on_meta(kwargs))
    counts = counter.get_flop_counts()

    def flops(*path: str) -> int:
        return sum(counts.get(".".join([type(copy).__name__, *filter(None, path)]), {}).values())

    # A dropped StochasticDepthBlock still computes its shortcut.
    kept = [flops(name, "block.shortcut") + flops(name, "block.downsample") for name in gates]
    gated = [flops(name) - rest for name, rest in zip(gates, kept, strict=True)]
    around = [[i for i, outer in enumerate(gates) if name.startswith(f"{outer}.")] for name in gates]
    return FlopCount(counter.get_total_flops(), gated, around)


def _on_meta(arguments: Any) -> Any:
    """The arguments of a forward pass, however nested, with their tensors on the meta device."""
    from torch.utils._pytree import tree_map_only  # private; a release without it counts no FLOPs

    return tree_map_only(Tensor, _to_meta, arguments)


def _to_meta(x: Tensor) -> Tensor:
    return x.detach().to("meta")
