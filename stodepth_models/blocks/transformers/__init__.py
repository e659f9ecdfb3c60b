"""Residual blocks of Hugging Face transformers' vision models, by the full names of their classes; imports nothing.

Their layers take keyword arguments, and some return a tuple. Most have one drop-path module for two connections.
"""

from typing import Any

from torch import Tensor, nn

from ..ends import ScalableWeights, scalable_weights
from ..spec import BlockSpec, Residual
from .swin import SWIN, SWIN_V2

MASK = "drop_path"


def _attend(norm: str, scale: str | None = None, dropout: str | None = None) -> Residual:
    """Attention behind a normalisation; ``scale`` and ``dropout`` name what follows it."""

    def branch(block: Any, x: Tensor, **arguments: Any) -> Tensor:
        out, _ = block.attention(getattr(block, norm)(x), **arguments)
        return _finish(block, out, scale, dropout)

    def weights(block: Any) -> ScalableWeights:
        return _last_weights(block, scale, block.attention.o_proj)

    return Residual(branch, mask=MASK, scalable_weights=weights)


def _feed_forward(norm: str, scale: str | None = None, dropout: str | None = None) -> Residual:
    """An MLP behind a normalisation; ``scale`` and ``dropout`` name what follows it."""

    def branch(block: Any, x: Tensor) -> Tensor:
        return _finish(block, block.mlp(getattr(block, norm)(x)), scale, dropout)

    def weights(block: Any) -> ScalableWeights:
        # The second name is that of MLPs with a gate.
        last = getattr(block.mlp, "fc2", None) or getattr(block.mlp, "down_proj", None)
        return _last_weights(block, scale, last)

    return Residual(branch, mask=MASK, scalable_weights=weights)


def _finish(block: Any, out: Tensor, scale: str | None, dropout: str | None) -> Tensor:
    if dropout is not None:
        out = getattr(block, dropout)(out)
    if scale is None:
        return out
    factor = getattr(block, scale)
    if isinstance(factor, nn.Module):
        return factor(out)
    return factor * out


def _last_weights(block: Any, scale: str | None, last: Any) -> ScalableWeights:
    factor = getattr(block, scale) if scale is not None else None
    if isinstance(factor, nn.Module):
        factor = factor.lambda1  # of a LayerScale
    if isinstance(factor, Tensor):
        return [(factor, 1)]
    return scalable_weights(last)


def _encoder(attention: Residual, feed_forward: Residual) -> BlockSpec:
    return BlockSpec((attention, feed_forward), per_sample=("attention_mask",))


_DINO = _encoder(_attend("norm1", "layer_scale1"), _feed_forward("norm2", "layer_scale2"))
_VIT = _encoder(
    _attend("layernorm_before", dropout="dropout"),
    _feed_forward("layernorm_after", dropout="dropout"),
)


def _beit_attention(
    block: Any,
    x: Tensor,
    attention_mask: Tensor | None = None,
    interpolate_pos_encoding: bool = False,
    resolution: tuple[int, int] | None = None,
    **arguments: Any,
) -> Tensor:
    if block.relative_position_bias is not None:
        height, width = resolution  # type: ignore[misc]
        window = (height // block.patch_size, width // block.patch_size)
        bias = block.relative_position_bias(window, interpolate_pos_encoding, dim_size=x.shape[1])
        attention_mask = bias if attention_mask is None else bias + attention_mask
    out, _ = block.attention(block.layernorm_before(x), attention_mask=attention_mask, **arguments)
    return _finish(block, out, "lambda_1", "dropout")


def _beit_weights(block: Any) -> ScalableWeights:
    return _last_weights(block, "lambda_1", block.attention.o_proj)


_BEIT = _encoder(
    Residual(_beit_attention, mask=MASK, scalable_weights=_beit_weights),
    _feed_forward("layernorm_after", "lambda_2", "dropout"),
)


def _segformer_attention(block: Any, x: Tensor, height: int, width: int, **arguments: Any) -> Tensor:
    out, _ = block.attention(block.layernorm_before(x), height, width, **arguments)
    return block.hidden_dropout(out)


def _segformer_feed_forward(block: Any, x: Tensor, height: int, width: int, **arguments: Any) -> Tensor:
    return block.mlp(block.layernorm_after(x), height, width)


_SEGFORMER = BlockSpec(
    (
        Residual(
            _segformer_attention,
            mask=MASK,
            scalable_weights=lambda block: scalable_weights(block.attention.o_proj),
        ),
        Residual(
            _segformer_feed_forward,
            mask=MASK,
            scalable_weights=lambda block: scalable_weights(block.mlp.fc2),
        ),
    )
)


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
    return _last_weights(block, "layer_scale_parameter", block.pwconv2)


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

TRANSFORMERS_BLOCKS: dict[str, BlockSpec] = {
    "transformers.models.beit.modeling_beit.BeitLayer": _BEIT,
    "transformers.models.convnext.modeling_convnext.ConvNextLayer": BlockSpec((_CONVNEXT,)),
    "transformers.models.convnextv2.modeling_convnextv2.ConvNextV2Layer": BlockSpec((_CONVNEXT_V2,)),
    "transformers.models.dinov2.modeling_dinov2.Dinov2Layer": _DINO,
    "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersLayer": _DINO,
    "transformers.models.dinov3_convnext.modeling_dinov3_convnext.DINOv3ConvNextLayer": BlockSpec((_CONVNEXT_V3,)),
    "transformers.models.dinov3_vit.modeling_dinov3_vit.DINOv3ViTLayer": _DINO,
    "transformers.models.regnet.modeling_regnet.RegNetXLayer": _CONVOLUTIONS,
    "transformers.models.regnet.modeling_regnet.RegNetYLayer": _CONVOLUTIONS,
    "transformers.models.resnet.modeling_resnet.ResNetBasicLayer": _CONVOLUTIONS,
    "transformers.models.resnet.modeling_resnet.ResNetBottleNeckLayer": _CONVOLUTIONS,
    "transformers.models.segformer.modeling_segformer.SegformerLayer": _SEGFORMER,
    "transformers.models.swin.modeling_swin.SwinLayer": SWIN,
    "transformers.models.swinv2.modeling_swinv2.Swinv2Layer": SWIN_V2,
    "transformers.models.vit.modeling_vit.ViTLayer": _VIT,
}
