"""torchvision's residual blocks: of ResNet, and those that mask their branches with ``StochasticDepth``."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import FusedMBConv, MBConv
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import SwinTransformerBlock, SwinTransformerBlockV2

from .gated import BlockSpec, GatedBlock, Residual, ScalableWeights, last_norm_of, scalable_weights


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


def _inverted_weights(block: Any) -> ScalableWeights:
    last = block.block[-1]
    return scalable_weights(last[-1])  # an activation, which has no weight, ends the FusedMBConv that does not expand


_INVERTED = BlockSpec(
    (Residual(lambda block, x: block.block(x), None, None, "stochastic_depth", True, _inverted_weights),),
    is_residual=lambda block: block.use_res_connect,
)
_CONVNEXT = BlockSpec(
    (
        Residual(
            lambda block, x: block.layer_scale * block.block(x),
            mask="stochastic_depth",
            scalable_weights=lambda block: [(block.layer_scale, 1)],
        ),
    )
)
_SWIN = BlockSpec(
    (
        Residual(
            lambda block, x: block.attn(block.norm1(x)),
            mask="stochastic_depth",
            scalable_weights=lambda block: scalable_weights(block.attn.proj),
        ),
        Residual(
            lambda block, x: block.mlp(block.norm2(x)),
            mask="stochastic_depth",
            scalable_weights=lambda block: scalable_weights(block.mlp[3]),
        ),
    )
)
_SWIN_V2 = BlockSpec(
    (
        Residual(
            lambda block, x: block.norm1(block.attn(x)),
            mask="stochastic_depth",
            scalable_weights=lambda block: scalable_weights(block.norm1),
        ),
        Residual(
            lambda block, x: block.norm2(block.mlp(x)),
            mask="stochastic_depth",
            scalable_weights=lambda block: scalable_weights(block.norm2),
        ),
    )
)

TORCHVISION_BLOCKS: dict[type[nn.Module], BlockSpec] = {
    BasicBlock: BlockSpec((_RESNET,), gated=StoDepthBasicBlock),
    Bottleneck: BlockSpec((_RESNET,), gated=StoDepthBottleneck),
    CNBlock: _CONVNEXT,
    MBConv: _INVERTED,
    FusedMBConv: _INVERTED,
    SwinTransformerBlock: _SWIN,
    SwinTransformerBlockV2: _SWIN_V2,
}
