"""Depth rules against their formulas, and what reads, sets, counts and recalibrates."""

import copy

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet50
from torchvision.models.resnet import BasicBlock

from stodepth_models import (
    StochasticDepthBlock,
    apply_stochastic_depth,
    cifar_resnet20_stodepth_lineardecay,
    expected_flops,
    linear_decay,
    recalibrate_bn,
    resnet50_stodepth_lineardecay,
    set_survival_probs,
    survival_probs,
    uniform,
)


def test_the_inclusive_rule_is_timms():
    model = timm.create_model("resnet26", drop_path_rate=0.5)
    rates = [m.drop_path.drop_prob if m.drop_path else 0.0 for m in model.modules() if hasattr(m, "drop_path")]
    assert linear_decay(8, 1.0, 0.5) == pytest.approx([1 - rate for rate in rates])


@pytest.mark.parametrize("depth", [1, 2, 54])
def test_the_paper_rule_is_equation_4(depth):
    expected = [0.9 - block / depth * (0.9 - 0.4) for block in range(1, depth + 1)]
    assert linear_decay(depth, 0.9, 0.4, rule="paper") == pytest.approx(expected)


def test_the_ends_are_exact():
    for rule in ("inclusive", "paper"):
        for p_0, p_L in [(1.0, 0.1), (0.7, 0.3), (1.0, 0.0), (1.0, 1.0)]:
            probs = linear_decay(54, p_0, p_L, rule)
            assert probs[-1] == p_L
            assert all(0.0 <= p <= 1.0 for p in probs)
        assert linear_decay(1, 1.0, 0.5, rule) == [0.5]
    assert linear_decay(54, 0.7, 0.3)[0] == 0.7
    assert uniform(3, 0.2) == [0.2, 0.2, 0.2]


def test_get_and_set_follow_forward_order():
    model = cifar_resnet20_stodepth_lineardecay()
    assert survival_probs(model) == pytest.approx(linear_decay(9))
    before = copy.deepcopy(model.state_dict())
    set_survival_probs(model, [i / 10 for i in range(9)])
    assert [
        block.residual.survival_prob for stage in (model.layer1, model.layer2, model.layer3) for block in stage
    ] == [i / 10 for i in range(9)]
    with pytest.raises(TypeError, match="probs must be a probability in"):
        set_survival_probs(model, None)
    set_survival_probs(model, 0.25)
    assert survival_probs(model) == [0.25] * 9
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_refused_list_changes_nothing():
    model = cifar_resnet20_stodepth_lineardecay()
    before = survival_probs(model)
    with pytest.raises(ValueError, match=r"probs must be a probability in \[0, 1\], got 1\.5"):
        set_survival_probs(model, [0.1] * 8 + [1.5])
    assert survival_probs(model) == before


def test_expected_flops_of_resnet50_by_hand():
    model = resnet50_stodepth_lineardecay()
    share, training, full = expected_flops(model, (2, 3, 64, 64))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        resnet50()(torch.rand(2, 3, 64, 64))
    assert full == counter.get_total_flops()
    branch = sum(
        (1 - p) * sum(counter.get_flop_counts()[f"ResNet.{name}"].values())
        - (1 - p) * sum(counter.get_flop_counts().get(f"ResNet.{name}.downsample", {}).values())
        for p, (name, _) in zip(
            survival_probs(model), [(n, m) for n, m in model.named_modules() if hasattr(m, "residual")], strict=True
        )
    )
    assert training == pytest.approx(full - branch)
    assert share == training / full


@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
def test_expected_flops_is_the_mean_of_what_training_executes(mode):
    torch.manual_seed(0)
    model = cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.9, 0.3), mode=mode)
    x, total = torch.rand(4, 3, 8, 8), 0
    for _ in range(150):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        total += counter.get_total_flops()
    assert total / 150 == pytest.approx(expected_flops(model, x.shape).training, rel=0.05)


class _Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.shortcut, self.conv = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x) + self.shortcut(x)


def test_expected_flops_calls_no_hook_of_the_user():
    model, seen = cifar_resnet20_stodepth_lineardecay(), []
    before = expected_flops(model, (1, 3, 32, 32))
    model.layer1.register_forward_hook(lambda module, inputs, out: seen.append(out.mean().item()))
    assert expected_flops(model, (1, 3, 32, 32)) == before
    assert seen == []
    model.eval()(torch.randn(1, 3, 32, 32))
    assert len(seen) == 1


def test_expected_flops_of_whole_blocks_and_of_survival_0():
    flops = expected_flops(StochasticDepthBlock(_Projected(), 0.25), (1, 3, 4, 4))
    shortcut, conv = 2 * 16 * 3 * 3, 2 * 16 * 3 * 3 * 9
    assert (flops.full, flops.training) == (shortcut + conv, shortcut + 0.25 * conv)
    model = cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.0, 0.0))
    twin = cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0))
    assert expected_flops(model, (1, 3, 32, 32)).full == expected_flops(twin, (1, 3, 32, 32)).full
    assert model.training


def test_expected_flops_of_a_gate_within_a_gate():
    model = nn.Sequential(StochasticDepthBlock(BasicBlock(3, 3), 0.5))
    assert apply_stochastic_depth(model, drop_rate=0.8) == 1
    flops = expected_flops(model, (1, 3, 4, 4))
    assert survival_probs(model) == [0.5, pytest.approx(0.2)]
    assert flops.share == pytest.approx(0.5 * 0.2)


def test_recalibration_is_the_mean_over_batches_at_full_depth():
    torch.manual_seed(0)
    model = cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.5, 0.1)).train()
    model.layer1[0].eval()
    batches = [torch.rand(4, 3, 8, 8) for _ in range(3)]
    before = torch.get_rng_state()
    recalibrate_bn(model, [batches[0], (batches[1], torch.zeros(4)), [batches[2]]])
    assert torch.equal(torch.get_rng_state(), before)
    stem = torch.stack([model.conv1(batch).mean((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, stem)
    assert model.layer3[2].bn2.num_batches_tracked == 3
    assert model.bn1.momentum == 0.1
    assert model.layer3.training
    assert not model.layer1[0].training
    first = copy.deepcopy(model.state_dict())
    recalibrate_bn(model, batches)
    assert all(torch.equal(first[key], value) for key, value in model.state_dict().items())


def test_recalibration_that_fails_changes_nothing():
    model = cifar_resnet20_stodepth_lineardecay()
    model(torch.rand(2, 3, 8, 8))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="channels"):
        recalibrate_bn(model, [torch.rand(2, 3, 8, 8), torch.rand(2, 4, 8, 8)])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.bn1.momentum == 0.1


def test_recalibration_without_batches_changes_nothing():
    model = cifar_resnet20_stodepth_lineardecay()
    model(torch.rand(2, 3, 8, 8))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        recalibrate_bn(model, [])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
