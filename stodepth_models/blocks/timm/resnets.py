"""timm's ResNet blocks, with what timm adds to them: attention, anti-aliasing, DropBlock."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..branches import in_order
from ..ends import ScalableWeights, scalable_weights
from ..spec import BlockSpec, Residual

# Attention that multiplies its input by a function of the input's mean: the layer that sees that mean.
_MEAN_LAYERS = {"SEModule": "fc1", "EffectiveSEModule": "fc", "EcaModule": "conv", "CecaModule": "conv"}


_BASIC = in_order("conv1", "bn1", "drop_block", "act1", "aa", "conv2", "bn2", "se")
_BOTTLENECK = in_order("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3", "bn3", "se")


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
        in_order("downsample"),
        activation,
        mask="drop_path",
        inplace=True,
        scalable_weights=lambda block: _attended_weights(block, getattr(block, norm)),
    )
    return BlockSpec((residual,))


RESNETS: dict[str, BlockSpec] = {
    "resnet.BasicBlock": _resnet(_BASIC, "act2", "bn2"),
    "resnet.Bottleneck": _resnet(_BOTTLENECK, "act3", "bn3"),
}
