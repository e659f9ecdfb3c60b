"""torchvision's residual blocks: those of its ResNets, which this package's own models are made of, and the others."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .ends import last_norm_of, scalable_weights
from .gated import GatedBlock
from .spec import BlockSpec, Residual
from .torchvision_families import TORCHVISION_FAMILIES


def _shortcut(block: Any, x: Tensor) -> Tensor:
    return x if block.downsample is None else block.downsample(x)


_RESNET = Residual(
    branch=lambda block, x: block.branch(x),
    identity=_shortcut,
    activation="relu",
    inplace=True,
    scalable_weights=lambda block: scalable_weights(last_norm_of(block)),
)


class StoDepthBasicBlock(GatedBlock, BasicBlock):
    """Two 3x3 convolutions, of ResNet-18 and -34 (He et al., arXiv:1512.03385), with stochastic depth.

    The gate is the submodule ``residual``, a :class:`StochasticResidual` that starts at survival probability 1. It has
    no weights: the state dict stays torchvision's. A block that is dropped for the whole batch returns its input
    itself where that comes from a ReLU: features caught on either side of it are one tensor, with one gradient.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> block = sdm.StoDepthBasicBlock(16, 16)
        >>> block.residual.survival_prob = 0.0
        >>> x = torch.rand(2, 16, 8, 8)
        >>> torch.equal(block(x), x)  # the branch is dropped
        True
    """

    stodepth_original = BasicBlock
    stodepth_spec = BlockSpec((_RESNET,))
    stodepth_gate_names = ("residual",)

    residual: nn.Module
    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    downsample: nn.Module | None
    relu: nn.Module

    def branch(self, x: Tensor) -> Tensor:
        """Return conv, batch norm, ReLU, conv, batch norm of ``x``, ``(N, C, H, W)``: what the gate leaves out."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out))

    @property
    def last_norm(self) -> nn.Module:
        """Normalisation that ends the branch."""
        return self.bn2


class StoDepthBottleneck(GatedBlock, Bottleneck):
    """1x1, 3x3 and 1x1 convolutions, of ResNet-50 and deeper (He et al., arXiv:1512.03385), with stochastic depth.

    Its gate is that of :class:`StoDepthBasicBlock`.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> block = sdm.StoDepthBottleneck(64, 16)
        >>> block(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 64, 8, 8])
    """

    stodepth_original = Bottleneck
    stodepth_spec = BlockSpec((_RESNET,))
    stodepth_gate_names = ("residual",)

    residual: nn.Module
    conv1: nn.Module
    bn1: nn.Module
    conv2: nn.Module
    bn2: nn.Module
    conv3: nn.Module
    bn3: nn.Module
    downsample: nn.Module | None
    relu: nn.Module

    def branch(self, x: Tensor) -> Tensor:
        """Return conv, batch norm, ReLU, twice, then conv, batch norm of ``x``, ``(N, C, H, W)``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out))

    @property
    def last_norm(self) -> nn.Module:
        """Normalisation that ends the branch."""
        return self.bn3


TORCHVISION_BLOCKS: dict[type[nn.Module], BlockSpec] = {
    BasicBlock: BlockSpec((_RESNET,), gated=StoDepthBasicBlock),
    Bottleneck: BlockSpec((_RESNET,), gated=StoDepthBottleneck),
    **TORCHVISION_FAMILIES,
}
