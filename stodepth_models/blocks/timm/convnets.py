"""timm's convolutional blocks: ConvNeXt, RegNet, and those that normalise before they convolve."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..branches import in_order, normed_with_shortcut
from ..ends import ScalableWeights, ends_in
from ..spec import BlockSpec, Residual

_Branch = Callable[[Any, Tensor], Tensor]


# convnext, maxxvit: the layer scale is a parameter in one and a module in the other
def _convnext_body(block: Any, x: Tensor) -> Tensor:
    x = block.conv_dw(x)
    if block.use_conv_mlp:
        return block.mlp(block.norm(x))
    return block.mlp(block.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def _convnext(block: Any, x: Tensor) -> Tensor:
    out = _convnext_body(block, x)
    return out if block.gamma is None else out.mul(block.gamma.reshape(1, -1, 1, 1))


def _maxxvit_convnext(block: Any, x: Tensor) -> Tensor:
    x = block.conv_dw(block.down(x))
    if block.use_conv_mlp:
        return block.ls(block.mlp(block.norm(x)))
    return block.ls(block.mlp(block.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


# resnetv2, regnet, nfnet: the shortcut, where it has layers, begins behind the first normalisation or activation, and
# the two share it. A shortcut without layers begins in front of it, and then the branch does that layer by itself.
def _preact_start(block: Any, x: Tensor) -> Tensor:
    if block.downsample is None:
        x = block.norm1(x)
    return block.conv1(x)


def _preact_basic(block: Any, x: Tensor) -> Tensor:
    return block.conv2(block.norm2(_preact_start(block, x)))


def _preact_bottleneck(block: Any, x: Tensor) -> Tensor:
    out = block.conv2(block.norm2(_preact_start(block, x)))
    return block.conv3(block.norm3(out))


def _has_downsample(block: Any) -> bool:
    return block.downsample is not None


def _nfnet_shortcut(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if block.downsample is None:
        return x, x
    x = block.act1(x) * block.beta
    return x, block.downsample(x)


def _nfnet(block: Any, x: Tensor) -> Tensor:
    if block.downsample is None:
        x = block.act1(x) * block.beta
    out = block.conv2(block.act2(block.conv1(x)))
    if block.conv2b is not None:
        out = block.conv2b(block.act2b(out))
    if block.attn is not None:
        out = block.attn_gain * block.attn(out)
    out = block.conv3(block.act3(out))
    if block.attn_last is not None:
        out = block.attn_gain * block.attn_last(out)
    if block.skipinit_gain is not None:
        out = out * block.skipinit_gain
    return out * block.alpha


def _nfnet_weights(block: Any) -> ScalableWeights:
    if block.skipinit_gain is not None:
        return [(block.skipinit_gain, 1)]
    if block.attn_last is not None:
        raise ValueError(f"it ends in {type(block.attn_last).__name__}, which a scaled input would change")
    conv = block.conv3  # standardises its weight: the gain scales what it computes
    weights: ScalableWeights = [(conv.gain, 1)]
    if conv.bias is not None:
        weights.append((conv.bias, 1))
    return weights


def _preact(branch: _Branch, *ends: str) -> BlockSpec:
    residual = Residual(
        branch, mask="drop_path", scalable_weights=ends_in(*ends), prepare=normed_with_shortcut, branch_first=True
    )
    return BlockSpec((residual,))


_CONVNEXT = Residual(
    _convnext, in_order("shortcut"), mask="drop_path", scalable_weights=ends_in("gamma", "mlp.fc2"), branch_first=True
)
_MAXXVIT = Residual(
    _maxxvit_convnext,
    in_order("shortcut"),
    mask="drop_path",
    scalable_weights=ends_in("ls.gamma", "mlp.fc2"),
    branch_first=True,
)
_POSTACT = Residual(
    in_order("conv1", "norm1", "conv2", "norm2", "conv3", "norm3"),
    in_order("downsample"),
    "act3",
    "drop_path",
    scalable_weights=ends_in("norm3"),
    branch_first=True,
)
_REGNET = Residual(
    in_order("conv1", "conv2", "se", "conv3"),
    in_order("downsample"),
    "act3",
    "drop_path",
    scalable_weights=ends_in("conv3.bn"),
    branch_first=True,
)
_REGNET_PREACT = Residual(
    in_order("conv1", "norm2", "conv2", "se", "norm3", "conv3"),
    mask="drop_path",
    scalable_weights=ends_in("conv3"),
    prepare=normed_with_shortcut,
    branch_first=True,
)
_NFNET = Residual(_nfnet, mask="drop_path", scalable_weights=_nfnet_weights, prepare=_nfnet_shortcut, branch_first=True)
CONVNETS: dict[str, BlockSpec] = {
    "convnext.ConvNeXtBlock": BlockSpec((_CONVNEXT,)),
    "maxxvit.ConvNeXtBlock": BlockSpec((_MAXXVIT,)),
    "resnetv2.PreActBasic": _preact(_preact_basic, "conv2"),
    "resnetv2.PreActBottleneck": _preact(_preact_bottleneck, "conv3"),
    "resnetv2.Bottleneck": BlockSpec((_POSTACT,)),
    "regnet.Bottleneck": BlockSpec((_REGNET,), is_residual=_has_downsample),
    "regnet.PreBottleneck": BlockSpec((_REGNET_PREACT,), is_residual=_has_downsample),
    "nfnet.NormFreeBlock": BlockSpec((_NFNET,)),
}
