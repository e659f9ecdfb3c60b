"""Bad calls: each names the argument, the value it got and what is allowed, before any work is done."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights, ResNet50_Weights

import stodepth_models as sdm
from stodepth_models.layers.drop_path import drop_path
from stodepth_models.layers.residual import StochasticResidual

resnet18, cifar20 = sdm.resnet18_stodepth_lineardecay, sdm.cifar_resnet20_stodepth_lineardecay
MODEL = cifar20()
PROBABILITY = r"must be a probability in \[0, 1\], got "

BAD_CALLS = [
    (lambda: resnet18(prob_0_L=(1.0, 1.5)), ValueError, "prob_0_L " + PROBABILITY + "1.5"),
    (lambda: resnet18(prob_0_L=(-0.1, 0.5)), ValueError, "prob_0_L " + PROBABILITY + "-0.1"),
    (lambda: resnet18(prob_0_L=(1.0, float("nan"))), ValueError, "prob_0_L " + PROBABILITY + "nan"),
    (lambda: resnet18(prob_0_L=(1.0, "0.5")), TypeError, "prob_0_L " + PROBABILITY + "'0.5' of type str"),
    (lambda: resnet18(prob_0_L=(True, 0.5)), TypeError, "prob_0_L " + PROBABILITY + "True of type bool"),
    (lambda: resnet18(prob_0_L=0.5), ValueError, "prob_0_L must be a pair of probabilities .* got 0.5"),
    (lambda: resnet18(prob_0_L=(1.0, 0.8, 0.5)), ValueError, r"prob_0_L must be a pair .* got \(1.0, 0.8, 0.5\)"),
    (lambda: resnet18(mode="rows"), ValueError, "mode must be one of 'batch', 'row', 'subset', got 'rows'"),
    (lambda: resnet18(multFlag=False), TypeError, r"resnet18\w+ takes no multFlag: use mult_flag"),
    (lambda: cifar20(stoch_depth_probability=0.5), TypeError, "takes no stoch_depth_probability: use prob_0_L="),
    (lambda: cifar20(drop_rate=0.2), TypeError, r"takes no drop_rate: use prob_0_L=\(1\.0, 1\.0 - drop_rate\)"),
    (lambda: resnet18(in_channels=1), TypeError, "takes no in_channels: use .* in place of model.conv1"),
    (lambda: resnet18(num_channels=1), TypeError, "takes no num_channels: use .* in place of model.conv1"),
    (lambda: resnet18(n_classes=3), TypeError, "takes no n_classes: use num_classes"),
    (lambda: sdm.survival_probs(3), TypeError, r"model must be a torch\.nn\.Module, got 3"),
    (lambda: sdm.SurvivalSchedule(3, 4), TypeError, r"model must be a torch\.nn\.Module, got 3"),
    (lambda: sdm.resnet18_StoDepth_lineardecay, AttributeError, "did you mean resnet18_stodepth_lineardecay"),
    (lambda: sdm.resnet20_cifar10, AttributeError, "did you mean cifar_resnet20_stodepth_lineardecay"),
    (lambda: sdm.ResNet110, AttributeError, "did you mean cifar_resnet110_stodepth_lineardecay"),
    (lambda: sdm.survival_prob, AttributeError, "did you mean survival_probs"),
    (lambda: resnet18(drop_connect_rate=0.2), TypeError, r"resnet18\w+ takes no drop_connect_rate: use prob_0_L="),
    (lambda: cifar20(pretrain=True), TypeError, r"cifar_resnet20\w+ takes no pretrain; did you mean pretrained"),
    (lambda: resnet18(num_clases=3), TypeError, r"resnet18\w+ takes no num_clases; did you mean num_classes"),
    (lambda: cifar20(dropout=0.1), TypeError, r"cifar_resnet20\w+ takes no dropout$"),
    (lambda: sdm.cifar_resnet_20_stodepth, AttributeError, r"no attribute 'cifar_resnet_20_stodepth'"),
    (lambda: resnet18(mode=None), ValueError, "mode must be one of 'batch', 'row', 'subset', got None"),
    (lambda: resnet18(rescale="test"), ValueError, "rescale must be one of 'eval', 'train', 'none', got 'test'"),
    (lambda: resnet18(depth_rule="linear"), ValueError, "depth_rule must be one of 'inclusive', 'paper', got 'linear'"),
    (lambda: resnet18(mult_flag="no"), TypeError, "mult_flag must be True or False, got 'no'"),
    (lambda: resnet18(mult_flag=False, rescale="eval"), ValueError, "mult_flag=False and rescale='eval'"),
    (lambda: resnet18(sync_gates=1), TypeError, "sync_gates must be True or False, got 1"),
    (lambda: resnet18("IMAGENET1K_V1"), TypeError, "pretrained must be True or False, got 'IMAGENET1K_V1'"),
    (lambda: resnet18(True, weights="IMAGENET1K_V1"), ValueError, "pretrained=True and weights"),
    (lambda: resnet18(weights="IMAGENET1K_V9"), ValueError, "IMAGENET1K_V9.*resnet18.*IMAGENET1K_V1"),
    (
        lambda: resnet18(weights=ResNet50_Weights.IMAGENET1K_V1),
        TypeError,
        "must come from ResNet18_Weights, got ResNet50",
    ),
    (lambda: resnet18(weights=3), TypeError, "weights must be a member of .* got 3 of type int"),
    (lambda: resnet18(weights=Path("nowhere.pth")), FileNotFoundError, "nowhere.pth"),
    (lambda: resnet18(weights="~nobody-here/net.pth"), FileNotFoundError, "no home folder is known for ~nobody-here"),
    (lambda: resnet18(weights="s3://bucket/net.pth"), ValueError, "begins with http, https, file or hf, got 's3://"),
    (lambda: resnet18(weights="https://[::1/net.pth"), ValueError, r"weights must be a URL, got 'https://\[::1/net"),
    (lambda: resnet18(weights="file:///proc/self/mem"), OSError, "/proc/self/mem"),
    (lambda: drop_path(None), TypeError, "x must be a tensor, got NoneType"),
    (lambda: sdm.fold_rescale(3), TypeError, r"model must be a torch\.nn\.Module, got int"),
    (lambda: resnet18(norm=None), TypeError, "norm"),
    (lambda: resnet18(drop_path_rate=0.1), TypeError, r"resnet18\w+ takes no drop_path_rate: use prob_0_L=\(1\.0, "),
    (lambda: cifar20(features_only=True), TypeError, "takes no features_only: use .*create_feature_extractor"),
    (
        lambda: sdm.resnext50_32x4d_stodepth_lineardecay(groups=64),
        ValueError,
        "groups of resnext50_32x4d is 32, got 64",
    ),
    (lambda: cifar20(shortcut="C"), ValueError, "shortcut must be one of 'A', 'B', got 'C'"),
    (lambda: sdm.cifar_resnet44_stodepth_lineardecay(pretrained=True), ValueError, "cifar_resnet44"),
    (lambda: cifar20(groups=2), TypeError, "groups"),
    (lambda: sdm.cifar_resnet18_stodepth_lineardecay(pretrained=True), ValueError, "cifar_resnet18"),
    (lambda: sdm.linear_decay(0), ValueError, "L must be a number of blocks, at least 1, got 0"),
    (lambda: sdm.linear_decay(2.5), ValueError, "L must be a number of blocks, at least 1, got 2.5"),
    (lambda: sdm.linear_decay(5, 1.2), ValueError, "p_0 " + PROBABILITY + "1.2"),
    (lambda: sdm.linear_decay(5, 1.0, -1), ValueError, "p_L " + PROBABILITY + "-1"),
    (lambda: sdm.linear_decay(5, rule="huang"), ValueError, "rule must be one of 'inclusive', 'paper', got 'huang'"),
    (lambda: sdm.uniform(3, 2.0), ValueError, "p " + PROBABILITY + "2.0"),
    (lambda: sdm.uniform(-1, 0.5), ValueError, "L must be a number of blocks, at least 1, got -1"),
    (lambda: sdm.set_survival_probs(MODEL, [0.5] * 8), ValueError, "each of the 9 blocks, got 8"),
    (lambda: sdm.set_survival_probs(MODEL, (1.0, 0.5)), ValueError, r"got 2; .* is linear_decay\(9, p_0, p_L\)"),
    (lambda: sdm.expected_flops(MODEL, 32), TypeError, r"input_size must be .* such as \(1, 3, 224, 224\), got 32"),
    (lambda: sdm.set_survival_probs(MODEL, 1.01), ValueError, "probs " + PROBABILITY + "1.01"),
    (lambda: sdm.set_survival_probs(MODEL, "half"), TypeError, "probs must be"),
    (lambda: sdm.set_survival_probs(nn.Linear(1, 1), 0.5), ValueError, "stochastic blocks, got Linear without any"),
    (lambda: StochasticResidual(1.5), ValueError, "survival_prob " + PROBABILITY + "1.5"),
    (lambda: StochasticResidual(None), TypeError, "survival_prob " + PROBABILITY + "None of type NoneType"),
    (lambda: StochasticResidual(0.5, "rows"), ValueError, "mode must be one of .* got 'rows'"),
    (lambda: StochasticResidual(0.5, rescale=True), ValueError, "rescale must be one of .* got True"),
    (lambda: sdm.StochasticDepthBlock(nn.Linear(1, 1), 0.5), TypeError, "shortcut or a downsample, got Linear"),
    (lambda: sdm.StochasticDepthBlock(nn.Module(), 7), ValueError, "stoch_depth_probability " + PROBABILITY + "7"),
    (lambda: sdm.DropPath(-0.5), ValueError, "p " + PROBABILITY + "-0.5"),
    (lambda: drop_path(torch.ones(2), 1.5), ValueError, "keep_prob " + PROBABILITY + "1.5"),
    (lambda: sdm.recalibrate_bn(MODEL, []), ValueError, "batches must hold at least one batch"),
    (lambda: sdm.load_pretrained(MODEL, {}), ValueError, "must hold named tensors"),
    (lambda: sdm.load_pretrained(MODEL, ResNet18_Weights.IMAGENET1K_V1), TypeError, "got ResNet18_Weights"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_calls_say_what_is_wrong(call, error, message, monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError("a bad call must fail before anything is downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(error, match=message):
        call()
