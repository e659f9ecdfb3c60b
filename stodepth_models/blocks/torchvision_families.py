"""torchvision's residual blocks beside those of its ResNets: with and without ``StochasticDepth`` of their own."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models import maxvit, mobilenetv2, mobilenetv3
from torchvision.models.convnext import CNBlock
from torchvision.models.efficientnet import FusedMBConv, MBConv
from torchvision.models.regnet import ResBottleneckBlock
from torchvision.models.swin_transformer import SwinTransformerBlock, SwinTransformerBlockV2
from torchvision.models.video.mvit import MultiscaleBlock
from torchvision.models.vision_transformer import EncoderBlock

from .branches import in_order
from .ends import ScalableWeights, ends_in, scalable_weights
from .spec import BlockSpec, Residual
from .torchvision_mvit import MVIT


def _inverted_weights(block: Any) -> ScalableWeights:
    last = block.block[-1]
    return scalable_weights(last[-1])  # an activation, which has no weight, ends the FusedMBConv that does not expand


_INVERTED = BlockSpec(
    (Residual(in_order("block"), None, None, "stochastic_depth", True, _inverted_weights),),
    is_residual=lambda block: block.use_res_connect,
)
_CONVNEXT = BlockSpec(
    (
        Residual(
            lambda block, x: block.layer_scale * block.block(x),
            mask="stochastic_depth",
            scalable_weights=ends_in("layer_scale"),
        ),
    )
)
_SWIN = BlockSpec(
    (
        Residual(
            in_order("norm1", "attn"),
            mask="stochastic_depth",
            scalable_weights=ends_in("attn.proj"),
        ),
        Residual(
            in_order("norm2", "mlp"),
            mask="stochastic_depth",
            scalable_weights=ends_in("mlp.3"),
        ),
    )
)
_SWIN_V2 = BlockSpec(
    (
        Residual(
            in_order("attn", "norm1"),
            mask="stochastic_depth",
            scalable_weights=ends_in("norm1"),
        ),
        Residual(
            in_order("mlp", "norm2"),
            mask="stochastic_depth",
            scalable_weights=ends_in("norm2"),
        ),
    )
)

_MOBILE_V2 = BlockSpec(
    (
        Residual(
            in_order("conv"),
            scalable_weights=lambda block: scalable_weights(block.conv[-1]),
        ),
    ),
    is_residual=lambda block: block.use_res_connect,
)
_MOBILE_V3 = BlockSpec(
    (
        Residual(
            in_order("block"),
            inplace=True,
            scalable_weights=lambda block: scalable_weights(block.block[-1][1]),
        ),
    ),
    is_residual=lambda block: block.use_res_connect,
)
_MNASNET = BlockSpec(
    (
        Residual(
            in_order("layers"),
            scalable_weights=lambda block: scalable_weights(block.layers[-1]),
        ),
    ),
    is_residual=lambda block: block.apply_residual,
)
_REGNET = BlockSpec(
    (
        Residual(
            in_order("f"),
            identity=in_order("proj"),
            activation="activation",
            scalable_weights=ends_in("f.c.1"),
        ),
    )
)


def _attend(block: Any, x: Tensor) -> Tensor:
    x = block.ln_1(x)
    out, _ = block.self_attention(x, x, x, need_weights=False)
    return block.dropout(out)


_VIT = BlockSpec(
    (
        Residual(_attend, scalable_weights=ends_in("self_attention.out_proj")),
        Residual(
            in_order("ln_2", "mlp"),
            scalable_weights=ends_in("mlp.3"),
        ),
    )
)
_MAXVIT_CONV = BlockSpec(
    (
        Residual(
            in_order("layers"),
            identity=in_order("proj"),
            mask="stochastic_depth",
            scalable_weights=ends_in("layers.conv_c"),
        ),
    )
)


def _partition(block: Any, x: Tensor) -> Tensor:
    return block.partition_swap(block.partition_op(x, block.p))


def _departition(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> Tensor:
    rows, columns = block.grid_size
    return block.departition_op(block.departition_swap(x), block.p, rows // block.p, columns // block.p)


_MAXVIT_ATTENTION = BlockSpec(
    (
        Residual(
            in_order("attn_layer"),
            mask="stochastic_dropout",
            scalable_weights=ends_in("attn_layer.1.merge"),
        ),
        Residual(
            in_order("mlp_layer"),
            mask="stochastic_dropout",
            scalable_weights=ends_in("mlp_layer.3"),
        ),
    ),
    input=_partition,
    output=_departition,
)


TORCHVISION_FAMILIES: dict[type[nn.Module], BlockSpec] = {
    CNBlock: _CONVNEXT,
    MBConv: _INVERTED,
    FusedMBConv: _INVERTED,
    SwinTransformerBlock: _SWIN,
    SwinTransformerBlockV2: _SWIN_V2,
    EncoderBlock: _VIT,
    ResBottleneckBlock: _REGNET,
    maxvit.MBConv: _MAXVIT_CONV,
    maxvit.PartitionAttentionLayer: _MAXVIT_ATTENTION,
    mobilenetv2.InvertedResidual: _MOBILE_V2,
    mobilenetv3.InvertedResidual: _MOBILE_V3,
    MultiscaleBlock: MVIT,
}

# Classes with private names, which a release may lack: looked up by name where a model holds one.
NAMED_TORCHVISION_BLOCKS = {"torchvision.models.mnasnet._InvertedResidual": _MNASNET}
