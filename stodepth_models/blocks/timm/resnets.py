"""timm's ResNet blocks, with what timm adds to them: attention, anti-aliasing, DropBlock."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..ends import ScalableWeights, scalable_weights
from ..spec import BlockSpec, Residual

# Attention that multiplies its input by a function of the input's mean: the layer that sees that mean.
_MEAN_LAYERS = {"SEModule": "fc1", "EffectiveSEModule": "fc", "EcaModule": "conv", "CecaModule": "conv"}


def _basic_branch(block: Any, x: Tensor) -> Tensor:
    out = block.aa(block.act1(block.drop_block(block.bn1(block.conv1(x)))))
    return _attend(block, block.bn2(block.conv2(out)))


def _bottleneck_branch(block: Any, x: Tensor) -> Tensor:
    out = block.act1(block.bn1(block.conv1(x)))
    out = block.aa(block.act2(block.drop_block(block.bn2(block.conv2(out)))))
    return _attend(block, block.bn3(block.conv3(out)))


def _attend(block: Any, out: Tensor) -> Tensor:
    return out if block.se is None else block.se(out)


def _shortcut(block: Any, x: Tensor) -> Tensor:
    return x if block.downsample is None else block.downsample(x)


def _attended_weights(block: Any, norm: nn.Module) -> ScalableWeights:
    """The norm's weights; the attention behind it has to see the mean it has always seen."""
    if block.se is None:
        return scalable_weights(norm)
    kind = type(block.se)
    if kind.__name__ not in _MEAN_LAYERS or not kind.__module__.startswith("timm.layers."):
        raise ValueError(f"it ends in {kind.__name__}, which a scaled input would change")
    layer = getattr(block.se, _MEAN_LAYERS[kind.__name__])
    return [*scalable_weights(norm), (layer.weight, -1)]


def _resnet(branch: Callable[[Any, Tensor], Tensor], activation: str, norm: str) -> BlockSpec:
    residual = Residual(
        branch,
        _shortcut,
        activation,
        mask="drop_path",
        inplace=True,
        scalable_weights=lambda block: _attended_weights(block, getattr(block, norm)),
    )
    return BlockSpec((residual,))


RESNETS: dict[str, BlockSpec] = {
    "resnet.BasicBlock": _resnet(_basic_branch, "act2", "bn2"),
    "resnet.Bottleneck": _resnet(_bottleneck_branch, "act3", "bn3"),
}
