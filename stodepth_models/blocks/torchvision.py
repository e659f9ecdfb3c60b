"""torchvision's residual blocks: of ResNet, and those that mask their branches with ``StochasticDepth``."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import FusedMBConv, MBConv
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import SwinTransformerBlock, SwinTransformerBlockV2

from ..layers.branch import output_dtype
from .gated import Connection, KnownBlock, Scaling, affine
from .resnet import StoDepthBasicBlock, StoDepthBottleneck

__all__ = ["TORCHVISION_BLOCKS"]


def _cn_branch(block: Any, x: Tensor) -> Tensor:
    return block.layer_scale * block.block(x)


def _cn_dtype(block: Any, x: Tensor, identity: Tensor) -> torch.dtype:
    return torch.promote_types(output_dtype(x), block.layer_scale.dtype)


def _mb_scaling(block: Any) -> Scaling:
    last = block.block[-1]
    return affine(last[-1])  # an activation, which has no weight, ends the FusedMBConv that does not expand


def _norm_dtype(block: Any, x: Tensor, identity: Tensor) -> torch.dtype:
    """Dtype where layer norm ends the branch: whether autocast runs it in float32 depends on the device."""
    nothing = layer_norm(x.new_empty((0, 1), dtype=output_dtype(x)), (1,))
    return torch.promote_types(identity.dtype, nothing.dtype)


_INVERTED = KnownBlock(
    (Connection(lambda block, x: block.block(x), inplace=True, scaling=_mb_scaling),),
    mask="stochastic_depth",
    is_residual=lambda block: block.use_res_connect,
)
_SWIN = (
    Connection(lambda block, x: block.attn(block.norm1(x)), scaling=lambda block: affine(block.attn.proj)),
    Connection(lambda block, x: block.mlp(block.norm2(x)), scaling=lambda block: affine(block.mlp[3])),
)
_SWIN_V2 = (
    Connection(
        lambda block, x: block.norm1(block.attn(x)), dtype=_norm_dtype, scaling=lambda block: affine(block.norm1)
    ),
    Connection(
        lambda block, x: block.norm2(block.mlp(x)), dtype=_norm_dtype, scaling=lambda block: affine(block.norm2)
    ),
)
_RESNET = (Connection(lambda block, x: block.branch(x), inplace=True),)

TORCHVISION_BLOCKS: dict[type[nn.Module], KnownBlock] = {
    BasicBlock: KnownBlock(_RESNET, stochastic=StoDepthBasicBlock),
    Bottleneck: KnownBlock(_RESNET, stochastic=StoDepthBottleneck),
    CNBlock: KnownBlock(
        (Connection(_cn_branch, dtype=_cn_dtype, scaling=lambda block: [(block.layer_scale, 1)]),), "stochastic_depth"
    ),
    MBConv: _INVERTED,
    FusedMBConv: _INVERTED,
    SwinTransformerBlock: KnownBlock(_SWIN, "stochastic_depth"),
    SwinTransformerBlockV2: KnownBlock(_SWIN_V2, "stochastic_depth"),
}
