"""timm's transformer blocks of models with stages: the map of tokens shrinks from one stage to the next."""

from typing import Any

from torch import Tensor

from ..branches import in_order
from ..ends import ends_in
from ..spec import BlockSpec, Residual
from ..windows import in_windows
from .pairs import pair

_attend = in_order("norm1", "attn", "ls1")
_attend_with_size = in_order("norm1", "attn", given="attn")
_mlp = in_order("norm2", "mlp", "ls2")


def _tokens(grid: Tensor) -> Tensor:
    return grid.flatten(2).transpose(1, 2)


def _grid(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(like.shape)


# davit: convolutions encode positions in front of both connections, on maps (N, C, H, W)
def _davit_first(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = block.cpe1(x)
    return x, x


def _davit_second(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = block.cpe2(x)
    return x, x


def _davit_channels(block: Any, x: Tensor) -> Tensor:
    return _grid(block.attn(block.norm1(_tokens(x))), x)


def _davit_windows(block: Any, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    grid = block.norm1(_tokens(x)).view(batch, height, width, channels)

    def attend(windows: Tensor) -> Tensor:
        return block.attn(windows.flatten(1, 2)).view(windows.shape)

    grid = in_windows(grid, block.window_size, attend)[:, :height, :width]
    return grid.permute(0, 3, 1, 2)


def _davit_mlp(block: Any, x: Tensor) -> Tensor:
    return _grid(block.mlp(block.norm2(_tokens(x))), x)


def _davit(attention: Any) -> BlockSpec:
    first = Residual(attention, mask="drop_path1", prepare=_davit_first, scalable_weights=ends_in("attn.proj"))
    second = Residual(
        _davit_mlp,
        mask="drop_path2",
        prepare=_davit_second,
        is_there=lambda block: block.mlp is not None,
        scalable_weights=ends_in("mlp.fc2"),
    )
    return BlockSpec((first, second))


# gcvit: queries of the whole map, a row of them for each sample
def _gcvit_attn(block: Any, x: Tensor, q_global: Tensor | None = None) -> Tensor:
    return block.ls1(block._window_attn(block.norm1(x), q_global))


# tiny_vit: attention in windows of maps (N, H, W, C), and a convolution between attention and MLP
def _tiny_vit_attn(block: Any, x: Tensor) -> Tensor:
    def attend(windows: Tensor) -> Tensor:
        return block.attn(windows.flatten(1, 2)).view(windows.shape)

    height, width = x.shape[1:3]
    size = (block.window_size, block.window_size)
    return in_windows(x, size, attend)[:, :height, :width].contiguous()


def _tiny_vit_convolve(block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    x = block.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x, x


def _tiny_vit_mlp(block: Any, x: Tensor) -> Tensor:
    return block.mlp(x.flatten(1, 2)).view(x.shape)


_TINY_VIT = BlockSpec(
    (
        Residual(_tiny_vit_attn, mask="drop_path1", scalable_weights=ends_in("attn.proj")),
        Residual(
            _tiny_vit_mlp,
            mask="drop_path2",
            prepare=_tiny_vit_convolve,
            scalable_weights=ends_in("mlp.fc2"),
        ),
    )
)

# levit: a block that shrinks the map has a connection at its MLP alone
_LEVIT_DOWNSAMPLE = BlockSpec(
    (Residual(in_order("mlp"), mask="drop_path", scalable_weights=ends_in("mlp.ln2.bn")),),
    input=lambda block, x: block.attn_downsample(x),
)

PYRAMIDS: dict[str, BlockSpec] = {
    "davit.SpatialBlock": _davit(_davit_windows),
    "davit.ChannelBlock": _davit(_davit_channels),
    "gcvit.GlobalContextVitBlock": pair(_gcvit_attn, _mlp, per_sample=("q_global",)),
    "levit.LevitBlock": pair(in_order("attn"), in_order("mlp"), (("attn.proj.ln.bn",), ("mlp.ln2.bn",))),
    "levit.LevitDownsample": _LEVIT_DOWNSAMPLE,
    "nest.TransformerLayer": pair(_attend, _mlp),
    "pvt_v2.Block": pair(_attend_with_size, in_order("norm2", "mlp", given="mlp")),
    "tiny_vit.TinyVitBlock": _TINY_VIT,
    "twins.Block": pair(_attend_with_size, _mlp),
    "volo.Outlooker": pair(_attend, _mlp),
    "volo.Transformer": pair(_attend, _mlp),
}
