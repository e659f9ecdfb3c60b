"""timm's transformer and mixer blocks: attention and MLP, each with a residual connection of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .ends import ScalableWeights, ends_in, ends_in_all
from .spec import BlockSpec, Residual
from .timm_parallel import diff_parallel_branch, parallel_branch

# Masks and rotary embeddings hold a row for each sample where they have all four dimensions, (N, heads, L, ...).
_ATTENTION_RANKS = {"attn_mask": 4, "rope": 4}


def _pair(first: Callable[..., Tensor], second: Callable[..., Tensor], *ends: tuple[str, ...]) -> BlockSpec:
    """Two connections with masks ``drop_path1`` and ``drop_path2``; ``ends``: what ends the branches."""
    residuals = (
        Residual(first, mask="drop_path1", scalable_weights=ends_in(*ends[0])),
        Residual(second, mask="drop_path2", scalable_weights=ends_in(*ends[1])),
    )
    return BlockSpec(
        residuals, per_sample=("attn_mask", "rope"), shared=("shared_rel_pos_bias",), ranks=_ATTENTION_RANKS
    )


_ATTN_ENDS = ("ls1.gamma", "gamma_1", "attn.proj")
_MLP_ENDS = ("ls2.gamma", "gamma_2", "mlp.fc2")


# vision_transformer
def _vit_attn(block: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    return block.ls1(block.attn(block.norm1(x), attn_mask=attn_mask, is_causal=is_causal))


def _vit_mlp(block: Any, x: Tensor) -> Tensor:
    return block.ls2(block.mlp(block.norm2(x)))


def _post_attn(block: Any, x: Tensor, **arguments: Any) -> Tensor:
    return block.norm1(block.attn(x, **arguments))


def _post_mlp(block: Any, x: Tensor) -> Tensor:
    return block.norm2(block.mlp(x))


def _parallel(branch: Callable[..., Tensor], *ends: str) -> BlockSpec:
    residual = Residual(branch, mask="drop_path", scalable_weights=ends_in("ls.gamma", *ends))
    return BlockSpec((residual,), per_sample=("attn_mask",), ranks=_ATTENTION_RANKS)


# eva, beit
def _gamma_attn(block: Any, x: Tensor, **arguments: Any) -> Tensor:
    out = block.attn(block.norm1(x), **arguments)
    return out if block.gamma_1 is None else block.gamma_1 * out


def _gamma_mlp(block: Any, x: Tensor) -> Tensor:
    out = block.mlp(block.norm2(x))
    return out if block.gamma_2 is None else block.gamma_2 * out


# cait: one mask for both connections
def _class_attn(block: Any, x_cls: Tensor, x: Tensor) -> Tensor:
    return _gamma_attn(block, torch.cat((x_cls, x), dim=1))


def _cait(attention: Callable[..., Tensor]) -> tuple[Residual, Residual]:
    return (
        Residual(attention, mask="drop_path", scalable_weights=ends_in("gamma_1")),
        Residual(_gamma_mlp, mask="drop_path", scalable_weights=ends_in("gamma_2")),
    )


# swin_transformer: the MLP sees all positions in one dimension
def _swin_attn(block: Any, x: Tensor) -> Tensor:
    return block._attn(block.norm1(x))


def _swin_mlp(block: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(1, 2)
    return block.mlp(block.norm2(tokens)).view_as(x)


def _swin_v2_attn(block: Any, x: Tensor) -> Tensor:
    return block.norm1(block._attn(x))


def _swin_v2_mlp(block: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(1, 2)
    return block.norm2(block.mlp(tokens)).view_as(x)


# xcit
def _xca_attn(block: Any, x: Tensor) -> Tensor:
    return block.gamma1 * block.attn(block.norm1(x))


def _xca_local(block: Any, x: Tensor, **size: int) -> Tensor:
    return block.gamma3 * block.local_mp(block.norm3(x), **size)


def _xca_mlp(block: Any, x: Tensor) -> Tensor:
    return block.gamma2 * block.mlp(block.norm2(x))


def _xcit_class_attn(block: Any, x: Tensor) -> Tensor:
    normed = block.norm1(x)
    return block.gamma1 * torch.cat([block.attn(normed), normed[:, 1:]], dim=1)


def _xcit_class_norm(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    normed = block.norm2(x if block.tokens_norm else x[:, :1])
    if not block.tokens_norm:
        normed = torch.cat([normed, x[:, 1:]], dim=1)
    return normed, normed


def _xcit_class_mlp(block: Any, x: Tensor) -> Tensor:
    return torch.cat([block.gamma2 * block.mlp(x[:, :1]), x[:, 1:]], dim=1)


# maxxvit
def _downsampled(block: Any, x: Tensor) -> Tensor:
    return block.shortcut(x)


def _maxxvit_attn(block: Any, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
    return block.ls1(block.attn(block.norm1(x), shared_rel_pos=shared_rel_pos))


def _partitioned(block: Any, x: Tensor) -> Tensor:
    return block.ls1(block._partition_attn(block.norm1(x)))


def _parallel_partition_weights(block: Any) -> ScalableWeights:
    if hasattr(block.ls1, "gamma"):
        return ends_in("ls1.gamma")(block)
    return ends_in_all("attn_block.proj", "attn_grid.proj")(block)


_PARTITION = _pair(_partitioned, _vit_mlp, ("ls1.gamma", "attn.proj"), _MLP_ENDS)
_PARALLEL_PARTITION = BlockSpec(
    (
        Residual(_partitioned, mask="drop_path1", scalable_weights=_parallel_partition_weights),
        Residual(_vit_mlp, mask="drop_path2", scalable_weights=ends_in(*_MLP_ENDS)),
    )
)
_MAXXVIT = BlockSpec(
    (
        Residual(_maxxvit_attn, _downsampled, mask="drop_path1", scalable_weights=ends_in("ls1.gamma", "attn.proj")),
        Residual(_vit_mlp, mask="drop_path2", scalable_weights=ends_in(*_MLP_ENDS)),
    ),
    shared=("shared_rel_pos",),
)


# mlp_mixer: one mask for both connections
def _mix_tokens(block: Any, x: Tensor) -> Tensor:
    return block.mlp_tokens(block.norm1(x).transpose(1, 2)).transpose(1, 2)


def _mix_channels(block: Any, x: Tensor) -> Tensor:
    return block.mlp_channels(block.norm2(x))


def _resmlp_tokens(block: Any, x: Tensor) -> Tensor:
    return block.ls1 * block.linear_tokens(block.norm1(x).transpose(1, 2)).transpose(1, 2)


def _resmlp_channels(block: Any, x: Tensor) -> Tensor:
    return block.ls2 * block.mlp_channels(block.norm2(x))


def _gate_tokens(block: Any, x: Tensor) -> Tensor:
    return block.mlp_channels(block.norm(x))


# metaformer: timm scales behind its mask, which is the same function
def _meta_mixer(block: Any, x: Tensor) -> Tensor:
    return block.layer_scale1(block.token_mixer(block.norm1(x)))


def _meta_mlp(block: Any, x: Tensor) -> Tensor:
    return block.layer_scale2(block.mlp(block.norm2(x)))


_VIT = _pair(_vit_attn, _vit_mlp, _ATTN_ENDS, _MLP_ENDS)
_GAMMA = _pair(_gamma_attn, _gamma_mlp, _ATTN_ENDS, _MLP_ENDS)
_POST_NORM = _pair(_post_attn, _post_mlp, ("norm1",), ("norm2",))
_CLASS_ATTN = BlockSpec(_cait(_class_attn), stream="x_cls", per_sample=("x",))
_XCA = BlockSpec(
    (
        Residual(_xca_attn, mask="drop_path1", scalable_weights=ends_in("gamma1")),
        Residual(_xca_local, mask="drop_path3", scalable_weights=ends_in("gamma3")),
        Residual(_xca_mlp, mask="drop_path2", scalable_weights=ends_in("gamma2")),
    )
)
# The second branch passes the patches on unscaled, so that no weight scales all of it.
_XCIT_CLASS = BlockSpec(
    (
        Residual(_xcit_class_attn, mask="drop_path1", scalable_weights=ends_in("gamma1")),
        Residual(_xcit_class_mlp, mask="drop_path2", prepare=_xcit_class_norm),
    )
)
_MIXER = BlockSpec(
    (
        Residual(_mix_tokens, mask="drop_path", scalable_weights=ends_in("mlp_tokens.fc2")),
        Residual(_mix_channels, mask="drop_path", scalable_weights=ends_in("mlp_channels.fc2")),
    )
)
_RESMLP = BlockSpec(
    (
        Residual(_resmlp_tokens, mask="drop_path", scalable_weights=ends_in("ls1")),
        Residual(_resmlp_channels, mask="drop_path", scalable_weights=ends_in("ls2")),
    )
)
_GMLP = BlockSpec((Residual(_gate_tokens, mask="drop_path", scalable_weights=ends_in("mlp_channels.fc2")),))
_METAFORMER = BlockSpec(
    (
        Residual(
            _meta_mixer,
            lambda block, x: block.res_scale1(x),
            mask="drop_path1",
            scalable_weights=ends_in("layer_scale1.scale", "token_mixer.proj", "token_mixer.pwconv2"),
        ),
        Residual(
            _meta_mlp,
            lambda block, x: block.res_scale2(x),
            mask="drop_path2",
            scalable_weights=ends_in("layer_scale2.scale", "mlp.fc2"),
        ),
    )
)

TRANSFORMERS: dict[str, BlockSpec] = {
    "vision_transformer.Block": _VIT,
    "vision_transformer.ResPostBlock": _POST_NORM,
    "vision_transformer.ParallelScalingBlock": _parallel(parallel_branch, "out_proj"),
    "vision_transformer.DiffParallelScalingBlock": _parallel(diff_parallel_branch, "out_proj"),
    "eva.EvaBlock": _GAMMA,
    "eva.EvaBlockPostNorm": _POST_NORM,
    "beit.Block": _GAMMA,
    "cait.LayerScaleBlock": BlockSpec(_cait(_gamma_attn)),
    "cait.LayerScaleBlockClassAttn": _CLASS_ATTN,
    "swin_transformer.SwinTransformerBlock": _pair(_swin_attn, _swin_mlp, ("attn.proj",), ("mlp.fc2",)),
    "swin_transformer_v2.SwinTransformerV2Block": _pair(_swin_v2_attn, _swin_v2_mlp, ("norm1",), ("norm2",)),
    "xcit.XCABlock": _XCA,
    "xcit.ClassAttentionBlock": _XCIT_CLASS,
    "maxxvit.TransformerBlock2d": _MAXXVIT,
    "maxxvit.PartitionAttention2d": _PARTITION,
    "maxxvit.PartitionAttentionCl": _PARTITION,
    "maxxvit.ParallelPartitionAttention": _PARALLEL_PARTITION,
    "mlp_mixer.MixerBlock": _MIXER,
    "mlp_mixer.ResBlock": _RESMLP,
    "mlp_mixer.SpatialGatingBlock": _GMLP,
    "metaformer.MetaFormerBlock": _METAFORMER,
}
