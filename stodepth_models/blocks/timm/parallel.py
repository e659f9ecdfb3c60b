"""timm's parallel transformer blocks, whose attention and MLP share their projections: one branch for both."""

from typing import Any

import torch
from torch import Tensor, nn


def parallel_branch(block: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Return the branch of ``ParallelScalingBlock`` (arXiv:2302.05442) for ``x``, ``(N, L, C)``."""
    batch, length, channels = x.shape
    hidden, q, k, v = _project(block, x)
    heads = (batch, length, block.num_heads, block.head_dim)
    q = block.q_norm(q.view(heads)).transpose(1, 2)
    k = block.k_norm(k.view(heads)).transpose(1, 2)
    v = v.view(heads).transpose(1, 2)
    if block.fused_attn:
        attended = _fused(block.attn_drop, q, k, v, attn_mask, is_causal)
    else:
        attended = _weights(block, q, k, attn_mask, is_causal) @ v
    attended = attended.transpose(1, 2).reshape(batch, length, channels)
    hidden = block.mlp_drop(block.mlp_act(hidden))
    if block.out_proj is not None:
        return block.ls(block.out_proj(torch.cat((attended, hidden), dim=-1)))
    return block.ls(block.attn_out_proj(attended) + block.mlp_out_proj(hidden))


def diff_parallel_branch(block: Any, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Return the branch of ``DiffParallelScalingBlock`` (arXiv:2410.05258) for ``x``, ``(N, L, C)``."""
    batch, length, channels = x.shape
    hidden, q, k, v = _project(block, x)
    q = q.reshape(batch, length, 2 * block.num_heads, block.head_dim).transpose(1, 2)
    k = k.reshape(batch, length, 2 * block.num_heads, block.head_dim).transpose(1, 2)
    v = v.reshape(batch, length, block.num_heads, 2 * block.head_dim).transpose(1, 2)
    q, k = block.q_norm(q), block.k_norm(k)
    weight = block._compute_lambda().type_as(q)
    pairs = (batch, block.num_heads, 2, length)
    if block.fused_attn:
        q1, q2 = q.reshape(*pairs, block.head_dim).unbind(2)
        k1, k2 = k.reshape(*pairs, block.head_dim).unbind(2)
        first = _fused(block.attn_drop, q1, k1, v, attn_mask, is_causal)
        attended = first - weight * _fused(block.attn_drop, q2, k2, v, attn_mask, is_causal)
    else:
        weights = _weights(block, q, k, attn_mask, is_causal).view(*pairs, length)
        attended = (weights[:, :, 0] - weight * weights[:, :, 1]) @ v
    attended = block.sub_norm(attended) * (1 - block.lambda_init)
    attended = attended.transpose(1, 2).reshape(batch, length, channels)
    hidden = block.mlp_drop(block.mlp_act(hidden))
    return block.ls(block.out_proj(torch.cat((attended, hidden), dim=-1)))


def _project(block: Any, x: Tensor) -> tuple[Tensor, ...]:
    """The MLP's hidden layer, queries, keys and values."""
    hidden, q, k, v = torch.split(block.in_proj(block.in_norm(x)), block.in_split, dim=-1)
    if block.mlp_bias is not None:
        hidden = hidden + block.mlp_bias
    return hidden, q, k, v


def _fused(dropout: nn.Dropout, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    rate = dropout.p if dropout.training else 0.0
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, is_causal=is_causal)


def _weights(block: Any, q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Attention weights, where a fused kernel is not wanted."""
    from timm.layers.attention import maybe_add_mask, resolve_self_attn_mask

    scores = (q * block.scale) @ k.transpose(-2, -1)
    bias = resolve_self_attn_mask(q.shape[2], scores, mask, is_causal=is_causal)
    return block.attn_drop(maybe_add_mask(scores, bias).softmax(dim=-1))
