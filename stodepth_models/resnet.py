"""The ImageNet family: torchvision's ResNets, ResNeXts and Wide ResNets with stochastic depth."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision import models as tv
from torchvision.models import ResNet, WeightsEnum

from .blocks.torchvision import StoDepthBasicBlock, StoDepthBottleneck
from .builder import AnySource, StochasticDepth, build, register
from .checks import check_layers
from .layers.recompute import Stage
from .layers.residual import draws_anywhere
from .layers.tracing import call_eagerly
from .weights.hub import HubModel


class StoDepthResNet(HubModel, ResNet):
    """torchvision's ResNet built from stochastic blocks; same names, shapes and initialisation of its weights.

    Args:
        block: :class:`StoDepthBasicBlock` or :class:`StoDepthBottleneck`.
        layers: number of blocks in each of the four stages.
        checkpoint_stages: recompute activations in the backward pass; see :class:`Stage`.
        **kwargs: those of ``torchvision.models.ResNet``.

    Raises:
        ValueError: ``layers`` are not four whole numbers.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> model = sdm.StoDepthResNet(sdm.StoDepthBasicBlock, [1, 1, 1, 1], num_classes=5)
        >>> sdm.set_survival_probs(model, sdm.linear_decay(4, 1.0, 0.5))
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        block: type[StoDepthBasicBlock | StoDepthBottleneck],
        layers: list[int],
        *,
        checkpoint_stages: bool = False,
        **kwargs: Any,
    ) -> None:
        check_layers(layers, 4)
        self.checkpoint_stages = checkpoint_stages  # read while torchvision's constructor makes the stages
        super().__init__(block, layers, **kwargs)

    def _make_layer(self, *args: Any, **kwargs: Any) -> Stage:
        return Stage(*super()._make_layer(*args, **kwargs), checkpoint=self.checkpoint_stages)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for standardised images ``x``, ``(N, 3, H, W)``."""
        # Gates are Python control flow: a compiled pass that draws some would break into pieces at each of them.
        if torch.compiler.is_compiling() and draws_anywhere(self):
            return call_eagerly(super().forward, x)
        return super().forward(x)


def _resnet(
    name: str,
    block: type[StoDepthBasicBlock | StoDepthBottleneck],
    layers: list[int],
    enum: type[WeightsEnum],
    pretrained: bool,
    weights: Any,
    progress: bool,
    depth: StochasticDepth,
    options: dict[str, Any],
    **fixed: int,
) -> StoDepthResNet:
    # What makes the architecture, such as the groups of a ResNeXt, is no option of its builder.
    for option, value in fixed.items():
        if options.setdefault(option, value) != value:
            raise ValueError(f"{option} of {name} is {value}, got {options[option]!r}")
    architecture = partial(StoDepthResNet, block, layers=layers)
    return build(f"{name}_stodepth_lineardecay", architecture, enum, pretrained, weights, progress, depth, options)


# The signatures are laid out by hand: a parameter a line would hide that they are all alike.
# fmt: off
@register
def resnet18_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.ResNet18_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """ResNet-18 (arXiv:1512.03385) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("resnet18", StoDepthBasicBlock, [2, 2, 2, 2], tv.ResNet18_Weights,
                   pretrained, weights, progress, depth, kwargs)


@register
def resnet34_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.ResNet34_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """ResNet-34 (arXiv:1512.03385) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("resnet34", StoDepthBasicBlock, [3, 4, 6, 3], tv.ResNet34_Weights,
                   pretrained, weights, progress, depth, kwargs)


@register
def resnet50_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.ResNet50_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """ResNet-50 (arXiv:1512.03385) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("resnet50", StoDepthBottleneck, [3, 4, 6, 3], tv.ResNet50_Weights,
                   pretrained, weights, progress, depth, kwargs)


@register
def resnet101_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.ResNet101_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """ResNet-101 (arXiv:1512.03385) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("resnet101", StoDepthBottleneck, [3, 4, 23, 3], tv.ResNet101_Weights,
                   pretrained, weights, progress, depth, kwargs)


@register
def resnet152_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.ResNet152_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """ResNet-152 (arXiv:1512.03385) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("resnet152", StoDepthBottleneck, [3, 8, 36, 3], tv.ResNet152_Weights,
                   pretrained, weights, progress, depth, kwargs)


@register
def resnext50_32x4d_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.ResNeXt50_32X4D_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """ResNeXt-50 32x4d (arXiv:1611.05431) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("resnext50_32x4d", StoDepthBottleneck, [3, 4, 6, 3], tv.ResNeXt50_32X4D_Weights,
                   pretrained, weights, progress, depth, kwargs, groups=32, width_per_group=4)


@register
def resnext101_32x8d_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.ResNeXt101_32X8D_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """ResNeXt-101 32x8d (arXiv:1611.05431) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("resnext101_32x8d", StoDepthBottleneck, [3, 4, 23, 3], tv.ResNeXt101_32X8D_Weights,
                   pretrained, weights, progress, depth, kwargs, groups=32, width_per_group=8)


@register
def resnext101_64x4d_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.ResNeXt101_64X4D_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """ResNeXt-101 64x4d (arXiv:1611.05431) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("resnext101_64x4d", StoDepthBottleneck, [3, 4, 23, 3], tv.ResNeXt101_64X4D_Weights,
                   pretrained, weights, progress, depth, kwargs, groups=64, width_per_group=4)


@register
def wide_resnet50_2_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.Wide_ResNet50_2_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """Wide ResNet-50-2 (arXiv:1605.07146) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("wide_resnet50_2", StoDepthBottleneck, [3, 4, 6, 3], tv.Wide_ResNet50_2_Weights,
                   pretrained, weights, progress, depth, kwargs, width_per_group=128)


@register
def wide_resnet101_2_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: tv.Wide_ResNet101_2_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> StoDepthResNet:
    """Wide ResNet-101-2 (arXiv:1605.07146) with stochastic depth (arXiv:1603.09382), for images of 224x224."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _resnet("wide_resnet101_2", StoDepthBottleneck, [3, 4, 23, 3], tv.Wide_ResNet101_2_Weights,
                   pretrained, weights, progress, depth, kwargs, width_per_group=128)
# fmt: on
