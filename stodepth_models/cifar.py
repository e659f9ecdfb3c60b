"""The CIFAR family: ResNets for images of 32x32 with stochastic depth, the network and its builders.

Thin models follow He et al., arXiv:1512.03385, sec. 4.2: a 3x3 stem, three stages of 16, 32 and 64 channels, and
shortcuts without parameters. Wide ones are the ImageNet ResNets with a 3x3 stem and no max-pool.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models import WeightsEnum
from torchvision.models.resnet import conv1x1, conv3x3

from .blocks.torchvision import StoDepthBasicBlock, StoDepthBottleneck
from .builder import AnySource, StochasticDepth, build, register
from .checks import check_choice, check_layers
from .layers.recompute import Stage
from .layers.residual import draws_anywhere
from .layers.tracing import call_eagerly
from .weights import published
from .weights.hub import HubModel

# Channels of the stages, before the expansion of a bottleneck.
THIN = (16, 32, 64)
WIDE = (64, 128, 256, 512)

SHORTCUTS = ("A", "B")

Block = type[StoDepthBasicBlock | StoDepthBottleneck]


class PadShortcut(nn.Module):
    """Shortcut of option A (He et al., arXiv:1512.03385, sec. 3.3): every ``stride``-th pixel, zeros as new channels.

    Args:
        stride: step in pixels.
        extra_channels: channels of zeros, split evenly between front and back; an odd one goes to the back.
    """

    def __init__(self, stride: int, extra_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = extra_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C + extra_channels, ceil(H / stride), ceil(W / stride))`` for ``x``, ``(N, C, H, W)``."""
        front = self.extra_channels // 2
        back = self.extra_channels - front
        pixels = x[:, :, :: self.stride, :: self.stride]
        # `pad` counts dimensions from the last one: width, height, channels.
        return pad(pixels, (0, 0, 0, 0, front, back))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, extra_channels={self.extra_channels}"


class CifarResNet(HubModel):
    """ResNet for small images, ``(N, 3, 32, 32)``, with torchvision's names and initialisation.

    Args:
        block: :class:`StoDepthBasicBlock` or :class:`StoDepthBottleneck`.
        layers: number of blocks in each stage.
        widths: channels of each stage, before the expansion of the block; all but the first stage halve the size.
        num_classes: length of the output.
        shortcut: where a block changes the shape, ``"A"`` takes every second pixel and pads channels with zeros,
            without parameters; ``"B"`` projects with a 1x1 convolution and batch norm.
        zero_init_residual: start each branch's last batch norm at zero.
        norm_layer: makes a normalisation layer from a number of channels; None: ``nn.BatchNorm2d``.
        checkpoint_stages: recompute activations in the backward pass; see :class:`Stage`.

    Raises:
        ValueError: unknown ``shortcut``, or ``layers`` that are not a whole number for each stage.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> model = sdm.CifarResNet(sdm.StoDepthBasicBlock, layers=[1, 1], widths=[8, 16], num_classes=5)
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        block: Block,
        layers: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 10,
        shortcut: str = "A",
        zero_init_residual: bool = False,
        norm_layer: Callable[..., nn.Module] | None = None,
        checkpoint_stages: bool = False,
    ) -> None:
        check_choice("shortcut", shortcut, SHORTCUTS)
        check_layers(layers, len(widths))
        super().__init__()
        if norm_layer is None:
            norm_layer = nn.BatchNorm2d
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = norm_layer(widths[0])
        self.relu = nn.ReLU(inplace=True)
        channels = widths[0]
        self.stages = [f"layer{number}" for number in range(1, len(layers) + 1)]
        for name, width, depth in zip(self.stages, widths, layers, strict=True):
            # The stem keeps the size of the image, and so does the first stage; each further one halves it.
            stride = 2
            if name == "layer1":
                stride = 1
            blocks = _blocks(block, channels, width, depth, stride, shortcut, norm_layer)
            self.add_module(name, Stage(*blocks, checkpoint=checkpoint_stages))
            channels = width * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)
        _initialise(self, zero_init_residual)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for standardised images ``x``, ``(N, 3, H, W)``."""
        # Gates are Python control flow: a compiled pass that draws some would break into pieces at each of them.
        if torch.compiler.is_compiling() and draws_anywhere(self):
            return call_eagerly(self._forward_impl, x)
        return self._forward_impl(x)

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _blocks(
    block: Block,
    channels: int,
    width: int,
    depth: int,
    stride: int,
    shortcut: str,
    norm_layer: Callable[..., nn.Module],
) -> list[nn.Module]:
    out_channels = width * block.expansion
    downsample: nn.Module | None = None  # the shortcut is the input
    if stride != 1 or channels != out_channels:
        if shortcut == "A":
            downsample = PadShortcut(stride, out_channels - channels)
        else:
            projection = conv1x1(channels, out_channels, stride)
            downsample = nn.Sequential(projection, norm_layer(out_channels))
    first = block(channels, width, stride, downsample, norm_layer=norm_layer)
    others = [block(out_channels, width, norm_layer=norm_layer) for _ in range(depth - 1)]
    return [first, *others]


def _initialise(model: nn.Module, zero_init_residual: bool) -> None:
    """torchvision's initialisation of a ResNet (He et al., arXiv:1502.01852)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif zero_init_residual and isinstance(module, (StoDepthBasicBlock, StoDepthBottleneck)):
            # Each block is the identity at first (Goyal et al., arXiv:1706.02677, sec. 5.1).
            nn.init.zeros_(module.last_norm.weight)  # type: ignore[arg-type]


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
    architecture = partial(CifarResNet, block, layers=layers, widths=widths)
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
