"""torchvision's families beside ResNet: what surgery finds, what it leaves as it was, and what training computes."""

import copy
from functools import partial

import pytest
import torch
from library_masks import Draws, freeze_norms, give_gates, give_masks, results
from randomised import randomise_norms
from timm.utils import ModelEmaV3
from torch import nn
from torchvision import models
from torchvision.models import maxvit
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.video.mvit import MSBlockConfig, MViT

import stodepth_models as sdm

MOBILE = partial(InvertedResidualConfig, dilation=1, width_mult=1.0)


def _mobile_v3():
    settings = [
        MOBILE(8, 3, 16, 8, True, "RE", 1),
        MOBILE(8, 3, 16, 12, False, "HS", 2),
        MOBILE(12, 5, 24, 12, True, "HS", 1),
    ]
    settings[0].input_channels = 8
    return models.MobileNetV3(settings, 16, num_classes=3)


def _maxvit(depth=0.5):
    return models.MaxVit((32, 32), 8, 4, [8, 16], [1, 2], 8, stochastic_depth_prob=depth, num_classes=3)


class OfImages(nn.Module):
    """A video network that gets an image as a film of four frames."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.unsqueeze(2).expand(-1, -1, 4, -1, -1))


def _mvit(*options):
    stages = [
        MSBlockConfig(1, 8, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    return OfImages(MViT((32, 32), 4, stages, *options, stochastic_depth_prob=0.5, num_classes=3))


# name: model without masks, number of blocks, module behind which a mask would be, by class
PLAIN = {
    "vit": (
        lambda: models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=3),
        3,
        {"EncoderBlock": ("dropout", "mlp")},
    ),
    "regnet_y": (
        lambda: RegNet(BlockParams([1, 2], [8, 16], [4, 8], [1.0, 1.0], [2, 2], 0.25), 3, stem_width=8),
        3,
        {"ResBottleneckBlock": ("f",)},
    ),
    "mobilenet_v2": (
        lambda: models.MobileNetV2(3, 0.25, [[1, 8, 2, 1], [2, 16, 3, 2]], dropout=0.0),
        4,
        {"InvertedResidual": ("conv",)},
    ),
    "mobilenet_v3": (_mobile_v3, 2, {"InvertedResidual": ("block",)}),
    "mnasnet": (lambda: models.MNASNet(0.2, 3, dropout=0.0), 10, {"_InvertedResidual": ("layers",)}),
}
# name: model with masks, number of blocks
MASKED = {
    "maxvit": (_maxvit, 9),
    "mvit_v1": (partial(_mvit, False, False, False, False), 2),
    "mvit_v2": (partial(_mvit, True, False, True, True), 2),
    "convnext": (lambda: ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], 0.5, num_classes=3), 4),
    "swin": (lambda: SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.5, num_classes=3), 4),
}
MODELS = {**{name: entry[:2] for name, entry in PLAIN.items()}, **MASKED}


def build(name):
    torch.manual_seed(0)
    model = randomise_norms(MODELS[name][0]()).double().eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, torch.randn(4, 3, 32, 32, dtype=torch.float64)


def square_of(out):
    return out.square().sum()


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_is_the_librarys_bit_for_bit(name):
    model, x = build(name)
    before, keys, kinds = model(x), list(model.state_dict()), [type(m) for m in model.modules()]
    assert sdm.apply_stochastic_depth(model, drop_rate=0.5) == MODELS[name][1]
    assert torch.equal(model(x), before)
    assert list(model.state_dict()) == keys
    sdm.remove_stochastic_depth(model)
    assert torch.equal(model(x), before)
    assert [type(m) for m in model.modules()] == kinds


@pytest.mark.parametrize("name", MODELS)
def test_removal_moves_an_evaluation_scale_into_the_weights(name):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=0.5, rescale="eval")
    scaled = model(x)
    sdm.remove_stochastic_depth(model)
    torch.testing.assert_close(model(x), scaled, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_training_is_that_of_masks_with_the_same_rows(name, monkeypatch):
    model, x = build(name)
    masked, drawn = Draws(4), Draws(4)
    twin = copy.deepcopy(model)
    give_masks(twin, masked, PLAIN[name][2] if name in PLAIN else None)
    rates = {"drop_rate": 0.5, "drop_distribution": "uniform"} if name in PLAIN else {"drop_rate": None}
    sdm.apply_stochastic_depth(model, stochastic_method="sample", **rates)
    give_gates(monkeypatch, drawn)
    expected = results(freeze_norms(twin.train()), x, square_of)
    actual = results(freeze_norms(model.train()), x, square_of)
    assert masked.count == drawn.count >= 2
    for key, value in zip(actual, expected.values(), strict=True):
        torch.testing.assert_close(actual[key], value, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_a_gate_for_the_batch_drops_the_whole_branch(name):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=1.0, drop_distribution="uniform")
    gates = [module for module in model.modules() if isinstance(module, sdm.StochasticResidual)]
    freeze_norms(model.train())
    model(x)
    assert [gate.last_share for gate in gates] == [0.0] * len(gates)
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)
    sdm.apply_stochastic_depth(model, drop_rate=0.5, drop_distribution="uniform")
    shares = set()
    for _ in range(4):
        model(x)
        shares.update(gate.last_share for gate in gates)
    assert shares == {0.0, 1.0}


@pytest.mark.parametrize("name", ["vit", "maxvit", "regnet_y"])
def test_evaluation_compiles_as_one_graph(name):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=0.5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("name", ["vit", "maxvit", "mobilenet_v3"])
def test_copies_for_averages_of_weights_keep_their_gates(name):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=0.5)
    average = ModelEmaV3(model, decay=0.5)
    average.update(model)
    assert torch.equal(average.module(x), model(x))
    assert sdm.survival_probs(average.module) == sdm.survival_probs(model)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_trains_and_keeps_the_shape(name):
    model, x = build(name)
    model.float().train()
    sdm.apply_stochastic_depth(model, stochastic_method="sample", drop_rate=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        out = freeze_norms(model)(x.float())
    out.float().square().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_blocks_of_one_name_are_told_apart_by_their_module():
    model = _maxvit()
    assert sdm.apply_stochastic_depth(model, maxvit.MBConv) == 3
    assert sdm.apply_stochastic_depth(model, "PartitionAttentionLayer", drop_rate=None) == 6
