"""Stochastic depth on models that torchvision, timm and users built."""

import copy
import pickle
import re
from functools import partial

import pytest
import timm
import torch
import torchvision.models as tv
from torch import nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_fx
from torch.nn.functional import relu
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.convnext import CNBlock, CNBlockConfig, ConvNeXt
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.swin_transformer import SwinTransformerBlockV2
from torchvision.ops import StochasticDepth
from transformers import ResNetConfig, ResNetForImageClassification
from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

from stodepth_models import (
    StochasticDepthBlock,
    apply_stochastic_depth,
    cifar_resnet20_stodepth_lineardecay,
    expected_flops,
    recalibrate_bn,
    register_block,
    remove_stochastic_depth,
    set_survival_probs,
    survival_probs,
)
from stodepth_models.blocks.torchvision import StoDepthBottleneck
from stodepth_models.layers.residual import StochasticGate, StochasticResidual

BUILDERS = {
    "timm resnet50": partial(timm.create_model, "resnet50"),
    "timm seresnet50": partial(timm.create_model, "seresnet50", drop_path_rate=0.1, drop_block_rate=0.1),
    "timm resnet26d": partial(timm.create_model, "resnet26d"),
    "timm ecaresnet26t": partial(timm.create_model, "ecaresnet26t"),
    "timm resnetblur18": partial(timm.create_model, "resnetblur18"),
    "convnext_tiny": tv.convnext_tiny,
    "efficientnet_b0": tv.efficientnet_b0,
    "swin_t": tv.swin_t,
    "swin_v2_t": tv.swin_v2_t,
    "fcn_resnet50": partial(tv.segmentation.fcn_resnet50, weights=None, weights_backbone=None),
    "resnext50_32x4d": tv.resnext50_32x4d,
}
BLOCKS = dict(zip(BUILDERS, (16, 16, 8, 8, 8, 18, 9, 12, 12, 16, 16), strict=True))


class Unit(nn.Module):
    """A block as users write them: its own names, one of them ``residual``."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.residual = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x + self.residual(x))


class BareUnit(Unit):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residual(x)


register_block(BareUnit, branch=lambda block, x: block.residual(x))
register_block(
    Unit,
    branch=lambda block, x: block.residual(x),
    activation=lambda block, out: torch.tanh(out),
    last_norm=lambda block: block.residual[1],
)


def lively(model: nn.Module) -> nn.Module:
    """Random norms and layer scales: a zero-initialised branch would hide what happens to it."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.uniform_(module.bias, -0.2, 0.2, generator=generator)
        elif isinstance(module, CNBlock):
            nn.init.uniform_(module.layer_scale, 0.5, 1.0, generator=generator)
    return model.eval()


def small_resnet(block: type = Bottleneck, **kwargs) -> ResNet:
    torch.manual_seed(0)
    return lively(ResNet(block, [2, 1, 1, 1], num_classes=5, **kwargs))


def small_convnext() -> ConvNeXt:
    torch.manual_seed(0)
    return lively(
        ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], stochastic_depth_prob=0.5, num_classes=5)
    )


def small_net(*blocks: nn.Module) -> nn.Sequential:
    return lively(nn.Sequential(nn.Conv2d(3, 4, 3), *blocks))


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = model(x)
    return out["out"] if isinstance(out, dict) else out


def images(batch: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", BUILDERS)
def test_evaluation_keeps_its_logits_when_applied_and_when_removed(name):
    torch.manual_seed(0)
    model, x = lively(BUILDERS[name]()), images(size=64 if "swin" in name or "fcn" in name else 48)
    before, classes = logits(model, x), [type(m) for m in model.modules()]
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    assert apply_stochastic_depth(model, drop_rate=0.5) == BLOCKS[name]
    assert torch.equal(logits(model, x), before)
    assert list(model.state_dict()) == keys
    assert all(parameter is parameters[key] for key, parameter in model.named_parameters())
    remove_stochastic_depth(model)
    assert torch.equal(logits(model, x), before)
    assert [type(m) for m in model.modules()] == classes


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("timm resnet50", "fcn_resnet50")])
def test_removing_evaluation_scales_folds_them_into_the_weights(name):
    torch.manual_seed(0)
    model, x = lively(BUILDERS[name]()), images(size=64)
    recalibrate_bn(model, [x])  # or signals die out in a network that was never trained
    before = logits(model, x)
    apply_stochastic_depth(model, drop_rate=0.5, rescale="eval")
    scaled = logits(model, x)
    assert (scaled - before).abs().max() > 1e-2 * before.abs().max()
    remove_stochastic_depth(model)
    assert (logits(model, x) - scaled).abs().max() <= 1e-5 * max(1.0, scaled.abs().max().item())
    assert not any(isinstance(module, StochasticGate) for module in model.modules())


@pytest.mark.parametrize("method", ["block", "sample"])
def test_drop_rates_and_evaluation_scales_are_those_of_composer(method):
    model, x = small_resnet(), images()
    for i, block in enumerate(b for b in model.modules() if isinstance(b, Bottleneck)):
        rate = (i + 1) / 5 * 0.2  # Composer's block i of 5, and below its evaluation: `out * (1 - drop_rate)` after bn3
        block.bn3.register_forward_hook(lambda norm, args, out, rate=rate: out * (1 - rate))
    composer = logits(model, x)
    model = small_resnet()
    assert apply_stochastic_depth(model, "ResNetBottleneck", method, 0.2, "linear", None, rescale="eval") == 5
    assert survival_probs(model) == pytest.approx([1 - (i + 1) / 5 * 0.2 for i in range(5)], abs=1e-15)
    torch.testing.assert_close(logits(model, x), composer, rtol=0, atol=1e-6 * composer.abs().max().item())
    apply_stochastic_depth(model, "ResNetBottleneck", method, 0.2, "uniform", rescale="eval")
    assert survival_probs(model) == [0.8] * 5


@pytest.mark.parametrize(
    ("method", "mode"),
    [("block", "batch"), ("batch", "batch"), ("sample", "row"), ("row", "row"), ("subset", "subset")],
)
def test_methods_are_modes_of_the_gates(method, mode):
    model = small_resnet(BasicBlock)
    apply_stochastic_depth(model, stochastic_method=method, rescale="none", sync_gates=True)
    gates = [module for module in model.modules() if isinstance(module, StochasticResidual)]
    assert {(gate.mode, gate.rescale, gate.sync_gates) for gate in gates} == {(mode, "none", True)}
    assert not any(gate.training for gate in gates)  # as the model was


def test_a_second_call_replaces_the_settings():
    model, once, x = small_net(Unit(), Unit()), small_net(Unit(), Unit()), images()
    once.load_state_dict(model.state_dict())
    apply_stochastic_depth(model, stochastic_method="sample", drop_rate=0.9, rescale="eval")
    gates = [module for module in model.modules() if isinstance(module, StochasticGate)]
    assert apply_stochastic_depth(model, drop_rate=0.4) == 2
    assert [module for module in model.modules() if isinstance(module, StochasticGate)] == gates
    apply_stochastic_depth(once, drop_rate=0.4)
    assert repr(model) == repr(once)
    assert torch.equal(logits(model, x), logits(once, x))


@pytest.mark.parametrize("build", [small_resnet, small_convnext, lambda: small_net(Unit(), Unit())])
def test_drop_rate_zero_trains_bit_for_bit_alike(build):
    plain, model, x = build().train(), build().train(), images()
    for module in plain.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # which the call replaces
    model.load_state_dict(plain.state_dict())
    apply_stochastic_depth(model, drop_rate=0.0)
    for net in (plain, model):
        net(x).square().sum().backward()
    assert torch.equal(plain(x), model(x))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("name", ["timm resnet26d", "convnext_tiny", "efficientnet_b0", "swin_t", "fcn_resnet50"])
def test_a_dropped_block_computes_no_convolution(name):
    model = BUILDERS[name]().train()
    count = apply_stochastic_depth(model, drop_rate=1.0, drop_distribution="uniform")
    gated = [m for m in model.modules() if any(isinstance(child, StochasticResidual) for child in m.children())]
    assert len(gated) == count
    calls = []
    for block in gated:
        for part, module in block.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm)) and "downsample" not in part:
                module.register_forward_hook(lambda *_: calls.append(part))  # noqa: B023
    model(images(size=64))
    assert calls == []
    set_survival_probs(model, 1.0)
    model(images(size=64))
    assert len(calls) >= count


@pytest.mark.parametrize("training", [True, False])
def test_a_model_with_masks_stays_in_its_mode(training):
    model = small_convnext().train(training)
    apply_stochastic_depth(model, drop_rate=0.25)
    assert {module.training for module in model.modules()} == {training}
    remove_stochastic_depth(model)
    assert {module.training for module in model.modules()} == {training}


def test_gates_replace_the_masks_of_a_model_and_give_them_back():
    model = small_convnext()
    apply_stochastic_depth(model, drop_rate=0.25)
    assert "StochasticDepth(p" not in repr(model)
    assert "StochasticResidual(survival_prob=0.75, mode='batch', rescale='train')" in repr(model)
    assert not any(isinstance(module, StochasticDepth) for module in copy.deepcopy(model).modules())
    model.train()
    remove_stochastic_depth(model)
    masks = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    assert [mask.p for mask in masks] == pytest.approx([0.0, 0.5 / 3, 1.0 / 3, 0.5])
    assert all(mask.training for mask in masks)
    timm_model = timm.create_model("resnet10t", drop_path_rate=0.3)
    shown = repr(timm_model)
    apply_stochastic_depth(timm_model)
    remove_stochastic_depth(timm_model)
    assert repr(timm_model) == shown


@pytest.mark.parametrize("build", [small_resnet, small_convnext, lambda: small_net(Unit(), Unit())])
def test_stochastic_models_are_copied_pickled_and_saved(build, tmp_path):
    model, x = build(), images()
    before = model.state_dict()
    apply_stochastic_depth(model, drop_rate=0.3, rescale="eval")
    torch.save(model, tmp_path / "model.pt")
    others = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ]
    for other in others:
        assert torch.equal(logits(other, x), logits(model, x))
        assert survival_probs(other) == survival_probs(model)
        assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
    model.load_state_dict(before)
    build().load_state_dict(model.state_dict())
    remove_stochastic_depth(others[1])
    assert [type(m) for m in others[1].modules()] == [type(m) for m in build().modules()]


def test_an_optimizer_made_before_trains_on():
    model = small_resnet(BasicBlock).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(images()).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    apply_stochastic_depth(model, drop_rate=0.5, optimizers=optimizer)
    set_survival_probs(model, [0.0, 1.0, 1.0, 1.0, 1.0])
    frozen, moving = model.layer1[0].conv1.weight.clone(), model.layer1[1].conv1.weight.clone()
    model(images()).sum().backward()
    assert model.layer1[0].conv1.weight.grad is None
    optimizer.step()
    assert torch.equal(model.layer1[0].conv1.weight, frozen)
    assert not torch.equal(model.layer1[1].conv1.weight, moving)


def test_blocks_that_follow_each_other_dropped_do_not_break_autograd():
    bare = small_net(nn.ReLU(), BareUnit(), BareUnit(), nn.ReLU(inplace=True))
    for model in (bare, small_net(Unit(), Unit()), small_convnext(), small_resnet()):
        apply_stochastic_depth(model.train(), drop_rate=1.0, drop_distribution="uniform")
        model(images()).sum().backward()
        assert next(model.parameters()).grad is not None


def test_a_dropped_timm_block_leaves_the_output_before_it_untouched():
    model = lively(timm.create_model("resnet10t", act_layer="silu")).train()
    apply_stochastic_depth(model, drop_rate=1.0, drop_distribution="uniform")
    kept = []
    model.layer1[0].register_forward_pre_hook(lambda module, args: kept.append((args[0], args[0].clone())))
    model(images()).sum().backward()
    assert torch.equal(*kept[0])


@pytest.mark.parametrize("name", ["convnext", "swin_v2", "resnet", "efficientnet"])
@pytest.mark.parametrize("method", ["block", "sample"])
def test_the_dtype_under_autocast_does_not_follow_the_gates(name, method):
    builders = {"convnext": small_convnext, "resnet": small_resnet}
    model = builders[name]() if name in builders else BUILDERS[{"swin_v2": "swin_v2_t"}.get(name, "efficientnet_b0")]()
    model.train()
    blocks = (Bottleneck, CNBlock, SwinTransformerBlockV2, tv.efficientnet.MBConv)
    seen: list[torch.dtype] = []
    for module in model.modules():
        if isinstance(module, blocks):
            module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(images(size=64 if "swin" in name else 32))
    expected = list(seen)
    for survival_prob in (0.5, 1.0)[method == "block" :]:
        seen.clear()
        apply_stochastic_depth(model, stochastic_method=method, drop_rate=1.0 - survival_prob)
        set_survival_probs(model, survival_prob)
        torch.manual_seed(0)  # with these gates no branch is dropped for all rows
        with torch.autocast("cpu", torch.bfloat16):
            model(images(16, size=64 if "swin" in name else 32)).sum().backward()
        assert seen == expected


def test_swin_blocks_gate_both_of_their_residuals():
    block = tv.swin_t().features[1][0].train()
    assert apply_stochastic_depth(block, stochastic_method="row", drop_rate=0.5) == 1
    assert survival_probs(block) == [0.5, 0.5]
    attention, rows = [], torch.randn(8, 7, 7, 96)
    block.attn.register_forward_hook(lambda module, args, out: attention.append(len(out)))
    set_survival_probs(block, [0.5, 0.0])
    torch.manual_seed(0)
    out = block(rows)
    changed = (out != rows).flatten(1).any(1)
    assert attention == [changed.sum().item()]
    assert 0 < attention[0] < 8


@pytest.mark.parametrize(
    "build",
    [
        partial(tv.segmentation.deeplabv3_resnet50, weights=None, weights_backbone=None),
        partial(tv.detection.fasterrcnn_resnet50_fpn, weights=None, weights_backbone=None),
    ],
)
def test_backbones_of_segmentation_and_detection_are_found(build):
    model = build()
    assert apply_stochastic_depth(model, "Bottleneck", drop_rate=0.5, rescale="eval") == 16
    body = model.backbone.get_submodule("body") if hasattr(model.backbone, "body") else model.backbone
    assert survival_probs(body) == survival_probs(model)
    body.eval()
    before = body(images())
    remove_stochastic_depth(model)
    for key, features in body(images()).items():
        torch.testing.assert_close(features, before[key], rtol=1e-5, atol=1e-5)


def test_feature_extractors_see_blocks_as_leaves():
    for model, node in ((small_convnext(), "features.1.1"), (small_net(Unit(), Unit()), "2")):
        apply_stochastic_depth(model, drop_rate=0.5)
        extractor = create_feature_extractor(model, [node])
        assert any(n.op == "call_module" and n.target == node for n in extractor.graph.nodes)
        with torch.no_grad():
            assert extractor.eval()(images())[node].shape[0] == 2
    resnet = small_resnet()
    apply_stochastic_depth(resnet)
    assert IntermediateLayerGetter(resnet, {"layer1": "out"})(images())["out"].shape == (2, 256, 8, 8)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor"
)  # the compiler's own, which it cannot hide as error
def test_a_surgeried_model_compiles():
    torch.compiler.reset()
    model, x = small_net(Unit(), Unit()), images(4, 8)
    apply_stochastic_depth(model, drop_rate=0.5, rescale="eval")
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
    model.train()
    compiled, outputs = torch.compile(model, backend="eager"), []
    for net in (model, compiled):
        torch.manual_seed(0)
        outputs.append(torch.stack([net(x) for _ in range(6)]))
    torch.testing.assert_close(outputs[1], outputs[0])
    assert len({out.sum().item() for out in outputs[1]}) > 1


def test_a_block_of_another_library_is_registered_in_three_lines():
    register_block(
        ResNetBottleNeckLayer,
        branch=lambda block, x: block.layer(x),
        identity=lambda block, x: block.shortcut(x),
        activation=lambda block, out: block.activation(out),
        last_norm=lambda block: block.layer[-1].normalization,
    )
    torch.manual_seed(0)
    model = lively(ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2])))
    x = images()
    before = model(x).logits
    assert apply_stochastic_depth(model, ResNetBottleNeckLayer, drop_rate=0.5) == 4
    assert torch.equal(model(x).logits, before)
    blocks = [m for m in model.modules() if isinstance(m, ResNetBottleNeckLayer)]
    calls = []
    for block in blocks:
        block.layer.register_forward_hook(lambda *_: calls.append(1))
    set_survival_probs(model.train(), 0.0)
    model(x).logits.sum().backward()
    assert calls == []
    apply_stochastic_depth(model.eval(), rescale="eval", drop_rate=0.5)
    scaled = model(x).logits
    remove_stochastic_depth(model)
    torch.testing.assert_close(model(x).logits, scaled, rtol=0, atol=1e-5)


def test_a_registered_block_computes_its_formula():
    model, x = small_net(Unit()), images(64, 8)
    apply_stochastic_depth(model, stochastic_method="row", drop_rate=0.5)
    model.train()
    torch.manual_seed(0)
    stem, seen = model[0](x), []
    model[1].residual.register_forward_hook(lambda module, args, out: seen.append(out))
    out = model[1](stem)
    plain = torch.tanh(stem)
    kept = (out != plain).flatten(1).any(1)
    assert kept.sum() == len(seen[0])
    torch.testing.assert_close(out[kept], torch.tanh(stem[kept] + seen[0] / 0.5))
    assert torch.equal(out[~kept], plain[~kept])


class Crowded(nn.Module):
    """A block that has use for names that others may think are free."""

    original = connections = None

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.gate_names = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._forward_gated(self.gate_names(x))

    def _forward_gated(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gates(x).sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self._forward(x)


def test_names_in_a_registered_block_are_its_own():
    register_block(Crowded, branch=lambda block, x: block._forward(x))
    model, x = small_net(Crowded(), Crowded()), images()
    before = logits(model, x)
    assert apply_stochastic_depth(model, stochastic_method="row", drop_rate=0.5) == 2
    assert torch.equal(logits(model, x), before)
    assert torch.equal(logits(copy.deepcopy(model), x), before)
    model.train()(x).sum().backward()
    remove_stochastic_depth(model)
    assert torch.equal(logits(model.eval(), x), before)


class Twice(Unit): ...


def test_a_block_registered_anew_is_known_anew_to_changed_models_and_their_copies():
    register_block(Twice, branch=lambda block, x: 2 * block.residual(x), activation=lambda block, out: out.tanh())
    model, x = small_net(Twice()), images()
    before = logits(model, x)
    apply_stochastic_depth(model)
    assert not torch.equal(logits(model, x), before)
    register_block(Twice, branch=lambda block, x: block.residual(x), activation=lambda block, out: out.tanh())
    for stochastic in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model):
        assert torch.equal(logits(stochastic, x), before)
        assert type(stochastic[1]) is type(model[1])
        assert apply_stochastic_depth(stochastic, Twice) == 1
        remove_stochastic_depth(stochastic)
        assert torch.equal(logits(stochastic, x), before)


def test_flops_are_counted_behind_the_gates():
    model = small_convnext()
    full = expected_flops(model, (1, 3, 32, 32)).full
    apply_stochastic_depth(model, drop_rate=1.0, drop_distribution="uniform")
    counted = expected_flops(model, (1, 3, 32, 32))
    assert counted.full == full
    assert 0.0 < counted.share < 0.5


def test_models_of_this_package_become_plain():
    torch.manual_seed(0)
    model, x = lively(cifar_resnet20_stodepth_lineardecay()), images()
    before = logits(model, x)
    remove_stochastic_depth(model)
    assert {type(m) for m in model.modules() if isinstance(m, BasicBlock)} == {BasicBlock}
    torch.testing.assert_close(logits(model, x), before, rtol=0, atol=1e-5 * before.abs().max().item())
    assert apply_stochastic_depth(model, "BasicBlock", drop_rate=0.5) == 9


def test_only_the_target_is_changed():
    model = nn.Sequential(small_resnet().layer1, Unit(256), CNBlock(256, 1.0, 0.0))
    assert apply_stochastic_depth(model, CNBlock, drop_rate=0.5) == 1
    assert survival_probs(model) == [0.5]
    assert apply_stochastic_depth(model, "Unit", drop_rate=0.25) == 1
    assert survival_probs(model) == [0.75, 0.5]
    assert apply_stochastic_depth(model, StoDepthBottleneck, drop_rate=0.5) == 2
    assert apply_stochastic_depth(model, "StoDepthBottleneck", drop_rate=0.5) == 2
    assert survival_probs(model) == [0.75, 0.5, 0.75, 0.5]


def test_no_block_is_an_error_that_lists_what_was_seen():
    with pytest.raises(ValueError, match=r"SqueezeNet does not hold a known residual block; block classes seen: Fire;"):
        apply_stochastic_depth(tv.squeezenet1_1())
    with pytest.raises(
        ValueError, match=r"target_layer_name='Bottleneck'.*seen: BasicBlock; known: .*CNBlock.*register_block"
    ):
        apply_stochastic_depth(small_resnet(BasicBlock), "Bottleneck")
    with pytest.raises(ValueError, match="model must have known blocks with stochastic depth, got ResNet"):
        remove_stochastic_depth(small_resnet())


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, {"stochastic_method": "rows"}, "stochastic_method must be one of 'block', 'sample'.*'rows'"),
        (ValueError, {"drop_rate": 1.5}, r"drop_rate must be a probability in \[0, 1\], got 1.5"),
        (ValueError, {"drop_rate": float("nan")}, "drop_rate must be a probability"),
        (TypeError, {"drop_rate": "0.2"}, "drop_rate must be a probability"),
        (ValueError, {"drop_distribution": "cosine"}, "drop_distribution must be one of 'linear', 'uniform'"),
        (ValueError, {"rescale": "test"}, "rescale must be one of 'eval', 'train', 'none', got 'test'"),
        (TypeError, {"target_layer_name": 3}, "target_layer_name must be a class, the name of one, or None, got 3"),
        (TypeError, {"model": "resnet50"}, "model must be a torch.nn.Module, got str"),
    ],
)
def test_arguments_are_checked_before_any_block_changes(error, arguments, message):
    model = small_resnet(BasicBlock)
    with pytest.raises(error, match=message):
        apply_stochastic_depth(**{"model": model, **arguments})
    assert not any(isinstance(module, StochasticGate) for module in model.modules())


def test_a_block_whose_forward_has_been_replaced_is_refused():
    model = small_resnet(BasicBlock)
    model.layer2[0].forward = lambda x: x
    with pytest.raises(ValueError, match=r"layer2\.0 has a forward method of its own"):
        apply_stochastic_depth(model)
    assert type(model.layer1[0]) is BasicBlock
    del model.layer2[0].forward
    apply_stochastic_depth(model)
    block = model.layer2[0]
    block.forward = lambda x, inner=block.forward: inner(x)  # around the stochastic one: the gates stay in force
    assert apply_stochastic_depth(model, drop_rate=0.5) == 5
    with pytest.raises(ValueError, match=r"layer2\.0 has a forward .* undo what has replaced it"):
        remove_stochastic_depth(model)
    assert len(survival_probs(model)) == 5


class Halved(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


def parametrized_convnext() -> nn.Module:
    model = small_convnext()
    apply_stochastic_depth(model, drop_rate=0.2)
    nn.utils.parametrize.register_parametrization(model.features[1][0], "layer_scale", Halved())
    return model


def sharded_resnet() -> nn.Module:
    model = small_resnet(BasicBlock)
    apply_stochastic_depth(model, drop_rate=0.2)
    block = model.layer1[0]
    block.__class__ = type("FSDPBlock", (type(block),), {})  # what fully_shard does to the class of its module
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (parametrized_convnext, r"features\.1\.0 is a ParametrizedStoDepthCNBlock, made from StoDepthCNBlock"),
        (sharded_resnet, r"layer1\.0 is a FSDPBlock, made from StoDepthBasicBlock"),
    ],
)
def test_a_block_that_has_changed_its_class_since_keeps_it(build, message):
    model, x = build(), images()
    before, classes = logits(model, x), [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=rf"{message}.*: undo that .*or call remove_stochastic_depth before it"):
        remove_stochastic_depth(model)
    assert [type(m) for m in model.modules()] == classes
    count = apply_stochastic_depth(model, drop_rate=0.5)
    assert survival_probs(model) == pytest.approx([1 - 0.5 * (i + 1) / count for i in range(count)])
    assert torch.equal(logits(model, x), before)
    assert [type(m) for m in model.modules()] == classes


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.conv = StochasticResidual(0.5), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(self.conv, x, x)


def test_gates_in_classes_of_the_user_stay_and_are_named(caplog):
    model = small_net(ByHand(), StochasticDepthBlock(BasicBlock(4, 4), 0.5))
    stays = r"gates written by hand stay, at 1\.gate, 2$"
    with pytest.raises(ValueError, match=rf"must have known blocks with stochastic depth, got Sequential: {stays}"):
        remove_stochastic_depth(model)
    apply_stochastic_depth(model, "BasicBlock")
    remove_stochastic_depth(model)
    assert type(model[2].block) is BasicBlock
    assert survival_probs(model) == [0.5, 0.5]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("stodepth_models", "WARNING")
    assert re.search(stays, record.getMessage())


def test_namesakes_of_known_blocks_are_told_apart():
    class BasicBlock(nn.Sequential): ...

    with pytest.raises(ValueError, match=r"block classes seen: [\w.]+\.BasicBlock; known: BasicBlock"):
        apply_stochastic_depth(nn.Sequential(BasicBlock(nn.ReLU())))


def test_a_scale_that_no_weight_can_hold_is_refused_and_nothing_changes():
    torch.manual_seed(0)
    config = [tv.efficientnet.FusedMBConvConfig(1, 3, 1, 8, 8, 1), tv.efficientnet.FusedMBConvConfig(4, 3, 1, 8, 8, 1)]
    model, x = lively(tv.EfficientNet(config, dropout=0.0, num_classes=5, last_channel=16)), images()
    apply_stochastic_depth(model, drop_rate=0.5, rescale="eval")
    before = logits(model, x)
    with pytest.raises(
        ValueError,
        match=r"scale of features\.1\.0 cannot be folded .* ends in SiLU without a weight; .*, or leave the block out",
    ):
        remove_stochastic_depth(model)
    assert torch.equal(logits(model, x), before)
    apply_stochastic_depth(model)
    remove_stochastic_depth(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cls": Unit()}, "cls must be a subclass of torch.nn.Module"),
        ({"cls": int}, "cls must be a subclass of torch.nn.Module"),
        ({"branch": None}, "branch must be a function of the block and x, got None"),
        ({"identity": 1}, "identity must be a function of the block and x, got 1"),
        ({"last_norm": "bn2"}, "last_norm must be a function of the block, got 'bn2'"),
    ],
)
def test_register_block_checks_its_arguments(arguments, message):
    with pytest.raises(TypeError, match=message):
        register_block(**{"cls": Unit, "branch": lambda block, x: relu(x), **arguments})


@pytest.mark.parametrize("cls", [BasicBlock, timm.models.resnet.Bottleneck])
def test_blocks_that_are_known_are_not_described_anew(cls):
    with pytest.raises(ValueError, match=rf"{cls.__module__}\.{cls.__name__} is known already: register a subclass"):
        register_block(cls, branch=lambda block, x: x)


def test_loading_a_block_that_is_not_registered_says_so():
    from stodepth_models.blocks.registry import _rebuild

    with pytest.raises(ValueError, match=r"Linear is not registered: call register_block\(Linear, \.\.\.\)"):
        _rebuild(nn.Linear)


@pytest.mark.parametrize(("first", "changes"), [("train", False), ("eval", True)])
def test_a_second_call_that_changes_evaluation_says_so(first, changes, caplog):
    model = small_resnet()
    apply_stochastic_depth(model, rescale=first)
    assert not caplog.records
    apply_stochastic_depth(model, rescale="train")
    said = [record.getMessage() for record in caplog.records]
    assert [line[:60] for line in said] == ["ResNet computes something else in evaluation now: 5 branches"] * changes


@pytest.mark.parametrize("typo", ["ResNetBotleneck", "StoDepthBotleneck", "Bottlneck"])
def test_the_nearest_name_of_a_block_is_named(typo):
    near = {"R": "ResNetBottleneck", "S": "StoDepthBottleneck", "B": "Bottleneck"}[typo[0]]
    with pytest.raises(ValueError, match=rf"; did you mean {near}\?"):
        apply_stochastic_depth(small_resnet(), typo)


def test_what_is_no_model_and_no_flag_is_named():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        remove_stochastic_depth(3)
    with pytest.raises(TypeError, match="sync_gates must be True or False, got 'no'"):
        apply_stochastic_depth(small_resnet(), sync_gates="no")
    with pytest.raises(TypeError, match="sync_gates must be True or False, got 'no'"):
        StochasticResidual(sync_gates="no")


@pytest.mark.parametrize("target", ["ResNetBottleneck", "CNBlock", "basicblock"])
def test_a_block_class_that_is_not_there_is_answered_with_those_that_are(target):
    model = small_resnet(BasicBlock)
    with pytest.raises(ValueError, match=f"target_layer_name='{target}' among its known blocks: BasicBlock, StoDepthB"):
        apply_stochastic_depth(model, target)


class Attending(nn.Module):
    """A block whose ``forward`` takes more than ``x`` and returns a tuple-free tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, offset=None, scale=1.0):
        return x + self.branch_of(x, offset, scale)

    def branch_of(self, x, offset=None, scale=1.0):
        out = self.layer(x) * scale
        return out if offset is None else out + offset


class AttendingAnew(Attending): ...


@pytest.mark.parametrize("positional", [True, False])
@pytest.mark.parametrize("method", ["block", "sample", "subset"])
def test_arguments_beside_x_reach_the_branch_cut_to_the_surviving_rows(method, positional):
    register_block(
        Attending, lambda block, x, offset=None, scale=1.0: block.branch_of(x, offset, scale), per_sample=["offset"]
    )
    torch.manual_seed(0)
    model, x, offset = Attending().double(), torch.randn(8, 3, 4).double(), torch.randn(8, 1, 4).double()
    branch = model.branch_of(x, offset, 2.0)
    apply_stochastic_depth(model, stochastic_method=method, drop_rate=0.5)
    shares = set()
    for _ in range(12):
        out = model(x, offset, 2.0) if positional else model(x, scale=2.0, offset=offset)
        kept = (out != x).flatten(1).any(1)
        shares.add(kept.double().mean().item())
        torch.testing.assert_close(out, x + 2 * kept[:, None, None] * branch)
    assert len(shares) > 1 or method == "subset"
    torch.testing.assert_close(model.eval()(x, offset=offset, scale=2.0), x + branch)


def test_an_argument_of_which_nobody_knows_whether_it_has_rows_is_named():
    register_block(AttendingAnew, lambda block, x, offset=None, scale=1.0: block.branch_of(x, offset, scale))
    model, x = AttendingAnew(), torch.randn(3, 3, 4)
    apply_stochastic_depth(model, stochastic_method="sample", drop_rate=0.5)
    with pytest.raises(TypeError, match=r"offset of StoDepthAttendingAnew is as long as the batch of 3.*per_sample="):
        model(x, torch.randn(3, 4))
    register_block(
        AttendingAnew, lambda block, x, offset=None, scale=1.0: block.branch_of(x, offset, scale), shared=["offset"]
    )
    assert model(x, torch.randn(3, 4)).shape == x.shape


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("build", [small_resnet, lambda: small_net(Unit())])
def test_scripting_and_quantisation_say_what_to_call_first(build):
    model = build()
    apply_stochastic_depth(model)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script cannot compile gates: call to_torchvision\(model\)"):
        torch.jit.script(model)
    with pytest.raises(RuntimeError, match=r"FX quantisation does not see the layers of a StoDepth\w+: call to_torch"):
        prepare_fx(model.eval(), get_default_qconfig_mapping(), (images(),))
    remove_stochastic_depth(model)
    prepared = prepare_fx(model, get_default_qconfig_mapping(), (images(),))
    assert any("activation_post_process" in name for name, _ in prepared.named_modules())


@pytest.mark.parametrize(
    ("build", "rates"),
    [
        (small_convnext, [0.0, 0.5 / 3, 1.0 / 3, 0.5]),
        (partial(timm.create_model, "resnet10t", drop_path_rate=0.3), [0.0, 0.1, 0.2, 0.3]),
    ],
)
def test_without_a_rate_the_gates_have_those_of_the_masks(build, rates):
    model = build()
    for _ in range(2):  # the masks are remembered
        assert apply_stochastic_depth(model, stochastic_method="sample", drop_rate=None) == len(rates)
        assert survival_probs(model) == pytest.approx([1 - rate for rate in rates])
        apply_stochastic_depth(model, drop_rate=0.9)
    remove_stochastic_depth(model)
    masks = [m for m in model.modules() if type(m).__name__ in ("StochasticDepth", "DropPath")]
    assert [getattr(mask, "p", getattr(mask, "drop_prob", None)) for mask in masks] == pytest.approx(
        [rate for rate in rates if rate or isinstance(model, ConvNeXt)]
    )


@pytest.mark.parametrize("build", [small_resnet, partial(timm.create_model, "resnet10t")])
def test_without_a_rate_a_model_without_masks_is_refused(build):
    model = build()
    with pytest.raises(ValueError, match=r"drop_rate=None takes the rates.*ResNet carries none above 0"):
        apply_stochastic_depth(model, drop_rate=None)
    assert survival_probs(model) == []
