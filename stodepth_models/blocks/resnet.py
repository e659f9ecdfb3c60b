"""torchvision's residual blocks with a branch that is left out at random."""

from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torchvision.models.resnet import BasicBlock, Bottleneck

from ..layers.eager import EAGER_DEVICES, call_eagerly, for_any_batch
from ..layers.residual import StochasticResidual
from ..layers.tracing import trace_as_leaf

__all__ = ["StoDepthBasicBlock", "StoDepthBottleneck"]


class _StochasticBlock(nn.Module):
    """Mixed in before a torchvision block: ``relu(shortcut(x) + gate * branch(x))``.

    The gate is the submodule ``residual``, a :class:`StochasticResidual` that starts at survival probability 1. It has
    no weights: the state dict stays torchvision's. A block that is dropped for the whole batch returns its input
    itself where that comes from a ReLU: features caught on either side of it are one tensor, with one gradient.
    """

    downsample: nn.Module | None
    relu: nn.Module

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.residual = StochasticResidual(inplace=True, may_alias=True)

    def branch(self, x: Tensor) -> Tensor:
        """Return the residual branch of ``x``, ``(N, C, H, W)``: what the gate leaves out."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``x``, ``(N, C, H, W)``."""
        # Nothing touches `x` before the compiler leaves this frame: its guards do not multiply with the shapes.
        return self._forward_gated(x) if self.residual.draws() else self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):
            return trace_as_leaf(self, x)
        identity = x if self.downsample is None else self.downsample(x)
        return _activate(self.relu, self.residual(self.branch, x, identity), identity)

    @torch.compiler.disable(recursive=False)  # see StochasticResidual
    def _forward_gated(self, x: Tensor) -> Tensor:
        if isinstance(x, torch.fx.Proxy):
            return trace_as_leaf(self, x)
        identity = x
        if self.downsample is not None:
            eager = x.device.type in EAGER_DEVICES
            identity = call_eagerly(self.downsample, x) if eager else self.downsample(for_any_batch(x))
        if _is_plain(self.relu, nn.ReLU) and _is_plain(self.residual, StochasticResidual):
            return self.residual.forward_gated(self.branch, x, identity, relu=True)
        return _activate(self.relu, self.residual(self.branch, x, identity), identity)


class StoDepthBasicBlock(_StochasticBlock, BasicBlock):
    """Two 3x3 convolutions, of ResNet-18 and -34 (He et al., arXiv:1512.03385), with stochastic depth."""

    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module

    def branch(self, x: Tensor) -> Tensor:
        """Return conv, batch norm, ReLU, conv, batch norm of ``x``, ``(N, C, H, W)``."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out))

    @property
    def last_norm(self) -> nn.Module:
        """Normalisation that ends the branch."""
        return self.bn2


class StoDepthBottleneck(_StochasticBlock, Bottleneck):
    """1x1, 3x3 and 1x1 convolutions, of ResNet-50 and deeper (He et al., arXiv:1512.03385), with stochastic depth."""

    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    conv3: nn.Module
    bn3: nn.Module

    def branch(self, x: Tensor) -> Tensor:
        """Return conv, batch norm, ReLU, twice, then conv, batch norm of ``x``, ``(N, C, H, W)``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))

    @property
    def last_norm(self) -> nn.Module:
        """Normalisation that ends the branch."""
        return self.bn3


def _activate(activation: nn.Module, out: Tensor, identity: Tensor) -> Tensor:
    # Dropped: autograd, or a caller, may still need the shortcut's values, which an activation in place would change.
    return activation(out.clone() if out is identity else out)


@torch.compiler.disable
def _is_plain(module: Any, kind: type[nn.Module]) -> bool:
    """Whether a module is what its class says, so that its work may be done elsewhere, and nobody watches it work."""
    if type(module) is not kind or "forward" in vars(module):
        return False
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and not _has_any_global_hook()
