"""transformers' encoder layers: attention and MLP behind a normalisation each, in vision transformers of one size."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..branches import in_order
from ..ends import ScalableWeights, ends_in
from ..spec import BlockSpec, Residual
from .ends import MASK, finish, last_weights

_MODELS = "transformers.models."


def _attend(norm: str, scale: str | None = None, dropout: str | None = None) -> Residual:
    """Attention behind a normalisation; ``scale`` and ``dropout`` name what follows it."""

    def branch(block: Any, x: Tensor, **arguments: Any) -> Tensor:
        out, _ = block.attention(getattr(block, norm)(x), **arguments)
        return finish(block, out, scale, dropout)

    def weights(block: Any) -> ScalableWeights:
        return last_weights(block, scale, block.attention.o_proj)

    return Residual(branch, mask=MASK, scalable_weights=weights)


def _feed_forward(norm: str, scale: str | None = None, dropout: str | None = None) -> Residual:
    """An MLP behind a normalisation; ``scale`` and ``dropout`` name what follows it."""

    def branch(block: Any, x: Tensor) -> Tensor:
        return finish(block, block.mlp(getattr(block, norm)(x)), scale, dropout)

    def weights(block: Any) -> ScalableWeights:
        # The second name is that of MLPs with a gate.
        last = getattr(block.mlp, "fc2", None) or getattr(block.mlp, "down_proj", None)
        return last_weights(block, scale, last)

    return Residual(branch, mask=MASK, scalable_weights=weights)


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
    return finish(block, out, "lambda_1", "dropout")


def _beit_weights(block: Any) -> ScalableWeights:
    return last_weights(block, "lambda_1", block.attention.o_proj)


_BEIT = _encoder(
    Residual(_beit_attention, mask=MASK, scalable_weights=_beit_weights),
    _feed_forward("layernorm_after", "lambda_2", "dropout"),
)


# data2vec: the bias of positions is one for all images, whatever their number
def _data2vec_attention(block: Any, x: Tensor, **arguments: Any) -> tuple[Tensor, ...]:
    out, *weights = block.attention(block.layernorm_before(x), **arguments)
    return finish(block, out, "lambda_1", None), *weights


def _data2vec_feed_forward(block: Any, x: Tensor) -> Tensor:
    return finish(block, block.output(block.intermediate(block.layernorm_after(x))), "lambda_2", None)


# mgp_str, vjepa2: attention weights beside the output, whether they are wanted or not
def _with_weights(attention: str) -> Any:
    def branch(block: Any, x: Tensor, **arguments: Any) -> tuple[Tensor, ...]:
        return getattr(block, attention)(block.norm1(x), **arguments)

    return branch


def _and_attentions(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    return (x, *more)


def _and_weights(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    return x, more[0] if more else None


def _tuple_encoder(attention: Any, feed_forward: Any, ends: tuple[str, ...], **settings: Any) -> BlockSpec:
    first, *second = ends
    return BlockSpec(
        (
            Residual(attention, mask=MASK, returns_more=True, scalable_weights=ends_in(*first.split())),
            Residual(feed_forward, mask=MASK, scalable_weights=ends_in(*second)),
        ),
        **settings,
    )


_DATA2VEC = _tuple_encoder(
    _data2vec_attention,
    _data2vec_feed_forward,
    ("lambda_1 attention.output.dense", "lambda_2", "output.dense"),
    shared=("relative_position_bias",),
    output=_and_attentions,
)
_MGP_STR = _tuple_encoder(
    _with_weights("attn"), in_order("norm2", "mlp"), ("attn.proj", "mlp.fc2"), output=_and_weights
)
_VJEPA2 = _tuple_encoder(
    _with_weights("attention"),
    in_order("norm2", "mlp"),
    ("attention.proj", "mlp.fc2"),
    per_sample=("position_mask",),
    output=_and_weights,
)


# qianfan_ocr: a mask for each connection
def _qianfan_attention(block: Any, x: Tensor, **arguments: Any) -> Tensor:
    out, _ = block.attention(block.layernorm_before(x), **arguments)
    return block.lambda_1 * out


_QIANFAN = _encoder(
    Residual(_qianfan_attention, mask="drop_path1", scalable_weights=ends_in("lambda_1")),
    Residual(
        in_order("layernorm_after", "mlp", "dropout", "lambda_2"),
        mask="drop_path2",
        scalable_weights=ends_in("lambda_2"),
    ),
)

ENCODERS: dict[str, BlockSpec] = {
    f"{_MODELS}beit.modeling_beit.BeitLayer": _BEIT,
    f"{_MODELS}data2vec.modeling_data2vec_vision.Data2VecVisionLayer": _DATA2VEC,
    f"{_MODELS}deit.modeling_deit.DeiTLayer": _VIT,
    f"{_MODELS}dinov2.modeling_dinov2.Dinov2Layer": _DINO,
    f"{_MODELS}dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersLayer": _DINO,
    f"{_MODELS}dinov3_vit.modeling_dinov3_vit.DINOv3ViTLayer": _DINO,
    f"{_MODELS}eomt.modeling_eomt.EomtLayer": _DINO,
    f"{_MODELS}eomt_dinov3.modeling_eomt_dinov3.EomtDinov3Layer": _DINO,
    f"{_MODELS}mgp_str.modeling_mgp_str.MgpstrLayer": _MGP_STR,
    f"{_MODELS}pixio.modeling_pixio.PixioLayer": _VIT,
    f"{_MODELS}qianfan_ocr.modeling_qianfan_ocr.QianfanOCRVisionLayer": _QIANFAN,
    f"{_MODELS}radio.modeling_radio.RadioLayer": _DINO,
    f"{_MODELS}sapiens2.modeling_sapiens2.Sapiens2Layer": _DINO,
    f"{_MODELS}tipsv2.modeling_tipsv2.Tipsv2VisionLayer": _DINO,
    f"{_MODELS}videomt.modeling_videomt.VideomtLayer": _DINO,
    f"{_MODELS}vit.modeling_vit.ViTLayer": _VIT,
    f"{_MODELS}vjepa2.modeling_vjepa2.VJEPA2Layer": _VJEPA2,
}
