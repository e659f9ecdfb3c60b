"""Expected FLOPs, by hand and beside what training executes."""

import pytest
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
    resnet50_stodepth_lineardecay,
    survival_probs,
)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_flops_do_not_depend_on_the_dtype_of_the_weights(dtype):
    model = StochasticDepthBlock(_Projected(), 0.5)
    assert expected_flops(model.to(dtype), (2, 3, 8, 8)) == expected_flops(model.float(), (2, 3, 8, 8))


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


@pytest.mark.parametrize("wrap", [nn.Sequential, lambda block: block], ids=["part of a model", "the model itself"])
def test_expected_flops_of_a_gate_within_a_gate(wrap):
    model = wrap(StochasticDepthBlock(BasicBlock(3, 3), 0.5))
    assert apply_stochastic_depth(model, drop_rate=0.8) == 1
    flops = expected_flops(model, (1, 3, 4, 4))
    assert survival_probs(model) == [0.5, pytest.approx(0.2)]
    assert flops.share == pytest.approx(0.5 * 0.2)
