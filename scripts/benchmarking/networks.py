"""The networks of ``gpu_check.py``: each at constant depth, with a library's masks, and with gates."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VisionTransformer

import stodepth_models as sdm

from .models import put_masks

try:
    import timm
except ImportError:
    timm = None

P_LAST = 0.5  # survival probability of a ResNet's last block
DROP_PATH = 0.4  # drop rate of a transformer's last block


@dataclass(frozen=True)
class Network:
    """A network and the batch that it is trained on.

    Attributes:
        name: what the tables call it.
        constant: builds it at constant depth.
        masked: builds it with a library's masks.
        gated: builds it with gates of a mode.
        library: whose masks these are.
        image_size: pixels.
        batch_size: images a step.
        dtype: of autocast; None: float32 without autocast.
        memory_format: of images and weights.
    """

    name: str
    constant: Callable[[], nn.Module]
    masked: Callable[[], nn.Module]
    gated: Callable[[str], nn.Module]
    library: str
    image_size: int
    batch_size: int
    dtype: torch.dtype | None = None
    memory_format: torch.memory_format = torch.contiguous_format

    def images(self, device: str) -> Tensor:
        """Return a batch, ``(N, 3, H, W)``."""
        x = torch.randn(self.batch_size, 3, self.image_size, self.image_size)
        return x.to(device, memory_format=self.memory_format)

    def precision(self, device: str) -> AbstractContextManager[Any]:
        """Return the autocast of the network."""
        return nullcontext() if self.dtype is None else torch.autocast(device, self.dtype)

    def describe(self) -> str:
        """Return name, batch and precision in words."""
        parts = [self.name, f"{self.image_size}x{self.image_size}", f"batch {self.batch_size}"]
        parts.append("float32" if self.dtype is None else f"{str(self.dtype).removeprefix('torch.')} autocast")
        if self.memory_format is torch.channels_last:
            parts.append("channels_last")
        return ", ".join(parts)


def networks_for_a_card(divide_batch: int = 1) -> list[Network]:
    """Return the networks at full size, their batches divided by ``divide_batch``."""
    resnet50 = _resnet("ResNet-50", "resnet50_stodepth_lineardecay", 224, 256)
    networks = [
        replace(resnet50, dtype=torch.bfloat16, memory_format=torch.channels_last),
        _resnet("ResNet-110", "cifar_resnet110_stodepth_lineardecay", 32, 128),
        replace(_transformer("ViT-S/16", 224, 128, depth=12, width=384, heads=6), dtype=torch.bfloat16),
    ]
    return [replace(network, batch_size=max(network.batch_size // divide_batch, 2)) for network in networks]


def networks_for_a_cpu() -> list[Network]:
    """Return networks of the same kinds that take a fraction of a second a step."""
    resnet18 = _resnet("ResNet-18", "resnet18_stodepth_lineardecay", 32, 2)
    return [
        replace(resnet18, dtype=torch.bfloat16, memory_format=torch.channels_last),
        _resnet("ResNet-20", "cifar_resnet20_stodepth_lineardecay", 32, 4),
        _transformer("a ViT of three blocks", 32, 4, depth=3, width=48, heads=2),
    ]


def _resnet(name: str, builder: str, image_size: int, batch_size: int) -> Network:
    build = partial(torchvision.models.get_model, builder)

    def masked() -> nn.Module:
        survival = sdm.survival_probs(build(prob_0_L=(1.0, P_LAST)))
        return put_masks(build(prob_0_L=(1.0, 1.0)), survival, lambda p: torchvision.ops.StochasticDepth(1 - p, "row"))

    return Network(
        name,
        constant=partial(build, prob_0_L=(1.0, 1.0)),
        masked=masked,
        gated=lambda mode: build(prob_0_L=(1.0, P_LAST), mode=mode),
        library="torchvision",
        image_size=image_size,
        batch_size=batch_size,
    )


def _transformer(name: str, image_size: int, batch_size: int, depth: int, width: int, heads: int) -> Network:
    """Return timm's ViT with patches of 16x16, or torchvision's where timm is not there."""
    if timm is None:
        arguments = (image_size, 16, depth, heads, width, 4 * width)
        plain: Callable[[], nn.Module] = partial(VisionTransformer, *arguments)
        return Network(
            name,
            constant=partial(_converted, plain, 0.0, "batch"),
            masked=partial(_masked_encoder, plain),
            gated=partial(_converted, plain, DROP_PATH),
            library="torchvision",
            image_size=image_size,
            batch_size=batch_size,
        )
    sizes = {"img_size": image_size, "depth": depth, "embed_dim": width, "num_heads": heads}
    masked = partial(timm.create_model, "vit_small_patch16_224", drop_path_rate=DROP_PATH, **sizes)
    return Network(
        name,
        constant=partial(_converted, masked, 0.0, "batch"),
        masked=masked,
        gated=partial(_converted, masked, None),
        library="timm",
        image_size=image_size,
        batch_size=batch_size,
    )


def _converted(build: Callable[[], nn.Module], drop_rate: float | None, mode: str) -> nn.Module:
    model = build()
    sdm.apply_stochastic_depth(model, drop_rate=drop_rate, stochastic_method=mode)
    return model


def _masked_encoder(build: Callable[[], nn.Module]) -> nn.Module:
    """torchvision's ViT has no masks: put its StochasticDepth where other transformers of torchvision have it."""
    model: Any = build()
    layers = model.encoder.layers
    for number, block in enumerate(layers, start=1):
        mask = torchvision.ops.StochasticDepth(number / len(layers) * DROP_PATH, "row")
        block.dropout = nn.Sequential(block.dropout, mask)
        block.mlp = nn.Sequential(block.mlp, mask)
    return model
