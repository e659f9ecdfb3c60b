"""torchvision's MViT block: queries are pooled, and the shortcut with them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .ends import scalable_weights
from .pooling import pooled_size
from .spec import BlockSpec, Residual


# The normalisation of a connection stands in front of both its ways.
def _mvit_norm(block: Any, norm: nn.Module, x: Tensor) -> Tensor:
    if block.needs_transposal:
        return norm(x.transpose(1, 2)).transpose(1, 2)
    return norm(x)


def _mvit_start(block: Any, x: Tensor, thw: Any) -> tuple[Tensor, Tensor]:
    normed, shortcut = _mvit_norm(block, block.norm1, x), x
    if block.project is not None and block.proj_after_attn:
        shortcut = block.project(normed)
    if block.pool_skip is not None:
        shortcut, _ = block.pool_skip(shortcut, thw)
    return normed, shortcut


def _mvit_attend(block: Any, normed: Tensor, thw: Any) -> Tensor:
    out, _ = block.attn(normed, thw)
    return out


def _mvit_middle(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    normed, shortcut = _mvit_norm(block, block.norm2, x), x
    if block.project is not None and not block.proj_after_attn:
        shortcut = block.project(normed)
    return normed, shortcut


def _mvit_output(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Tensor, Any]:
    size = arguments["thw"]
    if block.attn.pool_q is not None:
        size = pooled_size(size, block.attn.pool_q.pool)
    return x, size


MVIT = BlockSpec(
    (
        Residual(
            _mvit_attend,
            mask="stochastic_depth",
            prepare=_mvit_start,
            scalable_weights=lambda block: scalable_weights(block.attn.project[0]),
        ),
        Residual(
            lambda block, x: block.mlp(x),
            mask="stochastic_depth",
            prepare=_mvit_middle,
            scalable_weights=lambda block: scalable_weights(block.mlp[3]),
        ),
    ),
    output=_mvit_output,
)
