"""transformers' Swin Transformer blocks: attention within windows, into which they cut the map of tokens."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..ends import scalable_weights
from ..spec import BlockSpec, Residual
from ..windows import Size, cut, join


def _mask(block: Any, size: Size, grid: Tensor) -> Any:
    """The mask that keeps windows apart that a shift has joined; None without a shift."""
    return block.get_attn_mask(*size, dtype=grid.dtype, device=grid.device)


def _mask_of_maskformer(block: Any, size: Size, grid: Tensor) -> Any:
    return block.get_attn_mask(size, dtype=grid.dtype, device=grid.device)


def _attend_in_windows(
    block: Any, x: Tensor, size: Size, attend: Callable[..., Any], mask_of: Callable[..., Any] = _mask
) -> tuple[Tensor, Any]:
    """Return the attention of the tokens ``x``, ``(N, H * W, C)``, within windows, and the attention weights."""
    height, width = size
    batch, _, channels = x.shape
    grid, padding = block.maybe_pad(x.view(batch, height, width, channels), height, width)
    _, padded_height, padded_width, _ = grid.shape
    if block.shift_size > 0:
        grid = torch.roll(grid, (-block.shift_size, -block.shift_size), (1, 2))
    window = (block.window_size, block.window_size)
    windows = cut(grid, window).flatten(1, 2)
    out, weights = attend(windows, mask_of(block, (padded_height, padded_width), grid))
    across = (padded_height // window[0], padded_width // window[1])
    grid = join(out.unflatten(1, window), across)
    if block.shift_size > 0:
        grid = torch.roll(grid, (block.shift_size, block.shift_size), (1, 2))
    if padding[3] > 0 or padding[5] > 0:
        grid = grid[:, :height, :width].contiguous()
    return grid.view(batch, height * width, channels), weights


def _on_demand(block: Any, output_attentions: bool | None) -> Callable[..., Any]:
    """Attention within windows for a layer whose attention returns its weights on demand."""

    def attend(windows: Tensor, mask: Tensor | None) -> tuple[Tensor, Any]:
        out, *weights = block.attention(windows, mask, output_attentions=output_attentions)
        return out, weights[0] if weights else None

    return attend


def _attention(
    block: Any, x: Tensor, input_dimensions: Size, always_partition: bool = False, **arguments: Any
) -> tuple[Tensor, Any]:
    if not always_partition:
        block.set_shift_and_window_size(input_dimensions)

    def attend(windows: Tensor, mask: Tensor | None) -> tuple[Tensor, Any]:
        out, weights = block.attention(windows, mask, **arguments)
        return block.dropout(out), weights

    return _attend_in_windows(block, block.layernorm_before(x), input_dimensions, attend)


def _attention_v2(
    block: Any, x: Tensor, input_dimensions: Size, output_attentions: bool | None = False
) -> tuple[Tensor, Any]:
    out, weights = _attend_in_windows(block, x, input_dimensions, _on_demand(block, output_attentions))
    return block.layernorm_before(out), weights


def _weights_of(more: list[Any]) -> Any:
    return more[0] if more else None  # a dropped branch has none


def _output(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    return x, _weights_of(more)


def _output_v2(block: Any, x: Tensor, more: list[Any], arguments: Mapping[str, Any]) -> tuple[Any, ...]:
    if arguments.get("output_attentions"):
        return x, _weights_of(more)
    return (x,)


SWIN = BlockSpec(
    (
        Residual(
            _attention,
            mask="drop_path",
            returns_more=True,
            scalable_weights=lambda block: scalable_weights(block.attention.o_proj),
        ),
        # transformers masks the attention alone.
        Residual(
            lambda block, x: block.dropout(block.mlp(block.layernorm_after(x))),
            scalable_weights=lambda block: scalable_weights(block.mlp.fc2),
        ),
    ),
    output=_output,
)
SWIN_V2 = BlockSpec(
    (
        Residual(
            _attention_v2,
            mask="drop_path",
            returns_more=True,
            scalable_weights=lambda block: scalable_weights(block.layernorm_before),
        ),
        Residual(
            lambda block, x: block.layernorm_after(block.output(block.intermediate(x))),
            mask="drop_path",
            scalable_weights=lambda block: scalable_weights(block.layernorm_after),
        ),
    ),
    output=_output_v2,
)


# donut, clap, maskformer: the same as SWIN, written for an attention that returns its weights on demand
def _attention_on_demand(
    block: Any,
    x: Tensor,
    input_dimensions: Size,
    output_attentions: bool | None = False,
    always_partition: bool | None = False,
) -> tuple[Tensor, Any]:
    if not always_partition:
        block.set_shift_and_window_size(input_dimensions)
    attend = _on_demand(block, output_attentions)
    return _attend_in_windows(block, block.layernorm_before(x), input_dimensions, attend)


# maskformer: windows that do not shrink with the map
def _attention_of_maskformer(
    block: Any, x: Tensor, input_dimensions: Size, output_attentions: bool | None = False
) -> tuple[Tensor, Any]:
    attend = _on_demand(block, output_attentions)
    return _attend_in_windows(block, block.layernorm_before(x), input_dimensions, attend, _mask_of_maskformer)


def _swin_on_demand(attention: Callable[..., Any]) -> BlockSpec:
    return BlockSpec(
        (
            Residual(
                attention,
                mask="drop_path",
                returns_more=True,
                scalable_weights=lambda block: scalable_weights(block.attention.output.dense),
            ),
            Residual(
                lambda block, x: block.output(block.intermediate(block.layernorm_after(x))),
                scalable_weights=lambda block: scalable_weights(block.output.dense),
            ),
        ),
        output=_output_v2,
    )


SWIN_ON_DEMAND = _swin_on_demand(_attention_on_demand)
SWIN_OF_MASKFORMER = _swin_on_demand(_attention_of_maskformer)

_MODELS = "transformers.models."

SWINS: dict[str, BlockSpec] = {
    f"{_MODELS}clap.modeling_clap.ClapAudioLayer": SWIN_ON_DEMAND,
    f"{_MODELS}donut.modeling_donut_swin.DonutSwinLayer": SWIN_ON_DEMAND,
    f"{_MODELS}maskformer.modeling_maskformer_swin.MaskFormerSwinLayer": SWIN_OF_MASKFORMER,
    f"{_MODELS}swin.modeling_swin.SwinLayer": SWIN,
    f"{_MODELS}swin2sr.modeling_swin2sr.Swin2SRLayer": SWIN_V2,
    f"{_MODELS}swinv2.modeling_swinv2.Swinv2Layer": SWIN_V2,
}
