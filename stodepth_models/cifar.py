"""The CIFAR family: builders of ResNets for images of 32x32 with stochastic depth.

Thin models follow He et al., arXiv:1512.03385, sec. 4.2: a 3x3 stem, three stages of 16, 32 and 64 channels, and
shortcuts without parameters. Wide ones are the ImageNet ResNets with a 3x3 stem and no max-pool.
"""

from functools import partial
from typing import Any

from torchvision.models import WeightsEnum

from .blocks.torchvision import StoDepthBasicBlock, StoDepthBottleneck
from .builder import AnySource, StochasticDepth, build, register
from .cifar_network import Block, CifarResNet
from .weights import published

# Channels of the stages, before the expansion of a bottleneck.
THIN = (16, 32, 64)
WIDE = (64, 128, 256, 512)


def _cifar(
    name: str,
    block: Block,
    layers: list[int],
    widths: tuple[int, ...],
    enum: type[WeightsEnum],
    pretrained: bool,
    weights: Any,
    progress: bool,
    depth: StochasticDepth,
    options: dict[str, Any],
) -> CifarResNet:
    architecture = partial(CifarResNet, block, layers, widths)
    return build(f"{name}_stodepth_lineardecay", architecture, enum, pretrained, weights, progress, depth, options)


# The signatures are laid out by hand: a parameter a line would hide that they are all alike.
# fmt: off
@register
def cifar_resnet20_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet20_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False,
    shortcut: str = "A", **kwargs: Any,
) -> CifarResNet:
    """Thin ResNet-20 (arXiv:1512.03385, sec. 4.2) with stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet20", StoDepthBasicBlock, [3, 3, 3], THIN, published.CifarResNet20_Weights,
                  pretrained, weights, progress, depth, {"shortcut": shortcut, **kwargs})


@register
def cifar_resnet32_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet32_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False,
    shortcut: str = "A", **kwargs: Any,
) -> CifarResNet:
    """Thin ResNet-32 (arXiv:1512.03385, sec. 4.2) with stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet32", StoDepthBasicBlock, [5, 5, 5], THIN, published.CifarResNet32_Weights,
                  pretrained, weights, progress, depth, {"shortcut": shortcut, **kwargs})


@register
def cifar_resnet44_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet44_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False,
    shortcut: str = "A", **kwargs: Any,
) -> CifarResNet:
    """Thin ResNet-44 (arXiv:1512.03385, sec. 4.2) with stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet44", StoDepthBasicBlock, [7, 7, 7], THIN, published.CifarResNet44_Weights,
                  pretrained, weights, progress, depth, {"shortcut": shortcut, **kwargs})


@register
def cifar_resnet56_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet56_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False,
    shortcut: str = "A", **kwargs: Any,
) -> CifarResNet:
    """Thin ResNet-56 (arXiv:1512.03385, sec. 4.2) with stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet56", StoDepthBasicBlock, [9, 9, 9], THIN, published.CifarResNet56_Weights,
                  pretrained, weights, progress, depth, {"shortcut": shortcut, **kwargs})


@register
def cifar_resnet110_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet110_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False,
    shortcut: str = "A", **kwargs: Any,
) -> CifarResNet:
    """Thin ResNet-110 (arXiv:1512.03385, sec. 4.2) with stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet110", StoDepthBasicBlock, [18, 18, 18], THIN, published.CifarResNet110_Weights,
                  pretrained, weights, progress, depth, {"shortcut": shortcut, **kwargs})


@register
def cifar_resnet1202_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet1202_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False,
    shortcut: str = "A", **kwargs: Any,
) -> CifarResNet:
    """Thin ResNet-1202 (arXiv:1512.03385, sec. 4.2) with stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet1202", StoDepthBasicBlock, [200, 200, 200], THIN, published.CifarResNet1202_Weights,
                  pretrained, weights, progress, depth, {"shortcut": shortcut, **kwargs})


@register
def cifar_resnet164_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet164_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False,
    shortcut: str = "A", **kwargs: Any,
) -> CifarResNet:
    """Thin bottleneck ResNet-164 (arXiv:1603.05027) with stochastic depth (arXiv:1603.09382), for 32x32 images."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet164", StoDepthBottleneck, [18, 18, 18], THIN, published.CifarResNet164_Weights,
                  pretrained, weights, progress, depth, {"shortcut": shortcut, **kwargs})


@register
def cifar_resnet18_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet18_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> CifarResNet:
    """ResNet-18 (arXiv:1512.03385) with a 3x3 stem and stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet18", StoDepthBasicBlock, [2, 2, 2, 2], WIDE, published.CifarResNet18_Weights,
                  pretrained, weights, progress, depth, {"shortcut": "B", **kwargs})


@register
def cifar_resnet34_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet34_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> CifarResNet:
    """ResNet-34 (arXiv:1512.03385) with a 3x3 stem and stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet34", StoDepthBasicBlock, [3, 4, 6, 3], WIDE, published.CifarResNet34_Weights,
                  pretrained, weights, progress, depth, {"shortcut": "B", **kwargs})


@register
def cifar_resnet50_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet50_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> CifarResNet:
    """ResNet-50 (arXiv:1512.03385) with a 3x3 stem and stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet50", StoDepthBottleneck, [3, 4, 6, 3], WIDE, published.CifarResNet50_Weights,
                  pretrained, weights, progress, depth, {"shortcut": "B", **kwargs})


@register
def cifar_resnet101_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet101_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> CifarResNet:
    """ResNet-101 (arXiv:1512.03385) with a 3x3 stem and stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet101", StoDepthBottleneck, [3, 4, 23, 3], WIDE, published.CifarResNet101_Weights,
                  pretrained, weights, progress, depth, {"shortcut": "B", **kwargs})


@register
def cifar_resnet152_stodepth_lineardecay(
    pretrained: bool = False, prob_0_L: tuple[float, float] = (1.0, 0.5), mult_flag: bool = True, *,
    weights: published.CifarResNet152_Weights | AnySource = None, progress: bool = True, mode: str = "batch",
    rescale: str | None = None, depth_rule: str = "inclusive", sync_gates: bool = False, **kwargs: Any,
) -> CifarResNet:
    """ResNet-152 (arXiv:1512.03385) with a 3x3 stem and stochastic depth (arXiv:1603.09382), for images of 32x32."""
    depth = StochasticDepth(prob_0_L, mult_flag, mode, rescale, depth_rule, sync_gates)
    return _cifar("cifar_resnet152", StoDepthBottleneck, [3, 8, 36, 3], WIDE, published.CifarResNet152_Weights,
                  pretrained, weights, progress, depth, {"shortcut": "B", **kwargs})
# fmt: on
