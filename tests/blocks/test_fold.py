"""Evaluation scales move into the weights, and the function stays."""

import pytest
import timm
import torch
import torchvision
from randomised import randomise_norms
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torchvision.ops import FrozenBatchNorm2d

import stodepth_models as sdm
from stodepth_models.blocks.fold import gated_blocks
from stodepth_models.weights.scales import fold_into, read_scales

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def tiny(**kwargs):
    torch.manual_seed(0)
    return randomise_norms(sdm.cifar_resnet20_stodepth_lineardecay(**kwargs)).eval()


@pytest.mark.parametrize("rescale", ["eval", "train", "none"])
def test_fold_rescale_keeps_class_parameters_and_outputs(rescale):
    model = tiny(rescale=rescale)
    before, parameters = model(X), [id(p) for p in model.parameters()]
    sdm.fold_rescale(model)
    torch.testing.assert_close(model(X), before, rtol=0, atol=1e-5)
    assert {gate.rescale for _, _, gate in gated_blocks(model)} == {"none"}
    assert type(model) is sdm.CifarResNet
    assert [id(p) for p in model.parameters()] == parameters
    assert sdm.survival_probs(model) == sdm.linear_decay(9)


def test_fold_rescale_multiplies_only_the_last_norm_of_a_branch():
    model, twin = tiny(prob_0_L=(0.5, 0.5)), tiny(prob_0_L=(0.5, 0.5))
    sdm.fold_rescale(model)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, twin.state_dict()[key])}
    assert changed == {f"{name}.bn2.{part}" for name, _, _ in gated_blocks(model) for part in ("weight", "bias")}
    assert torch.equal(model.layer2[1].bn2.weight, twin.layer2[1].bn2.weight * 0.5)


def test_fold_rescale_takes_other_norms_and_survival_zero():
    frozen = tiny(norm_layer=FrozenBatchNorm2d)
    groups = tiny(norm_layer=lambda channels: nn.GroupNorm(4, channels), prob_0_L=(1.0, 0.0))
    for model in (frozen, groups):
        before = model(X)
        sdm.fold_rescale(model)
        torch.testing.assert_close(model(X), before, rtol=0, atol=1e-5)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.conv = sdm.StochasticResidual(0.5), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.gate(self.conv, x, x)


def test_a_block_of_the_user_names_its_last_layer_in_an_attribute():
    model = nn.Sequential(Plain()).eval()
    before = model(X)
    with pytest.raises(ValueError, match=r"layer that is known; use .* in an attribute `last_norm` of the block"):
        sdm.fold_rescale(model)
    with pytest.raises(ValueError, match="the evaluation scale of the model cannot be folded"):
        sdm.fold_rescale(model[0])
    model[0].last_norm = model[0].conv
    sdm.fold_rescale(model)
    torch.testing.assert_close(model(X), before, rtol=0, atol=1e-5)


class PlainTwice(Plain):
    def __init__(self):
        super().__init__()
        self.second, self.last_norm = sdm.StochasticResidual(0.5), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = super().forward(x)
        return self.second(self.last_norm, x, x)


def test_one_last_norm_for_two_gates_is_refused():
    model = nn.Sequential(PlainTwice()).eval()
    before = model(X)
    for act in (lambda: sdm.fold_rescale(model), lambda: fold_into(model.state_dict(), model, {})):
        with pytest.raises(ValueError, match=r"scale of 0 cannot be folded.*2 gates.* give each a block of its own"):
            act()
        assert torch.equal(model(X), before)


def shared_norm(model):
    model.layer3[1].bn2 = model.layer3[2].bn2


def shared_weight(model):
    model.layer3[1].bn2.weight = model.layer3[2].bn2.weight


@pytest.mark.parametrize("share", [shared_norm, shared_weight])
@pytest.mark.parametrize("probs", [0.5, [1.0] * 8 + [0.5]], ids=["both", "one"])
def test_a_weight_that_scales_two_branches_is_refused(share, probs):
    model = tiny(prob_0_L=(1.0, 1.0))
    share(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    sdm.fold_rescale(model)  # nothing to scale
    for _, _, gate in gated_blocks(model):
        gate.rescale = "eval"
    sdm.set_survival_probs(model, probs)
    before = model(X)
    acts = [sdm.fold_rescale, sdm.remove_stochastic_depth, lambda model: sdm.load_pretrained(model, state)]
    for act in acts:
        with pytest.raises(ValueError, match=r"cannot be folded .* layer3\.[12] and layer3\.[12] share"):
            act(model)
        assert torch.equal(model(X), before)


def test_a_block_that_is_used_twice_folds_once():
    source, target = tiny(prob_0_L=(1.0, 1.0)), tiny(prob_0_L=(0.5, 0.5))
    for model in (source, target):
        model.layer3[1] = model.layer3[2]
    sdm.load_pretrained(target, source.state_dict())
    torch.testing.assert_close(target(X), source(X), rtol=0, atol=1e-4)
    sdm.fold_rescale(target)
    torch.testing.assert_close(target(X), source(X), rtol=0, atol=1e-4)


def test_a_gate_that_serves_two_branches_folds_both():
    model = nn.Sequential(Plain(), Plain()).eval()
    model[1].gate = model[0].gate
    for block in model:
        block.last_norm = block.conv
    before = model(X)
    sdm.fold_rescale(model)
    torch.testing.assert_close(model(X), before, rtol=0, atol=1e-5)


def test_a_branch_without_a_norm_is_refused_and_nothing_changes():
    model = tiny()
    model.layer3[2].bn2 = nn.BatchNorm2d(64, affine=False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"scale of layer3\.2 cannot be folded.*ends in BatchNorm2d without a weight"):
        sdm.fold_rescale(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {gate.rescale for _, _, gate in gated_blocks(model)} == {"eval"}


class Doubled(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


class Adapted(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.down, self.up = nn.Conv2d(channels, 1, 1), nn.Conv2d(1, channels, 1)

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


class Squeezed(sdm.StoDepthBasicBlock):
    def branch(self, x):
        return super().branch(x).tanh()


class SqueezedAndNamed(Squeezed):
    last_norm = sdm.StoDepthBasicBlock.last_norm


def parametrized(block):
    nn.utils.parametrize.register_parametrization(block.bn2, "weight", Doubled())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (parametrized, "ends in ParametrizedBatchNorm2d with parameters beside weight"),
        (lambda block: setattr(block, "bn2", Adapted(64)), "ends in Adapted with parameters beside weight and bias"),
        (lambda block: setattr(block, "__class__", Squeezed), "does not end in a layer that is known"),
    ],
    ids=["parametrized", "adapter", "subclass"],
)
def test_a_scale_that_the_last_weight_does_not_carry_alone_is_refused(change, reason):
    model = tiny()
    change(model.layer3[2])
    before = model(X)
    for act in (lambda: sdm.fold_rescale(model), lambda: sdm.load_pretrained(model, dict(model.state_dict()))):
        with pytest.raises(ValueError, match=rf"scale of layer3\.2 cannot be folded.*{reason}"):
            act()
        assert torch.equal(model(X), before)


def test_a_subclass_that_names_its_last_norm_is_believed():
    model = tiny()
    model.layer3[2].__class__ = SqueezedAndNamed
    before = model.layer3[2].bn2.weight.clone()
    sdm.fold_rescale(model)
    assert torch.equal(model.layer3[2].bn2.weight, before * 0.5)


def test_loading_keeps_the_function_of_blocks_in_checkpointing_wrappers():
    source, model = tiny(prob_0_L=(1.0, 1.0)), sdm.cifar_resnet20_stodepth_lineardecay()
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, sdm.StoDepthBasicBlock))
    sdm.load_pretrained(model, source.state_dict())
    torch.testing.assert_close(model.eval()(X), source(X), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "make", [lambda: timm.create_model("resnet18"), torchvision.models.resnet18, torchvision.models.swin_t]
)
def test_models_of_others_fold_and_load_too(make):
    torch.manual_seed(0)
    source, x = randomise_norms(make()).eval(), torch.randn(2, 3, 64, 64)
    target = make().eval()
    sdm.apply_stochastic_depth(target, drop_rate=0.5, rescale="eval")
    sdm.load_pretrained(target, source.state_dict())
    torch.testing.assert_close(target(x), source(x), rtol=0, atol=1e-4)
    sdm.fold_rescale(target)
    torch.testing.assert_close(target(x), source(x), rtol=0, atol=1e-4)


def test_scales_of_another_network_are_refused():
    with pytest.raises(ValueError, match="the source has 3 stochastic blocks, the model 9"):
        fold_into({}, tiny(), {"stage1.gate": 0.5, "stage2.gate": 0.5, "stage3.gate": 0.5})


def test_dividing_by_zero_is_refused_unless_the_source_did_not_use_the_branch():
    model = tiny(prob_0_L=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"layer3\.2 scales its branch by 1 in the source and by survival_prob=0 here"):
        sdm.load_pretrained(model, tiny(prob_0_L=(1.0, 1.0)).state_dict())
    state = model.state_dict()
    scales = read_scales(state)
    assert list(scales.values()) == sdm.survival_probs(model)
    assert fold_into(dict(state), model, scales).keys() == state.keys()
    revived = tiny(rescale="none")
    revived.load_state_dict(fold_into(dict(state), revived, scales))
    torch.testing.assert_close(revived(X), model(X), rtol=0, atol=1e-5)
