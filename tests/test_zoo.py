"""All 22 builders against torchvision, He et al. table 6, and the registry."""

import inspect
import time
from typing import get_args

import pytest
import torch
import torchvision
from torch.autograd import forward_ad
from torch.nn.functional import cross_entropy
from torchvision.models import WeightsEnum, get_model, get_model_builder, get_model_weights, list_models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import stodepth_models as sdm

IMAGENET = [
    *["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"],
    *["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"],
]
# He et al., arXiv:1512.03385, table 6, in millions
THIN = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}
WIDE = [18, 34, 50, 101, 152]
SIGNATURE = {
    "pretrained": False,
    "prob_0_L": (1.0, 0.5),
    "mult_flag": True,
    "weights": None,
    "progress": True,
    "mode": "batch",
    "rescale": None,
    "depth_rule": "inclusive",
    "sync_gates": False,
}


def _name(architecture):
    return f"{architecture}_stodepth_lineardecay"


def _cifar(depth):
    return _name(f"cifar_resnet{depth}")


def test_the_registry_holds_all_builders():
    thin, wide = [_cifar(depth) for depth in [*THIN, 164]], [_cifar(depth) for depth in WIDE]
    assert list_models(module=sdm) == sorted([_name(a) for a in IMAGENET] + thin + wide)
    assert get_model_builder(_name("resnet18")) is sdm.resnet18_stodepth_lineardecay


@pytest.mark.parametrize("name", list_models(module=sdm))
def test_the_signature_is_the_designed_one(name):
    parameters = inspect.signature(get_model_builder(name)).parameters
    thin = name.startswith("cifar") and name not in [_cifar(depth) for depth in WIDE]
    expected = {**SIGNATURE, "shortcut": "A"} if thin else SIGNATURE
    assert {k: p.default for k, p in parameters.items() if k != "kwargs"} == expected
    keyword_only = [k for k, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert keyword_only == list(expected)[3:]
    assert issubclass(get_model_weights(name), WeightsEnum)
    assert get_model_weights(name) in get_args(parameters["weights"].annotation)


@pytest.mark.parametrize("architecture", IMAGENET)
def test_keys_shapes_and_initialisation_are_torchvisions(architecture):
    with torch.device("meta"):  # no memory for 127 million parameters
        ours, theirs = get_model(_name(architecture)), get_model(architecture)
    assert isinstance(ours, torchvision.models.ResNet)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in theirs.state_dict().items()
    ]
    assert get_model_weights(_name(architecture)) is get_model_weights(architecture)


@pytest.mark.parametrize(
    ("architecture", "options"), [("resnet18", {}), ("resnext50_32x4d", {"zero_init_residual": True})]
)
def test_the_seed_gives_torchvisions_weights(architecture, options):
    models = []
    for name in (_name(architecture), architecture):
        torch.manual_seed(3)
        models.append(get_model(name, num_classes=7, **options).state_dict())
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_logits_loss_gradients_and_statistics_are_torchvisions(architecture):
    torch.manual_seed(0)
    theirs = get_model(architecture, num_classes=5)
    for options in ({"prob_0_L": (1.0, 1.0)}, {"mult_flag": False}):
        ours = get_model(_name(architecture), num_classes=5, **options)
        ours.load_state_dict(theirs.state_dict())
        x, y = torch.randn(2, 3, 64, 64), torch.tensor([1, 3])
        with torch.no_grad():
            assert torch.equal(ours.eval()(x), theirs.eval()(x))
    ours = get_model(_name(architecture), num_classes=5, prob_0_L=(1.0, 1.0))
    ours.load_state_dict(theirs.state_dict())
    losses = [cross_entropy(model.train()(x), y) for model in (ours, theirs)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())


@pytest.mark.parametrize(("depth", "millions"), THIN.items())
def test_parameter_counts_are_those_of_he_et_al(depth, millions):
    started = time.monotonic()
    model = get_model(_cifar(depth))
    assert time.monotonic() - started < 60  # a hang, not a benchmark
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert round(count, 1 if millions > 1 else 2) == millions
    assert len(sdm.survival_probs(model)) == (depth - 2) // 2


@pytest.mark.parametrize(("depth", "blocks"), [(164, 54), (18, 8), (34, 16), (50, 16), (101, 33), (152, 50)])
def test_the_other_cifar_models(depth, blocks):
    with torch.device("meta"):
        model = get_model(_cifar(depth))
        assert len(sdm.survival_probs(model)) == blocks
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
        if depth == 164:
            return
        theirs = get_model(f"resnet{depth}", num_classes=10).state_dict()
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes.pop("conv1.weight") == (64, 3, 3, 3)  # a 3x3 stem
    assert shapes == {key: value.shape for key, value in theirs.items() if key != "conv1.weight"}
    assert model.layer1(torch.empty(1, 64, 32, 32, device="meta")).shape[-1] == 32  # no max-pool


def test_the_builder_passes_on_what_the_gates_are_told():
    model = sdm.cifar_resnet20_stodepth_lineardecay(
        prob_0_L=(0.9, 0.3), mode="row", rescale="none", depth_rule="paper", sync_gates=True
    )
    assert sdm.survival_probs(model) == sdm.linear_decay(9, 0.9, 0.3, rule="paper")
    gates = [module for module in model.modules() if isinstance(module, sdm.StochasticResidual)]
    assert {(gate.mode, gate.rescale, gate.sync_gates) for gate in gates} == {("row", "none", True)}


def test_cifar_models_start_as_he_et_al_say():
    """Kaiming's normal distribution over the fan out, as torchvision's, and on request branches that start at zero."""
    model = sdm.cifar_resnet56_stodepth_lineardecay(zero_init_residual=True)
    widening = model.layer2[0].conv1.weight  # 16 to 32 channels: fan in and fan out differ
    assert widening.detach().std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    blocks = [module for module in model.modules() if isinstance(module, sdm.StoDepthBasicBlock)]
    assert not any(block.bn2.weight.any() for block in blocks)
    assert all(block.bn1.weight.eq(1).all() for block in blocks)
    assert sdm.cifar_resnet20_stodepth_lineardecay().layer1[0].bn2.weight.eq(1).all()


def test_shortcut_a_subsamples_and_pads_evenly_on_both_sides():
    shortcut = sdm.cifar_resnet20_stodepth_lineardecay().layer2[0].downsample
    x = torch.randn(2, 16, 6, 6).to(memory_format=torch.channels_last)
    out = shortcut(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert out[:, :8].abs().sum() == out[:, 24:].abs().sum() == 0
    assert out.shape == (2, 32, 3, 3)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert list(shortcut.parameters()) == []


def test_shortcut_b_projects_and_has_torchvisions_names():
    model = sdm.cifar_resnet20_stodepth_lineardecay(shortcut="B")
    keys = [key for key in model.state_dict() if "layer2.0" in key and "downsample" in key]
    assert keys[:2] == ["layer2.0.downsample.0.weight", "layer2.0.downsample.1.weight"]
    assert {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "fc.bias"} <= set(model.state_dict())


def test_resnet1202_trains_at_batch_4():
    model = sdm.cifar_resnet1202_stodepth_lineardecay(prob_0_L=(1.0, 0.0))
    loss = cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert loss.isfinite()
    assert model.layer1[0].conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
def test_extracted_features_stay_random_in_training(mode):
    torch.manual_seed(0)
    model = sdm.resnet18_stodepth_lineardecay(mode=mode)
    names = get_graph_node_names(model)[0]
    assert [name for name in names if name.startswith("layer2")] == ["layer2.0", "layer2.1"]
    extractor, x = create_feature_extractor(model, ["layer4.1", "fc"]).train(), torch.randn(4, 3, 32, 32)
    assert len({extractor(x)["layer4.1"].sum().item() for _ in range(8)}) > 1
    assert len({extractor.eval()(x)["fc"].sum().item() for _ in range(3)}) == 1
    getter = IntermediateLayerGetter(model.eval(), {"layer3": "out"})
    assert torch.equal(getter(x)["out"], create_feature_extractor(model, ["layer3"]).eval()(x)["layer3"])


@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
def test_a_frozen_stage_stays_frozen_and_a_batch_of_one_trains(mode):
    torch.manual_seed(0)
    model = sdm.cifar_resnet20_stodepth_lineardecay(mode=mode)
    model.layer2.requires_grad_(False)
    for _ in range(3):
        model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert all(p.grad is None for p in model.layer2.parameters())
    assert model.fc.weight.grad is not None
    model(torch.randn(1, 3, 4, 4)).sum().backward()  # the last stage is a 1x1 map: one value a channel


@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
def test_channels_last_and_autocast_reach_the_logits(mode):
    torch.manual_seed(0)
    model = sdm.cifar_resnet20_stodepth_lineardecay(mode=mode).to(memory_format=torch.channels_last)
    formats = []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(
            lambda _, inputs, out: formats.append((out.is_contiguous(memory_format=torch.channels_last), out.dtype))
        )
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last))
    assert set(formats) == {(True, torch.bfloat16)}


@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
def test_no_gate_reads_a_tensor_of_the_device(mode):
    with torch.device("meta"):  # tensors without values: reading one, as a synchronisation would, raises
        model = sdm.cifar_resnet20_stodepth_lineardecay(mode=mode, prob_0_L=(0.8, 0.3))
        for _ in range(4):
            model(torch.empty(8, 3, 32, 32)).sum().backward()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is")  # torch's own decompositions of forward mode
@torch.no_grad()
def test_scaled_evaluation_works_under_vmap_and_in_forward_mode():
    model, x = sdm.cifar_resnet20_stodepth_lineardecay().double().eval(), torch.randn(3, 2, 3, 8, 8).double()
    torch.testing.assert_close(torch.vmap(model)(x), torch.stack([model(images) for images in x]))
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(model(forward_ad.make_dual(x[0], torch.ones_like(x[0])))).tangent
    step = 1e-7
    torch.testing.assert_close(tangent, (model(x[0] + step) - model(x[0] - step)) / (2 * step), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "mode"), [("block", "batch"), ("sample", "row")])
def test_builders_take_the_methods_of_surgery_as_modes(method, mode):
    model = sdm.cifar_resnet20_stodepth_lineardecay(mode=method)
    gates = [module for module in model.modules() if isinstance(module, sdm.StochasticResidual)]
    assert [gate.mode for gate in gates] == [mode] * 9


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet20_StoDepth_lineardecay", "CIFAR_ResNet20"])
def test_the_registry_knows_names_of_other_forms(name):
    model = get_model(name, prob_0_L=(1.0, 0.75))
    assert sdm.survival_probs(model)[-1] == 0.75
    assert get_model_weights(name) is sdm.CifarResNet20_Weights
    assert name not in list_models(module=sdm)


@pytest.mark.parametrize(
    "pair", [[0.9, 0.4], torch.tensor([0.9, 0.4]).tolist(), (torch.tensor(0.9), torch.tensor([0.4]))]
)
def test_the_pair_of_probabilities_may_be_a_list_or_hold_tensors(pair):
    probs = sdm.survival_probs(sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=pair))
    assert [probs[0], probs[-1]] == pytest.approx([0.9, 0.4])


@pytest.mark.parametrize("count", [0, -1, "3", 2.5, True])
def test_a_number_of_classes_that_is_none_is_named(count):
    with pytest.raises((TypeError, ValueError), match=f"num_classes must be a whole number, at least 1, got {count!r}"):
        sdm.cifar_resnet20_stodepth_lineardecay(num_classes=count)
