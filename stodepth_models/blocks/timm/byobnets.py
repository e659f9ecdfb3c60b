"""timm's blocks of BYOBNet and CSPNet: bottlenecks of many shapes, also with layers that can be merged."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..branches import in_order
from ..ends import ScalableWeights, ends_in, ends_in_all, unless
from ..spec import BlockSpec, Residual

_Branch = Callable[[Any, Tensor], Tensor]


# byobnet: a block without a shortcut masks its whole output; that mask stays what it is
def _has_shortcut(block: Any) -> bool:
    return block.shortcut is not None


def _byobnet(*names: str) -> BlockSpec:
    """A ResNet-like block whose branch calls these submodules in order; attention may follow the last convolution."""
    weights = ends_in(f"{names[-1]}.bn")
    branch = in_order(*names)
    if "attn" in names:
        branch = in_order(*names, "attn_last")
        weights = unless("attn_last", weights)
    residual = Residual(branch, in_order("shortcut"), "act", "drop_path", scalable_weights=weights, branch_first=True)
    return BlockSpec((residual,), is_residual=_has_shortcut, masks_alone=True)


def _reparametrisable(branch: _Branch, weights: Callable[[Any], ScalableWeights]) -> BlockSpec:
    residual = Residual(
        branch,
        _identity,
        lambda block, out: block.act(block.attn(out)),
        "drop_path",
        inplace=True,
        scalable_weights=weights,
    )
    return BlockSpec((residual,), is_residual=_is_reparametrisable)


def _is_reparametrisable(block: Any) -> bool:
    return block.reparam_conv is None and block.identity is not None


def _identity(block: Any, x: Tensor) -> Tensor:
    """The shortcut.

    Raises:
        RuntimeError: shortcut and branch have been merged into one convolution since the block has its gate.
    """
    if block.reparam_conv is not None:
        raise RuntimeError(
            f"{type(block).__name__} was reparameterized while it had a gate, and there is no branch to drop any more: "
            "call remove_stochastic_depth(model), under rescale='eval' before reparameterize_model"
        )
    return block.identity(x)


def _repvgg(block: Any, x: Tensor) -> Tensor:
    return block.conv_1x1(x) + block.conv_kxk(x)


def _mobileone(block: Any, x: Tensor) -> Tensor:
    convs = list(block.conv_kxk)
    if block.conv_scale is not None:
        convs.insert(0, block.conv_scale)
    out = convs[0](x)
    for conv in convs[1:]:
        out = out + conv(x)
    return out


def _mobileone_weights(block: Any) -> ScalableWeights:
    if block.reparam_conv is not None:
        raise ValueError("it was reparameterized, which merges branch and shortcut")
    names = [f"conv_kxk.{index}.bn" for index in range(len(block.conv_kxk))]
    if block.conv_scale is not None:
        names.append("conv_scale.bn")
    return ends_in_all(*names)(block)


def _plain(branch: _Branch, *ends: str, activation: str | None = None) -> BlockSpec:
    return BlockSpec(
        (Residual(branch, None, activation, "drop_path", scalable_weights=ends_in(*ends), branch_first=True),)
    )


_CSP_BOTTLENECK = Residual(
    in_order("conv1", "conv2", "attn2", "conv3", "attn3"),
    activation="act3",
    mask="drop_path",
    scalable_weights=unless("attn3", ends_in("conv3.bn")),
    branch_first=True,
)
_CSP = _plain(in_order("conv1", "attn", "conv2"), "conv2.bn")

BYOBNETS: dict[str, BlockSpec] = {
    "byobnet.BasicBlock": _byobnet("conv1_kxk", "attn", "conv2_kxk"),
    "byobnet.BottleneckBlock": _byobnet("conv1_1x1", "conv2_kxk", "conv2b_kxk", "attn", "conv3_1x1"),
    "byobnet.DarkBlock": _byobnet("conv1_1x1", "attn", "conv2_kxk"),
    "byobnet.EdgeBlock": _byobnet("conv1_kxk", "attn", "conv2_1x1"),
    "byobnet.SelfAttnBlock": _byobnet("conv1_1x1", "conv2_kxk", "self_attn", "post_attn", "conv3_1x1"),
    "byobnet.RepVggBlock": _reparametrisable(_repvgg, ends_in_all("conv_1x1.bn", "conv_kxk.bn")),
    "byobnet.MobileOneBlock": _reparametrisable(_mobileone, _mobileone_weights),
    "cspnet.BottleneckBlock": BlockSpec((_CSP_BOTTLENECK,)),
    "cspnet.DarkBlock": _CSP,
    "cspnet.EdgeBlock": _CSP,
}
