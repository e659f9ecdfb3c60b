"""ResNets with stochastic depth (Huang et al., arXiv:1603.09382) that skip the work of dropped blocks for real."""

import sys
from typing import Any

from .blocks.fold import fold_rescale
from .blocks.registry import register_block
from .blocks.surgery import apply_stochastic_depth, remove_stochastic_depth, to_torchvision
from .blocks.torchvision import StoDepthBasicBlock, StoDepthBottleneck
from .checks import did_you_mean
from .cifar import (
    CifarResNet,
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
)
from .flops import expected_flops
from .layers.drop_path import DropPath, drop_path
from .layers.residual import StochasticResidual
from .layers.whole_block import StochasticDepthBlock
from .pruning import PrunedDepth, prune_depth
from .recalibration import recalibrate_bn
from .resnet import (
    StoDepthResNet,
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
from .schedules import StochasticDepthProbabilitySchedulerLinear, SurvivalSchedule
from .survival import linear_decay, set_survival_probs, survival_probs, uniform
from .uncertainty import MCPrediction, mc_predict
from .weights.errors import CheckpointError, DownloadError
from .weights.load import load_pretrained
from .weights.published import (
    CifarResNet18_Weights,
    CifarResNet20_Weights,
    CifarResNet32_Weights,
    CifarResNet34_Weights,
    CifarResNet44_Weights,
    CifarResNet50_Weights,
    CifarResNet56_Weights,
    CifarResNet101_Weights,
    CifarResNet110_Weights,
    CifarResNet152_Weights,
    CifarResNet164_Weights,
    CifarResNet1202_Weights,
)
from .weights.table import list_weights
from .zoo import SUFFIX, builder_hint

__all__ = [
    "CheckpointError",
    "CifarResNet",
    "CifarResNet18_Weights",
    "CifarResNet20_Weights",
    "CifarResNet32_Weights",
    "CifarResNet34_Weights",
    "CifarResNet44_Weights",
    "CifarResNet50_Weights",
    "CifarResNet56_Weights",
    "CifarResNet101_Weights",
    "CifarResNet110_Weights",
    "CifarResNet152_Weights",
    "CifarResNet164_Weights",
    "CifarResNet1202_Weights",
    "DownloadError",
    "DropPath",
    "MCPrediction",
    "PrunedDepth",
    "StoDepthBasicBlock",
    "StoDepthBottleneck",
    "StoDepthResNet",
    "StochasticDepthBlock",
    "StochasticDepthProbabilitySchedulerLinear",
    "StochasticResidual",
    "SurvivalSchedule",
    "apply_stochastic_depth",
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
    "drop_path",
    "expected_flops",
    "fold_rescale",
    "linear_decay",
    "list_weights",
    "load_pretrained",
    "mc_predict",
    "prune_depth",
    "recalibrate_bn",
    "register_block",
    "remove_stochastic_depth",
    "resnet18_stodepth_lineardecay",
    "resnet34_stodepth_lineardecay",
    "resnet50_stodepth_lineardecay",
    "resnet101_stodepth_lineardecay",
    "resnet152_stodepth_lineardecay",
    "resnext50_32x4d_stodepth_lineardecay",
    "resnext101_32x8d_stodepth_lineardecay",
    "resnext101_64x4d_stodepth_lineardecay",
    "set_survival_probs",
    "survival_probs",
    "to_torchvision",
    "uniform",
    "wide_resnet50_2_stodepth_lineardecay",
    "wide_resnet101_2_stodepth_lineardecay",
]

__version__ = "0.1.0"

# Pickles name a class by this package, so that modules can move. The builders keep their own modules: torchvision's
# list_models(module=stodepth_models) reads them.
for _name in __all__:
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__

# Pickles of version 0.1.0 name these modules.
for _old, _new in {
    "catalog": "weights.table",
    "cifar_network": "cifar",
    "errors": "weights.errors",
    "known_blocks": "blocks.registry",
    "published": "weights.published",
    "recipe": "weights.config",
    "stage": "layers.recompute",
    "whole_block": "layers.whole_block",
}.items():
    sys.modules[f"{__name__}.{_old}"] = sys.modules[f"{__name__}.{_new}"]
del _name, _old, _new


def __getattr__(name: str) -> Any:
    """Name what is meant by a name of the original project, such as ``resnet18_StoDepth_lineardecay``."""
    message = f"module {__name__!r} has no attribute {name!r}"
    if name.startswith("_"):
        raise AttributeError(message)
    hint = builder_hint(name, SUFFIX) or did_you_mean(name, __all__)
    raise AttributeError(f"{message}; {hint}" if hint else message)
