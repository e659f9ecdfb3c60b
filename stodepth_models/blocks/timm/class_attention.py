"""timm's blocks of class attention, and those beside them: CaiT and XCiT."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..branches import in_order
from ..ends import ends_in
from ..spec import BlockSpec, Residual

_attend = in_order("norm1", "attn", "gamma_1")


def _class_attn(block: Any, x_cls: Tensor, x: Tensor) -> Tensor:
    return _attend(block, torch.cat((x_cls, x), dim=1))


def _cait(attention: Callable[..., Tensor]) -> tuple[Residual, Residual]:
    """Attention and MLP of CaiT, which have one mask together."""
    mlp = in_order("norm2", "mlp", "gamma_2")
    return (
        Residual(attention, mask="drop_path", scalable_weights=ends_in("gamma_1")),
        Residual(mlp, mask="drop_path", scalable_weights=ends_in("gamma_2")),
    )


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


_XCA = BlockSpec(
    (
        Residual(in_order("norm1", "attn", "gamma1"), mask="drop_path1", scalable_weights=ends_in("gamma1")),
        Residual(
            in_order("norm3", "local_mp", "gamma3", given="local_mp"),
            mask="drop_path3",
            scalable_weights=ends_in("gamma3"),
        ),
        Residual(in_order("norm2", "mlp", "gamma2"), mask="drop_path2", scalable_weights=ends_in("gamma2")),
    )
)
# The second branch passes the patches on unscaled, so that no weight scales all of it.
_XCIT_CLASS = BlockSpec(
    (
        Residual(_xcit_class_attn, mask="drop_path1", scalable_weights=ends_in("gamma1")),
        Residual(_xcit_class_mlp, mask="drop_path2", prepare=_xcit_class_norm),
    )
)

CLASS_ATTENTION: dict[str, BlockSpec] = {
    "cait.LayerScaleBlock": BlockSpec(_cait(_attend)),
    "cait.LayerScaleBlockClassAttn": BlockSpec(_cait(_class_attn), stream="x_cls", per_sample=("x",)),
    "xcit.XCABlock": _XCA,
    "xcit.ClassAttentionBlock": _XCIT_CLASS,
}
