"""Two residual connections, one behind the other, as in nearly all of timm's transformer blocks."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..ends import ends_in
from ..spec import BlockSpec, Residual

Branch = Callable[..., Tensor]

# Masks and rotary embeddings hold a row for each sample where they have all four dimensions, (N, heads, L, ...).
ATTENTION_ARGUMENTS: dict[str, Any] = {
    "per_sample": ("attn_mask", "rope"),
    "shared": ("shared_rel_pos_bias", "shared_rel_pos"),
    "ranks": {"attn_mask": 4, "rope": 4},
}
ATTENTION_ENDS = ("ls1.gamma", "gamma_1", "attn.proj")
MLP_ENDS = ("ls2.gamma", "gamma_2", "mlp.fc2")


def pair(
    first: Branch,
    second: Branch,
    ends: tuple[tuple[str, ...], tuple[str, ...]] = (ATTENTION_ENDS, MLP_ENDS),
    masks: tuple[str, str] = ("drop_path1", "drop_path2"),
    **settings: Any,
) -> BlockSpec:
    """Return the description of a block with two connections.

    Args:
        first: branch of the first one.
        second: branch of the second one.
        ends: for each, what ends it: the first of these layers that a block has.
        masks: names of their masks.
        **settings: of :class:`BlockSpec`; none: the arguments of attention.
    """
    residuals = (
        Residual(first, mask=masks[0], scalable_weights=ends_in(*ends[0])),
        Residual(second, mask=masks[1], scalable_weights=ends_in(*ends[1])),
    )
    return BlockSpec(residuals, **(settings or ATTENTION_ARGUMENTS))
