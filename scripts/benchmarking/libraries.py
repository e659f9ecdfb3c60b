"""Models of torchvision and timm: with their own masks, converted to gates, and without stochastic depth."""

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import stodepth_models as sdm
from stodepth_models.flops import FlopCount, count_flops
from stodepth_models.layers.residual import StochasticGate

from .measure import Step


def build(name: str, rate: float) -> nn.Module:
    """Return a model with the library's masks, which drop the last block with chance ``rate``.

    Args:
        name: ``torchvision/NAME`` or ``timm/NAME``.
        rate: drop rate of the last block, in ``[0, 1]``; 0: no masks.

    Raises:
        ValueError: another library, or a model without such a rate.
    """
    library, _, model = name.partition("/")
    torch.manual_seed(0)  # the same weights for every candidate
    if library == "torchvision":
        return _with_rates(torchvision.models.get_model(model), rate)
    if library == "timm":
        import timm

        return timm.create_model(model, drop_path_rate=rate)
    raise ValueError(f"models are named torchvision/NAME or timm/NAME, got {name!r}")


def _with_rates(model: nn.Module, rate: float) -> nn.Module:
    """Scale the rates of a model of torchvision, whose builders do not all take a rate."""
    masks = [module for module in model.modules() if isinstance(module, torchvision.ops.StochasticDepth)]
    last = max((mask.p for mask in masks), default=0.0)
    if last == 0.0:
        raise ValueError(f"{type(model).__name__} of torchvision has no masks (StochasticDepth) with a rate above 0")
    for mask in masks:
        mask.p *= rate / last
    return model


def converted(name: str, rate: float, mode: str) -> nn.Module:
    """Return the model of :func:`build` with gates in the place of its masks."""
    model = build(name, rate)
    drop_rate = None if rate > 0 else 0.0  # without masks there are no rates to take over
    sdm.apply_stochastic_depth(model, drop_rate=drop_rate, stochastic_method=mode)
    return model


class Share:
    """Executed share of a model's FLOPs, by the gates that its last training step drew."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.gates = [module for module in model.modules() if isinstance(module, StochasticGate)]
        self.count: FlopCount = count_flops(model, x)

    def __call__(self) -> float:
        """Return the share, in ``[0, 1]``."""
        return self.count.expected(gate.last_share for gate in self.gates).share


def training_step(model: nn.Module, x: Tensor) -> Step:
    """Return a function that runs a forward and a backward pass on ``x``, ``(N, 3, H, W)``."""
    model.train()
    labels = torch.zeros(len(x), dtype=torch.long)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        cross_entropy(model(x), labels).backward()

    return step


def is_bit_equal(one: nn.Module, other: nn.Module, x: Tensor) -> bool:
    """Return whether outputs and gradients of two models in training are equal bit by bit."""
    outputs = []
    for model in (one, other):
        torch.manual_seed(0)
        model.zero_grad(set_to_none=True)
        out = model.train()(x)
        out.square().mean().backward()
        outputs.append(out)
    if not torch.equal(*outputs):
        return False
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(first.grad, second.grad) for first, second in pairs)  # type: ignore[arg-type]
