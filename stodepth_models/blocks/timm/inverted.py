"""timm's inverted residual blocks: of EfficientNet, MobileNet and their kin, and those of MaxViT."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..branches import in_order
from ..ends import ends_in
from ..spec import BlockSpec, Residual


def _has_skip(block: Any) -> bool:
    return block.has_skip


def _with_skip(branch: Callable[[Any, Tensor], Tensor], *ends: str) -> BlockSpec:
    residual = Residual(branch, mask="drop_path", scalable_weights=ends_in(*ends), branch_first=True)
    return BlockSpec((residual,), is_residual=_has_skip)


def _routed(block: Any, x: Tensor) -> Tensor:
    pooled = nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
    weights = torch.sigmoid(block.routing_fn(pooled))
    x = block.bn1(block.conv_pw(x, weights))
    x = block.se(block.bn2(block.conv_dw(x, weights)))
    return block.bn3(block.conv_pwl(x, weights))


def _with_position(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if block.conv_cpe_dw is not None:
        x = x + block.conv_cpe_dw(x)
    return x, x


_SEPARABLE = in_order("conv_s2d", "bn_s2d", "conv_dw", "bn1", "aa", "se", "conv_pw", "bn2")
_MBCONV = in_order("conv_s2d", "bn_s2d", "conv_pw", "bn1", "conv_dw", "bn2", "aa", "se", "conv_pwl", "bn3")
_FUSED_MBCONV = in_order("conv_exp", "bn1", "aa", "se", "conv_pwl", "bn2")
_UNIVERSAL = in_order("dw_start", "pw_exp", "dw_mid", "se", "pw_proj", "dw_end", "layer_scale")
_ATTENTION = BlockSpec(
    (
        Residual(
            in_order("norm", "attn", "layer_scale"),
            mask="drop_path",
            scalable_weights=ends_in("layer_scale.gamma"),
            prepare=_with_position,
            branch_first=True,
        ),
    ),
    is_residual=_has_skip,
)

# maxxvit
_MAXXVIT_MBCONV = in_order(
    "pre_norm", "down", "conv1_1x1", "norm1", "conv2_kxk", "se_early", "norm2", "se", "conv3_1x1"
)

INVERTED: dict[str, BlockSpec] = {
    "_efficientnet_blocks.ConvBnAct": _with_skip(in_order("conv", "bn1", "aa"), "bn1"),
    "_efficientnet_blocks.DepthwiseSeparableConv": _with_skip(_SEPARABLE, "bn2"),
    "_efficientnet_blocks.InvertedResidual": _with_skip(_MBCONV, "bn3"),
    "_efficientnet_blocks.CondConvResidual": _with_skip(_routed, "bn3"),
    "_efficientnet_blocks.EdgeResidual": _with_skip(_FUSED_MBCONV, "bn2"),
    "_efficientnet_blocks.UniversalInvertedResidual": _with_skip(
        _UNIVERSAL, "layer_scale.gamma", "dw_end.bn", "pw_proj.bn"
    ),
    "_efficientnet_blocks.MobileAttention": _ATTENTION,
    "maxxvit.MbConvBlock": BlockSpec(
        (
            Residual(
                _MAXXVIT_MBCONV,
                in_order("shortcut"),
                mask="drop_path",
                scalable_weights=ends_in("conv3_1x1"),
                branch_first=True,
            ),
        )
    ),
}
