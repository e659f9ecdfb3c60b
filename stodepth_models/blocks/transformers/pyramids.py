"""transformers' layers of models with stages: attention gets the size of the map, or there is none."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..branches import in_order
from ..ends import ScalableWeights, ends_in, scalable_weights
from ..spec import BlockSpec, Residual
from .ends import MASK

_MODELS = "transformers.models."


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


# pvt, pvt_v2, glpn: a tuple is returned
def _pvt_attention(norm: str) -> Any:
    def branch(block: Any, x: Tensor, **arguments: Any) -> tuple[Tensor, ...]:
        return block.attention(getattr(block, norm)(x), **arguments)

    return branch


def _pvt_mlp(block: Any, x: Tensor) -> Tensor:
    return block.mlp(block.layer_norm_2(x))


def _pvt_mlp_of_map(block: Any, x: Tensor, height: int, width: int, **arguments: Any) -> Tensor:
    return block.mlp(block.layer_norm_2(x), height, width)


def _as_tuple(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    return (x, *more)


def _pvt(feed_forward: Any, last: str) -> BlockSpec:
    return BlockSpec(
        (
            Residual(
                _pvt_attention("layer_norm_1"),
                mask=MASK,
                returns_more=True,
                scalable_weights=ends_in("attention.output.dense", "attention.proj"),
            ),
            Residual(feed_forward, mask=MASK, scalable_weights=ends_in(last)),
        ),
        output=_as_tuple,
    )


# focalnet: the normalisation comes before or after
def _modulate(block: Any, x: Tensor, input_dimensions: tuple[int, int]) -> Tensor:
    out = x if block.use_post_layernorm else block.norm1(x)
    out = block.modulation(out.view(len(x), *input_dimensions, -1)).view(x.shape)
    return block.gamma_1 * (block.norm1(out) if block.use_post_layernorm else out)


def _focal_mlp(block: Any, x: Tensor) -> Tensor:
    if block.use_post_layernorm:
        return block.gamma_2 * block.norm2(block.mlp(x))
    return block.gamma_2 * block.mlp(block.norm2(x))


def _focal_weights(scale: str, norm: str, last: str) -> Any:
    def weights(block: Any) -> ScalableWeights:
        if isinstance(getattr(block, scale), Tensor):  # and not the number 1.0
            return ends_in(scale)(block)
        return ends_in(norm if block.use_post_layernorm else last)(block)

    return weights


_FOCALNET = BlockSpec(
    (
        Residual(
            _modulate,
            mask=MASK,
            scalable_weights=_focal_weights("gamma_1", "norm1", "modulation.projection_out"),
        ),
        Residual(_focal_mlp, mask=MASK, scalable_weights=_focal_weights("gamma_2", "norm2", "mlp.fc2")),
    )
)


# hiera: where the width changes, the shortcut begins behind the normalisation, and pools
def _hiera_ways(block: Any, x: Tensor, **arguments: Any) -> tuple[Tensor, Tensor]:
    if block.hidden_size == block.hidden_size_output:
        return x, x
    x = block.layernorm_before(x)
    shortcut = block.proj(x).unflatten(1, (block.query_stride, -1))
    return x, shortcut.max(dim=1).values


def _hiera_attention(block: Any, x: Tensor, output_attentions: bool = False) -> tuple[Tensor, Any]:
    if block.hidden_size == block.hidden_size_output:
        x = block.layernorm_before(x)
    return block.attn(x, output_attentions=output_attentions)


def _and_attention(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    return x, more[0] if more else None  # a dropped branch has none


_HIERA = BlockSpec(
    (
        Residual(
            _hiera_attention,
            mask=MASK,
            prepare=_hiera_ways,
            returns_more=True,
            scalable_weights=ends_in("attn.proj"),
        ),
        Residual(in_order("layernorm_after", "mlp"), mask=MASK, scalable_weights=ends_in("mlp.fc2")),
    ),
    output=_and_attention,
)

PYRAMIDS: dict[str, BlockSpec] = {
    f"{_MODELS}focalnet.modeling_focalnet.FocalNetLayer": _FOCALNET,
    f"{_MODELS}glpn.modeling_glpn.GLPNLayer": _pvt(_pvt_mlp_of_map, "mlp.dense2"),
    f"{_MODELS}hiera.modeling_hiera.HieraLayer": _HIERA,
    f"{_MODELS}pvt.modeling_pvt.PvtLayer": _pvt(_pvt_mlp, "mlp.dense2"),
    f"{_MODELS}pvt_v2.modeling_pvt_v2.PvtV2BlockLayer": _pvt(_pvt_mlp_of_map, "mlp.dense2"),
    f"{_MODELS}segformer.modeling_segformer.SegformerLayer": _SEGFORMER,
}
