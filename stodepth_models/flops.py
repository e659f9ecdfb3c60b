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
    is_shape = isinstance(input_size, Sequence) and all(isinstance(size, int) for size in input_size)
    if not is_shape:
        raise TypeError(f"input_size must be the shape of a batch, such as (1, 3, 224, 224), got {input_size!r}")
    return count_flops(model, images_for(model, input_size)).expected(survival_probs(model))


def images_for(model: nn.Module, input_size: Sequence[int]) -> Tensor:
    """Return images of shape ``input_size``, ``(N, C, H, W)``, without values, in the dtype of the first weights."""
    dtype = torch.get_default_dtype()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            dtype = parameter.dtype
            break
    return torch.empty(tuple(input_size), dtype=dtype, device="meta")


class FlopCount(NamedTuple):
    """FLOPs of one forward pass with every branch.

    Attributes:
        full: of the whole pass.
        gated: of what each gate drops.
        around: for each gate the positions of the gates around it. Where one of these drops its branch, the inner gate
            is not reached.
    """

    full: int
    gated: list[int]
    around: list[list[int]]

    def expected(self, kept: Iterable[float]) -> ExpectedFlops:
        """Return the FLOPs where each gate keeps its share, in ``[0, 1]``, independently of the others."""
        kept = list(kept)
        # What a gate saves: the FLOPs of its branch, where the gate is reached and drops it.
        saved = 0.0
        for survival_prob, flops, around in zip(kept, self.gated, self.around, strict=True):
            reached = math.prod(kept[gate] for gate in around)
            saved += (1.0 - survival_prob) * flops * reached
        training = self.full - saved
        share = 1.0  # of a model without FLOPs
        if self.full > 0:
            share = training / self.full
        return ExpectedFlops(share, training, self.full)


def count_flops(model: nn.Module, *args: Any, **kwargs: Any) -> FlopCount:
    """Count the FLOPs of ``model(*args, **kwargs)``, without computing it: all tensors are moved to the meta device."""
    # The counter's hooks refuse a parameter among a module's inputs, such as a class token, that requires gradients.
    copy = deepcopy(model).to("meta").eval().requires_grad_(False)
    for module in copy.modules():
        # Hooks after a pass are the user's, who asked for no pass. Hooks before a pass may make weights: they stay.
        getattr(module, "_forward_hooks", {}).clear()
    gates = [name for name, module in copy.named_modules() if isinstance(module, StochasticGate)]
    if gates:
        set_survival_probs(copy, 1.0)  # in evaluation a gate whose probability is 0 would leave its branch out
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy(*_on_meta(args), **_on_meta(kwargs))
    flops = _flops_by_module(counter, copy)
    gated = []
    around = []
    for name in gates:
        # A dropped StochasticDepthBlock still computes its shortcut.
        shortcut = flops.get(_join(name, "block.shortcut"), 0) + flops.get(_join(name, "block.downsample"), 0)
        gated.append(flops.get(name, 0) - shortcut)
        outer_gates = []
        for position, outer in enumerate(gates):
            if _is_within(name, outer):
                outer_gates.append(position)
        around.append(outer_gates)
    return FlopCount(counter.get_total_flops(), gated, around)


def _flops_by_module(counter: FlopCounterMode, model: nn.Module) -> dict[str, int]:
    """FLOPs of each submodule that was called, by its name; that of the model is empty."""
    # The counter names a module by its path, which begins with the class of the model.
    root = type(model).__name__
    flops = {}
    for path, counts in counter.get_flop_counts().items():
        if path == root or path.startswith(f"{root}."):
            name = path[len(root) + 1 :]
            flops[name] = sum(counts.values())
    return flops


def _join(name: str, child: str) -> str:
    if not name:
        return child
    return f"{name}.{child}"


def _is_within(name: str, outer: str) -> bool:
    return name != outer and name.startswith(_join(outer, ""))


def _on_meta(arguments: Any) -> Any:
    """The arguments of a forward pass, however nested, with their tensors on the meta device."""
    from torch.utils._pytree import tree_map_only  # private; a release without it counts no FLOPs

    return tree_map_only(Tensor, _to_meta, arguments)


def _to_meta(x: Tensor) -> Tensor:
    return x.detach().to("meta")
