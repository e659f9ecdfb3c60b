"""timm's convolutional blocks that vary the bottleneck of the ResNets, each in a way of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from ..branches import in_order
from ..ends import ends_in, unless
from ..spec import BlockSpec, Residual

_SHORTCUT = in_order("downsample")


# res2net: groups of channels, each convolved with the output of the one before it
def _res2net(block: Any, x: Tensor) -> Tensor:
    out = block.relu(block.bn1(block.conv1(x)))
    groups = torch.split(out, block.width, 1)
    convolved: list[Tensor] = []
    for index, (conv, norm) in enumerate(zip(block.convs, block.bns, strict=True)):
        group = groups[index]
        if index > 0 and not block.is_first:
            group = convolved[-1] + group
        convolved.append(block.relu(norm(conv(group))))
    if block.scale > 1:
        last = groups[-1]
        convolved.append(last if block.pool is None else block.pool(last))
    out = block.drop_block(torch.cat(convolved, 1))
    out = block.bn3(block.conv3(out))
    return out if block.se is None else block.se(out)


# rexnet: the branch has more channels than the shortcut, which is added to the first of them
def _widened(block: Any, x: Tensor) -> Tensor:
    return nn.functional.pad(x, (0, 0, 0, 0, 0, block.out_channels - block.in_channels))


# hgnet, vovnet: the outputs of all layers side by side
def _hgnet(block: Any, x: Tensor) -> Tensor:
    outputs = [x]
    for layer in block.layers:
        outputs.append(layer(outputs[-1]))
    return block.aggregation(torch.cat(outputs, dim=1))


def _vovnet(block: Any, x: Tensor) -> Tensor:
    outputs = [x]
    if block.conv_reduction is not None:
        x = block.conv_reduction(x)
    out = block.conv_concat(block.conv_mid(x, outputs))
    return out if block.attn is None else block.attn(out)


def _with_shortcut(block: Any) -> bool:
    return block.shortcut is not None


_RES2NET = Residual(
    _res2net, _SHORTCUT, "relu", "drop_path", inplace=True, scalable_weights=unless("se", ends_in("bn3"))
)
_REXNET = Residual(
    in_order("conv_exp", "conv_dw", "se", "act_dw", "conv_pwl"),
    _widened,
    mask="drop_path",
    scalable_weights=ends_in("conv_pwl.bn"),
    branch_first=True,
)
_SELECTIVE = Residual(
    in_order("conv1", "conv2", "conv3", "se"),
    _SHORTCUT,
    "act",
    "drop_path",
    inplace=True,
    scalable_weights=unless("se", ends_in("conv3.bn", "conv2.bn")),
)
_TRESNET = Residual(
    in_order("conv1", "conv2", "se"),
    _SHORTCUT,
    "act",
    "drop_path",
    scalable_weights=unless("se", ends_in("conv2.bn")),
    branch_first=True,
)
_TRESNET_BOTTLENECK = Residual(
    in_order("conv1", "conv2", "se", "conv3"),
    _SHORTCUT,
    "act",
    "drop_path",
    scalable_weights=ends_in("conv3.bn"),
    branch_first=True,
)
_TINY_VIT = Residual(
    in_order("conv1", "act1", "conv2", "act2", "conv3"),
    activation="act3",
    mask="drop_path",
    inplace=True,
    scalable_weights=ends_in("conv3.bn"),
)
# cpubone, lowformer: any block within a shortcut
_AROUND = BlockSpec(
    (Residual(in_order("main"), lambda block, x: block.shortcut(x), mask="drop_path", branch_first=True),),
    is_residual=_with_shortcut,
)

BOTTLENECKS: dict[str, BlockSpec] = {
    "cpubone.ResidualBlock": _AROUND,
    "lowformer.ResidualBlock": _AROUND,
    "cspnext.CspNextBlock": BlockSpec(
        (Residual(in_order("conv1", "conv2"), mask="drop_path", branch_first=True),),
        is_residual=lambda block: block.add_identity,
    ),
    "hgnet.HighPerfGpuBlock": BlockSpec(
        (Residual(_hgnet, mask="drop_path", branch_first=True),), is_residual=lambda block: block.residual
    ),
    "res2net.Bottle2neck": BlockSpec((_RES2NET,)),
    "rexnet.LinearBottleneck": BlockSpec((_REXNET,), is_residual=lambda block: block.use_shortcut),
    "sknet.SelectiveKernelBasic": BlockSpec((_SELECTIVE,)),
    "sknet.SelectiveKernelBottleneck": BlockSpec((_SELECTIVE,)),
    "tiny_vit.MBConv": BlockSpec((_TINY_VIT,)),
    "tresnet.BasicBlock": BlockSpec((_TRESNET,)),
    "tresnet.Bottleneck": BlockSpec((_TRESNET_BOTTLENECK,)),
    # A block without a shortcut masks its whole output.
    "vovnet.OsaBlock": BlockSpec(
        (Residual(_vovnet, mask="drop_path", branch_first=True),),
        is_residual=lambda block: block.residual,
        masks_alone=True,
    ),
}
