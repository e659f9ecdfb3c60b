"""timm's transformer and mixer blocks: attention and MLP, each with a residual connection of its own."""

from typing import Any

from torch import Tensor

from ..branches import in_order
from ..ends import ScalableWeights, ends_in, ends_in_all
from ..spec import BlockSpec, Residual
from .pairs import ATTENTION_ARGUMENTS, ATTENTION_ENDS, MLP_ENDS, Branch, pair
from .parallel import diff_parallel_branch, parallel_branch

_mlp = in_order("norm2", "mlp", "ls2")


def _parallel(branch: Branch) -> BlockSpec:
    residual = Residual(branch, mask="drop_path", scalable_weights=ends_in("ls.gamma", "out_proj"))
    return BlockSpec((residual,), **ATTENTION_ARGUMENTS)


# swin_transformer: the MLP sees all positions in one dimension
def _swin_attn(block: Any, x: Tensor) -> Tensor:
    return block._attn(block.norm1(x))


def _swin_mlp(block: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(1, 2)
    return block.mlp(block.norm2(tokens)).view_as(x)


def _swin_v2_attn(block: Any, x: Tensor) -> Tensor:
    return block.norm1(block._attn(x))


def _swin_v2_cr_attn(block: Any, x: Tensor) -> Tensor:
    return block.norm1(block._shifted_window_attn(x))


def _swin_v2_mlp(block: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(1, 2)
    return block.norm2(block.mlp(tokens)).view_as(x)


# maxxvit
def _partitioned(block: Any, x: Tensor) -> Tensor:
    return block.ls1(block._partition_attn(block.norm1(x)))


def _parallel_partition_weights(block: Any) -> ScalableWeights:
    if hasattr(block.ls1, "gamma"):
        return ends_in("ls1.gamma")(block)
    return ends_in_all("attn_block.proj", "attn_grid.proj")(block)


# mlp_mixer: one mask for both connections
def _mix_tokens(block: Any, x: Tensor) -> Tensor:
    return block.mlp_tokens(block.norm1(x).transpose(1, 2)).transpose(1, 2)


def _resmlp_tokens(block: Any, x: Tensor) -> Tensor:
    return block.ls1 * block.linear_tokens(block.norm1(x).transpose(1, 2)).transpose(1, 2)


_ONE_MASK = ("drop_path", "drop_path")
_NORM_ENDS = (("norm1",), ("norm2",))
_VIT = pair(in_order("norm1", "attn", "ls1", given="attn"), _mlp)
_GAMMA = pair(in_order("norm1", "attn", "gamma_1", given="attn"), in_order("norm2", "mlp", "gamma_2"))
_POST_NORM = pair(in_order("attn", "norm1", given="attn"), in_order("mlp", "norm2"), _NORM_ENDS)
_SWIN_V2_CR = BlockSpec(
    (
        Residual(_swin_v2_cr_attn, mask="drop_path1", scalable_weights=ends_in("norm1")),
        # A norm of the sum, in some blocks, and nothing in the others.
        Residual(_swin_v2_mlp, activation="norm3", mask="drop_path2", scalable_weights=ends_in("norm2")),
    )
)
_PARALLEL_PARTITION = BlockSpec(
    (
        Residual(_partitioned, mask="drop_path1", scalable_weights=_parallel_partition_weights),
        Residual(_mlp, mask="drop_path2", scalable_weights=ends_in(*MLP_ENDS)),
    )
)
_MAXXVIT = BlockSpec(
    (
        Residual(
            in_order("norm1", "attn", "ls1", given="attn"),
            in_order("shortcut"),
            mask="drop_path1",
            scalable_weights=ends_in(*ATTENTION_ENDS),
        ),
        Residual(_mlp, mask="drop_path2", scalable_weights=ends_in(*MLP_ENDS)),
    ),
    **ATTENTION_ARGUMENTS,
)
_MIXER = pair(_mix_tokens, in_order("norm2", "mlp_channels"), (("mlp_tokens.fc2",), ("mlp_channels.fc2",)), _ONE_MASK)
_RESMLP = pair(_resmlp_tokens, in_order("norm2", "mlp_channels", "ls2"), (("ls1",), ("ls2",)), _ONE_MASK)
_GMLP = Residual(in_order("norm", "mlp_channels"), mask="drop_path", scalable_weights=ends_in("mlp_channels.fc2"))
# metaformer: timm scales behind its mask, which is the same function
_METAFORMER = BlockSpec(
    (
        Residual(
            in_order("norm1", "token_mixer", "layer_scale1"),
            in_order("res_scale1"),
            mask="drop_path1",
            scalable_weights=ends_in("layer_scale1.scale", "token_mixer.proj", "token_mixer.pwconv2"),
        ),
        Residual(
            in_order("norm2", "mlp", "layer_scale2"),
            in_order("res_scale2"),
            mask="drop_path2",
            scalable_weights=ends_in("layer_scale2.scale", "mlp.fc2"),
        ),
    )
)

TRANSFORMERS: dict[str, BlockSpec] = {
    "vision_transformer.Block": _VIT,
    "vision_transformer.ResPostBlock": _POST_NORM,
    "vision_transformer.ParallelScalingBlock": _parallel(parallel_branch),
    "vision_transformer.DiffParallelScalingBlock": _parallel(diff_parallel_branch),
    "vision_transformer_relpos.RelPosBlock": _VIT,
    "vision_transformer_relpos.ResPostRelPosBlock": _POST_NORM,
    "deepseek_vit.DeepseekVitBlock": _VIT,
    "eva.EvaBlock": _GAMMA,
    "eva.EvaBlockPostNorm": _POST_NORM,
    "beit.Block": _GAMMA,
    "convit.Block": pair(in_order("norm1", "attn"), _mlp, masks=_ONE_MASK),
    "swin_transformer.SwinTransformerBlock": pair(_swin_attn, _swin_mlp),
    "swin_transformer_v2.SwinTransformerV2Block": pair(_swin_v2_attn, _swin_v2_mlp, _NORM_ENDS),
    "swin_transformer_v2_cr.SwinTransformerV2CrBlock": _SWIN_V2_CR,
    "maxxvit.TransformerBlock2d": _MAXXVIT,
    "maxxvit.PartitionAttention2d": pair(_partitioned, _mlp),
    "maxxvit.PartitionAttentionCl": pair(_partitioned, _mlp),
    "maxxvit.ParallelPartitionAttention": _PARALLEL_PARTITION,
    "mlp_mixer.MixerBlock": _MIXER,
    "mlp_mixer.ResBlock": _RESMLP,
    "mlp_mixer.SpatialGatingBlock": BlockSpec((_GMLP,)),
    "metaformer.MetaFormerBlock": _METAFORMER,
}
