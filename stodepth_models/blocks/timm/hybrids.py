"""timm's blocks of models that mix convolutions and attention, and of convolutions in the form of transformers."""

from typing import Any

import torch
from torch import Tensor

from ..branches import in_order
from ..ends import ends_in
from ..spec import BlockSpec, Residual
from .pairs import Branch, pair

_mlp = in_order("norm2", "mlp", "ls2")
_ONE_MASK = ("drop_path", "drop_path")


def _single(branch: Branch, *ends: str, **settings: Any) -> BlockSpec:
    """A block with one connection and the mask ``drop_path``."""
    return BlockSpec((Residual(branch, mask="drop_path", scalable_weights=ends_in(*ends), **settings),))


# fastvit: the mixer of tokens has a shortcut of its own, in front of the connection
def _repmixed(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = block.token_mixer(x)
    return x, x


# fasternet, inception_next: a layer scale on maps (N, C, H, W)
def _fasternet(block: Any, x: Tensor) -> Tensor:
    out = block.mlp(block.spatial_mixing(x))
    if block.layer_scale is None:
        return out
    return block.layer_scale.unsqueeze(-1).unsqueeze(-1) * out


def _metanext(block: Any, x: Tensor) -> Tensor:
    out = block.mlp(block.norm(block.token_mixer(x)))
    return out if block.gamma is None else out.mul(block.gamma.reshape(1, -1, 1, 1))


# mambaout: half of the channels gate the other half, of which a part is convolved; maps (N, H, W, C)
def _gated_convolution(block: Any, x: Tensor) -> Tensor:
    gate, kept, convolved = torch.split(block.fc1(block.norm(x)), block.split_indices, dim=-1)
    convolved = block.conv(convolved.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return block.ls(block.fc2(block.act(gate) * torch.cat((kept, convolved), dim=-1)))


# mobilevit: attention of the map alone, or of the map to another one
def _linear_attn(block: Any, x: Tensor, x_prev: Tensor | None = None) -> Tensor:
    normed = block.norm1(x)
    return block.attn(normed) if x_prev is None else block.attn(normed, x_prev)


def _starnet(block: Any, x: Tensor) -> Tensor:
    out = block.dwconv(x)
    return block.dwconv2(block.g(block.act(block.f1(out)) * block.f2(out)))


def _local(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = block.local_representation(x)
    return x, x


_CONVOLVED = in_order("dwconv", "norm", "pwconv1", "act", "pwconv2", "layer_scale")
_SWIFTFORMER = BlockSpec(
    (
        Residual(
            in_order("attn", "layer_scale_1"),
            mask="drop_path",
            prepare=_local,
            scalable_weights=ends_in("layer_scale_1.gamma"),
        ),
        Residual(
            in_order("linear", "layer_scale_2"),
            mask="drop_path",
            scalable_weights=ends_in("layer_scale_2.gamma", "linear.fc2"),
        ),
    )
)


def _has_attention(block: Any) -> bool:
    return block.attn is not None


def _mixes_tokens(block: Any) -> bool:
    return block.token_mixer is not None


_VISFORMER = BlockSpec(
    (
        Residual(
            in_order("norm1", "attn"),
            mask="drop_path",
            is_there=_has_attention,
            scalable_weights=ends_in("attn.proj"),
        ),
        Residual(in_order("norm2", "mlp"), mask="drop_path", scalable_weights=ends_in("mlp.conv3")),
    )
)
_EFFICIENTFORMER_V2 = BlockSpec(
    (
        Residual(
            in_order("token_mixer", "ls1"),
            mask="drop_path1",
            is_there=_mixes_tokens,
            scalable_weights=ends_in("ls1.gamma"),
        ),
        Residual(in_order("mlp", "ls2"), mask="drop_path2", scalable_weights=ends_in("ls2.gamma", "mlp.fc2.bn")),
    )
)
_EFFICIENTFORMER_ENDS = (("ls1.gamma",), ("ls2.gamma",))
_FOCALNET = pair(
    in_order("norm1", "modulation", "norm1_post", "ls1"),
    in_order("norm2", "mlp", "norm2_post", "ls2"),
    (("ls1.gamma", "norm1_post", "modulation.proj"), ("ls2.gamma", "norm2_post", "mlp.fc2")),
)
_FASTVIT = pair(
    in_order("norm", "token_mixer", "layer_scale_1"),
    in_order("mlp", "layer_scale_2"),
    (("layer_scale_1.gamma", "token_mixer.proj"), ("layer_scale_2.gamma", "mlp.fc2")),
)
_GEMMA4 = pair(
    in_order("norm1", "attn", "norm2", given="attn"),
    in_order("norm3", "mlp", "norm4"),
    (("norm2",), ("norm4",)),
    _ONE_MASK,
    per_sample=("rope_cos", "rope_sin", "attn_mask"),
)

HYBRIDS: dict[str, BlockSpec] = {
    "efficientformer.MetaBlock1d": pair(in_order("norm1", "token_mixer", "ls1"), _mlp, _EFFICIENTFORMER_ENDS),
    "efficientformer.MetaBlock2d": pair(in_order("token_mixer", "ls1"), in_order("mlp", "ls2"), _EFFICIENTFORMER_ENDS),
    "efficientformer_v2.EfficientFormerV2Block": _EFFICIENTFORMER_V2,
    "fasternet.MLPBlock": _single(_fasternet, "layer_scale", "mlp.3"),
    "fastvit.AttentionBlock": _FASTVIT,
    "fastvit.RepMixerBlock": _single(in_order("mlp", "layer_scale"), "layer_scale.gamma", "mlp.fc2", prepare=_repmixed),
    "focalnet.FocalNetBlock": _FOCALNET,
    "gemma4_vit.Gemma4Block": _GEMMA4,
    "iformer.Residual": _single(in_order("module", "gamma"), "gamma"),
    "inception_next.MetaNeXtBlock": _single(_metanext, "gamma", "mlp.fc2", branch_first=True),
    "mambaout.GatedConvBlock": _single(_gated_convolution, "ls.gamma", "fc2", branch_first=True),
    "mobilevit.LinearTransformerBlock": pair(
        _linear_attn, in_order("norm2", "mlp"), (("attn.out_proj",), ("mlp.fc2",)), per_sample=("x_prev",)
    ),
    "sequencer.Sequencer2dBlock": pair(
        in_order("norm1", "rnn_tokens"),
        in_order("norm2", "mlp_channels"),
        (("rnn_tokens.fc",), ("mlp_channels.fc2",)),
        _ONE_MASK,
    ),
    "starnet.Block": _single(_starnet, "dwconv2.bn", "dwconv2.conv"),
    "swiftformer.Block": _SWIFTFORMER,
    "swiftformer.ConvEncoder": _single(_CONVOLVED, "layer_scale.gamma"),
    "swiftformer.LocalRepresentation": _single(_CONVOLVED, "layer_scale.gamma"),
    "visformer.Block": _VISFORMER,
    "vitamin.MbConvLNBlock": _single(
        in_order("pre_norm", "down", "conv1_1x1", "act1", "conv2_kxk", "act2", "conv3_1x1"),
        "conv3_1x1",
        identity=in_order("shortcut"),
        branch_first=True,
    ),
}
