"""timm's transformer blocks that pool their queries, and their shortcut with them: Hiera and MViTv2."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..branches import in_order
from ..ends import ends_in
from ..pooling import pooled_size
from ..spec import BlockSpec, Residual
from ..windows import in_windows
from .pairs import ATTENTION_ENDS, MLP_ENDS

_mlp = in_order("norm2", "mlp", "ls2")


# hiera: where the number of channels grows, the shortcut begins behind the norm and is pooled
def _hiera_start(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if not block.do_expand:
        return x, x
    normed = block.norm1(x)
    if block.proj is not None:
        return normed, _hiera_units(block, block.proj(normed)).amax(dim=1)
    units = _hiera_units(block, x)
    return normed, torch.cat([units.amax(dim=1), units.mean(dim=1)], dim=-1)


def _hiera_units(block: Any, x: Tensor) -> Tensor:
    return x.view(x.shape[0], block.attn.q_stride, -1, x.shape[-1])


def _hiera_attn(block: Any, x: Tensor) -> Tensor:
    if not block.do_expand:
        x = block.norm1(x)
    return block.ls1(block.attn(x))


# hieradet_sam2: the same on maps (N, H, W, C), with attention in windows
def _hieradet_start(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    if block.dim == block.dim_out:
        return x, x
    normed = block.norm1(x)
    shortcut = block.proj(normed)
    if block.pool is not None:
        shortcut = block.pool(shortcut.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return normed, shortcut


def _hieradet_attn(block: Any, x: Tensor) -> Tensor:
    height, width = x.shape[1:3]
    if block.dim == block.dim_out:
        x = block.norm1(x)
    if not block.is_windowed:
        return block.ls1(block.attn(x))
    if block.q_stride is not None:  # a pooled window is smaller, and so is the map
        height, width = height // block.q_stride[0], width // block.q_stride[1]
    out = in_windows(x, block.window_size, block.attn)
    return block.ls1(out[:, :height, :width].contiguous())


# mvitv2: a norm in front of both ways, and a shortcut that is pooled as the queries are
def _mvit_start(block: Any, x: Tensor, feat_size: Any) -> tuple[Tensor, Tensor]:
    normed, shortcut = block.norm1(x), x
    if block.shortcut_proj_attn is not None:
        shortcut = block.shortcut_proj_attn(normed)
    return normed, block._shortcut_pool(shortcut, feat_size)


def _mvit_attn(block: Any, normed: Tensor, feat_size: Any) -> Tensor:
    out, _ = block.attn(normed, feat_size)
    return out


def _mvit_middle(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    normed, shortcut = block.norm2(x), x
    if block.shortcut_proj_mlp is not None:
        shortcut = block.shortcut_proj_mlp(normed)
    return normed, shortcut


def _mvit_output(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Tensor, Any]:
    size = arguments["feat_size"]
    pool = block.attn.pool_q
    if pool is not None:
        size = list(pooled_size(size, pool))
    return x, size


_MVIT = BlockSpec(
    (
        Residual(_mvit_attn, mask="drop_path1", prepare=_mvit_start, scalable_weights=ends_in("attn.proj")),
        Residual(in_order("mlp"), mask="drop_path2", prepare=_mvit_middle, scalable_weights=ends_in("mlp.fc2")),
    ),
    output=_mvit_output,
)


POOLED: dict[str, BlockSpec] = {
    "hiera.HieraBlock": BlockSpec(
        (
            Residual(_hiera_attn, mask="drop_path1", prepare=_hiera_start, scalable_weights=ends_in(*ATTENTION_ENDS)),
            Residual(_mlp, mask="drop_path2", scalable_weights=ends_in(*MLP_ENDS)),
        )
    ),
    "hieradet_sam2.MultiScaleBlock": BlockSpec(
        (
            Residual(
                _hieradet_attn,
                mask="drop_path1",
                prepare=_hieradet_start,
                scalable_weights=ends_in("ls1.gamma", "attn.proj"),
            ),
            Residual(_mlp, mask="drop_path2", scalable_weights=ends_in("ls2.gamma", "mlp.fc2")),
        )
    ),
    "mvitv2.MultiScaleBlock": _MVIT,
}
