"""transformers' blocks on maps, ``(N, C, H, W)``, with attention: those of DaViT, SwiftFormer and ViTDet."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..ends import ends_in
from ..spec import BlockSpec, Residual
from ..windows import in_windows
from .ends import MASK

_MODELS = "transformers.models."


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _map(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])


# florence2: DaViT, whose convolutions add to the stream in front of attention and MLP
def _davit(number: int, norm: str, layer: str, last: str) -> Residual:
    def convolve(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = getattr(block, f"conv{number}")(x) + x
        return x, x

    def branch(block: Any, x: Tensor) -> Tensor:
        out = getattr(block, norm)(_tokens(x))
        if layer == "window_attn":  # which takes maps, and returns tokens
            out = out.unflatten(1, x.shape[2:])
        return _map(getattr(block, layer)(out), x)

    return Residual(branch, mask=f"drop_path{number}", prepare=convolve, scalable_weights=ends_in(last))


_DAVIT_MLP = _davit(2, "norm2", "ffn", "ffn.fc2")
_DAVIT_SPATIAL = BlockSpec((_davit(1, "norm1", "window_attn", "window_attn.proj"), _DAVIT_MLP))
_DAVIT_CHANNELS = BlockSpec((_davit(1, "norm1", "channel_attn", "channel_attn.proj"), _DAVIT_MLP))


# swiftformer: a convolution with a residual connection, which is not masked, comes first
def _swift_attention(block: Any, x: Tensor) -> Tensor:
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
    out = block.attn(tokens).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return block.layer_scale_1 * out if block.use_layer_scale else out


def _swift_mlp(block: Any, x: Tensor) -> Tensor:
    out = block.linear(x)
    return block.layer_scale_2 * out if block.use_layer_scale else out


_SWIFTFORMER = BlockSpec(
    (
        Residual(_swift_attention, mask=MASK, scalable_weights=ends_in("layer_scale_1", "attn.final")),
        Residual(_swift_mlp, mask=MASK, scalable_weights=ends_in("layer_scale_2", "linear.fc2")),
    ),
    input=lambda block, x: block.local_representation(x),
)


# vitdet: the connections add to maps whose channels come last
def _vitdet_attention(block: Any, x: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
    height, width = x.shape[1:3]
    more: list[Tensor] = []

    def attend(windows: Tensor) -> Tensor:
        out, *weights = block.attention(windows, output_attentions=output_attentions)
        more.extend(weights)
        return out

    x = block.norm1(x)
    if block.window_size == 0:
        return attend(x), *more
    window = (block.window_size, block.window_size)
    out = in_windows(x, window, attend)[:, :height, :width].contiguous()
    return out, *more


def _vitdet_output(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    x = x.permute(0, 3, 1, 2)
    if block.use_residual_block:
        x = block.residual(x)
    return (x, *more)


_VITDET = BlockSpec(
    (
        Residual(_vitdet_attention, mask=MASK, returns_more=True, scalable_weights=ends_in("attention.proj")),
        Residual(lambda block, x: block.mlp(block.norm2(x)), mask=MASK, scalable_weights=ends_in("mlp.fc2")),
    ),
    input=lambda block, x: x.permute(0, 2, 3, 1),
    output=_vitdet_output,
)

MAPS: dict[str, BlockSpec] = {
    f"{_MODELS}florence2.modeling_florence2.Florence2VisionChannelBlock": _DAVIT_CHANNELS,
    f"{_MODELS}florence2.modeling_florence2.Florence2VisionSpatialBlock": _DAVIT_SPATIAL,
    f"{_MODELS}swiftformer.modeling_swiftformer.SwiftFormerEncoderBlock": _SWIFTFORMER,
    f"{_MODELS}vitdet.modeling_vitdet.VitDetLayer": _VITDET,
}
