"""Entry points of ``torch.hub``: one for each builder of the package."""

from stodepth_models import (
    cifar_resnet18_stodepth_lineardecay,
    cifar_resnet20_stodepth_lineardecay,
    cifar_resnet32_stodepth_lineardecay,
    cifar_resnet34_stodepth_lineardecay,
    cifar_resnet44_stodepth_lineardecay,
    cifar_resnet50_stodepth_lineardecay,
    cifar_resnet56_stodepth_lineardecay,
    cifar_resnet101_stodepth_lineardecay,
    cifar_resnet110_stodepth_lineardecay,
    cifar_resnet152_stodepth_lineardecay,
    cifar_resnet164_stodepth_lineardecay,
    cifar_resnet1202_stodepth_lineardecay,
    resnet18_stodepth_lineardecay,
    resnet34_stodepth_lineardecay,
    resnet50_stodepth_lineardecay,
    resnet101_stodepth_lineardecay,
    resnet152_stodepth_lineardecay,
    resnext50_32x4d_stodepth_lineardecay,
    resnext101_32x8d_stodepth_lineardecay,
    resnext101_64x4d_stodepth_lineardecay,
    wide_resnet50_2_stodepth_lineardecay,
    wide_resnet101_2_stodepth_lineardecay,
)

dependencies = ["torch", "torchvision", "huggingface_hub", "safetensors"]

__all__ = [
    "cifar_resnet18_stodepth_lineardecay",
    "cifar_resnet20_stodepth_lineardecay",
    "cifar_resnet32_stodepth_lineardecay",
    "cifar_resnet34_stodepth_lineardecay",
    "cifar_resnet44_stodepth_lineardecay",
    "cifar_resnet50_stodepth_lineardecay",
    "cifar_resnet56_stodepth_lineardecay",
    "cifar_resnet101_stodepth_lineardecay",
    "cifar_resnet110_stodepth_lineardecay",
    "cifar_resnet152_stodepth_lineardecay",
    "cifar_resnet164_stodepth_lineardecay",
    "cifar_resnet1202_stodepth_lineardecay",
    "resnet18_stodepth_lineardecay",
    "resnet34_stodepth_lineardecay",
    "resnet50_stodepth_lineardecay",
    "resnet101_stodepth_lineardecay",
    "resnet152_stodepth_lineardecay",
    "resnext50_32x4d_stodepth_lineardecay",
    "resnext101_32x8d_stodepth_lineardecay",
    "resnext101_64x4d_stodepth_lineardecay",
    "wide_resnet50_2_stodepth_lineardecay",
    "wide_resnet101_2_stodepth_lineardecay",
]

# torch.hub compares names letter by letter: these are the original project's.
resnet18_StoDepth_lineardecay = resnet18_stodepth_lineardecay  # noqa: N816
resnet34_StoDepth_lineardecay = resnet34_stodepth_lineardecay  # noqa: N816
resnet50_StoDepth_lineardecay = resnet50_stodepth_lineardecay  # noqa: N816
resnet101_StoDepth_lineardecay = resnet101_stodepth_lineardecay  # noqa: N816
resnet152_StoDepth_lineardecay = resnet152_stodepth_lineardecay  # noqa: N816
