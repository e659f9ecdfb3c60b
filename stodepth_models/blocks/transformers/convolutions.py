"""transformers' convolutional layers: ConvNeXt, ResNet, RegNet and BiT."""

from typing import Any

from torch import Tensor

from ..ends import ScalableWeights, ends_in, scalable_weights
from ..spec import BlockSpec, Residual
from .ends import MASK, last_weights

_MODELS = "transformers.models."


def _convnext(block: Any, x: Tensor) -> Tensor:
    out = block.layernorm(block.dwconv(x).permute(0, 2, 3, 1))
    out = block.pwconv2(block.act(block.pwconv1(out)))
    if block.layer_scale_parameter is not None:
        out = block.layer_scale_parameter * out
    return out.permute(0, 3, 1, 2)


def _convnext_v2(block: Any, x: Tensor) -> Tensor:
    out = block.layernorm(block.dwconv(x).permute(0, 2, 3, 1))
    out = block.grn(block.act(block.pwconv1(out)))
    return block.pwconv2(out).permute(0, 3, 1, 2)


def _convnext_v3(block: Any, x: Tensor) -> Tensor:
    out = block.layer_norm(block.depthwise_conv(x).permute(0, 2, 3, 1))
    out = block.pointwise_conv2(block.activation_fn(block.pointwise_conv1(out)))
    return (out * block.gamma).permute(0, 3, 1, 2)


def _convnext_weights(block: Any) -> ScalableWeights:
    return last_weights(block, "layer_scale_parameter", block.pwconv2)


_CONVNEXT = Residual(_convnext, mask=MASK, scalable_weights=_convnext_weights)
_CONVNEXT_V2 = Residual(_convnext_v2, mask=MASK, scalable_weights=lambda block: scalable_weights(block.pwconv2))
_CONVNEXT_V3 = Residual(_convnext_v3, mask=MASK, scalable_weights=lambda block: [(block.gamma, 1)])

_CONVOLUTIONS = BlockSpec(
    (
        Residual(
            branch=lambda block, x: block.layer(x),
            identity=lambda block, x: block.shortcut(x),
            activation="activation",
            inplace=True,
            scalable_weights=lambda block: scalable_weights(block.layer[-1].normalization),
        ),
    )
)


# bit: as timm's ResNetV2, but that both ways begin behind the normalisation or the branch does it itself
def _preact_start(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if block.downsample is None:
        return x, x
    normed = block.norm1(x)
    return normed, block.downsample(normed)


def _preact(block: Any, x: Tensor) -> Tensor:
    if block.downsample is None:
        x = block.norm1(x)
    out = block.conv2(block.norm2(block.conv1(x)))
    return block.conv3(block.norm3(out))


def _postact(block: Any, x: Tensor) -> Tensor:
    out = block.norm1(block.conv1(x))
    out = block.norm2(block.conv2(out))
    return block.norm3(block.conv3(out))


def _downsampled(block: Any, x: Tensor) -> Tensor:
    return x if block.downsample is None else block.downsample(x)


_BIT_PREACT = Residual(_preact, mask=MASK, prepare=_preact_start, branch_first=True)
_BIT = Residual(_postact, _downsampled, "activation", MASK, scalable_weights=ends_in("norm3"), branch_first=True)

CONVOLUTIONS: dict[str, BlockSpec] = {
    f"{_MODELS}bit.modeling_bit.BitPreActivationBottleneckLayer": BlockSpec((_BIT_PREACT,)),
    f"{_MODELS}bit.modeling_bit.BitBottleneckLayer": BlockSpec((_BIT,)),
    f"{_MODELS}convnext.modeling_convnext.ConvNextLayer": BlockSpec((_CONVNEXT,)),
    f"{_MODELS}convnextv2.modeling_convnextv2.ConvNextV2Layer": BlockSpec((_CONVNEXT_V2,)),
    f"{_MODELS}dinov3_convnext.modeling_dinov3_convnext.DINOv3ConvNextLayer": BlockSpec((_CONVNEXT_V3,)),
    f"{_MODELS}regnet.modeling_regnet.RegNetXLayer": _CONVOLUTIONS,
    f"{_MODELS}regnet.modeling_regnet.RegNetYLayer": _CONVOLUTIONS,
    f"{_MODELS}resnet.modeling_resnet.ResNetBasicLayer": _CONVOLUTIONS,
    f"{_MODELS}resnet.modeling_resnet.ResNetBottleNeckLayer": _CONVOLUTIONS,
}
