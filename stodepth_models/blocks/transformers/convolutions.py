"""transformers' convolutional layers: ConvNeXt, ResNet, RegNet and BiT."""

from typing import Any

from torch import Tensor

from ..branches import in_order, normed_with_shortcut
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
_CONVNEXT_V2 = Residual(_convnext_v2, mask=MASK, scalable_weights=ends_in("pwconv2"))
_CONVNEXT_V3 = Residual(_convnext_v3, mask=MASK, scalable_weights=ends_in("gamma"))

_CONVOLUTIONS = BlockSpec(
    (
        Residual(
            branch=in_order("layer"),
            identity=in_order("shortcut"),
            activation="activation",
            inplace=True,
            scalable_weights=lambda block: scalable_weights(block.layer[-1].normalization),
        ),
    )
)


# bit: as timm's ResNetV2, but that both ways begin behind the normalisation or the branch does it itself
def _preact(block: Any, x: Tensor) -> Tensor:
    if block.downsample is None:
        x = block.norm1(x)
    out = block.conv2(block.norm2(block.conv1(x)))
    return block.conv3(block.norm3(out))


_BIT_PREACT = Residual(_preact, mask=MASK, prepare=normed_with_shortcut, branch_first=True)
_BIT = Residual(
    in_order("conv1", "norm1", "conv2", "norm2", "conv3", "norm3"),
    in_order("downsample"),
    "activation",
    MASK,
    scalable_weights=ends_in("norm3"),
    branch_first=True,
)

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
