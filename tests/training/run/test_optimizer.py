"""Optimizers and learning rates, against those of torch and timm."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR
from torchvision.models import convnext_tiny

import stodepth_models as sdm
from stodepth_models.training.config import OptimConfig
from stodepth_models.training.run.optimizer import make_optimizer

EPOCHS, STEPS = 10, 4


def rates(config, epochs=EPOCHS):
    """Learning rate before each step of a run and after the last."""
    optimizer, scheduler = make_optimizer(nn.Linear(2, 2), config, epochs, STEPS)
    return stepped(optimizer, scheduler, epochs * STEPS)


def stepped(optimizer, scheduler, steps, done=0):
    found = [optimizer.param_groups[0]["lr"]]
    for number in range(done + 1, done + steps + 1):
        optimizer.step()
        if isinstance(scheduler, LRScheduler):
            scheduler.step()
        else:
            scheduler.step_update(number)
            if number % STEPS == 0:
                scheduler.step(number // STEPS)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def of_torch(make, steps=EPOCHS * STEPS):
    optimizer = SGD(nn.Linear(2, 2).parameters(), lr=0.2)
    return stepped(optimizer, make(optimizer), steps)


def test_a_cosine_is_that_of_torch():
    found = rates(OptimConfig(lr=0.2, schedule="cosine"))
    assert found == pytest.approx(of_torch(lambda optimizer: CosineAnnealingLR(optimizer, EPOCHS * STEPS)), abs=1e-12)
    assert (found[0], found[20], found[40]) == pytest.approx((0.2, 0.1, 0.0))


def test_steps_are_those_of_torch():
    found = rates(OptimConfig(lr=0.2, schedule="step", milestones=(5, 8), gamma=0.5))
    assert found == pytest.approx(of_torch(lambda optimizer: MultiStepLR(optimizer, [5 * STEPS, 8 * STEPS], gamma=0.5)))
    assert (found[19], found[20], found[31], found[32]) == pytest.approx((0.2, 0.1, 0.1, 0.05))


def test_one_cycle_rises_on_a_line_and_falls_on_a_cosine_as_those_of_torch():
    found, steps = rates(OptimConfig(lr=0.2, schedule="onecycle")), EPOCHS * STEPS
    peak = 3 * STEPS  # of torch's total, the last step included, so that both end at the same step
    cycle = {"max_lr": 0.2, "total_steps": steps + 1, "pct_start": (peak + 1) / (steps + 1), "div_factor": 25}
    cycle |= {"final_div_factor": 1e12, "cycle_momentum": False}
    line = of_torch(lambda optimizer: OneCycleLR(optimizer, anneal_strategy="linear", **cycle))
    cosine = of_torch(lambda optimizer: OneCycleLR(optimizer, anneal_strategy="cos", **cycle))
    assert found == pytest.approx(line[:peak] + cosine[peak:], abs=1e-9)
    assert (found[0], found[6], found[peak], found[-1]) == pytest.approx((0.008, 0.104, 0.2, 0.0))


def test_a_constant_rate_stays():
    assert rates(OptimConfig(lr=0.2, schedule="constant")) == [0.2] * (EPOCHS * STEPS + 1)


@pytest.mark.parametrize("schedule", ["step", "cosine", "onecycle", "constant"])
def test_a_warm_up_has_its_own_rate_and_the_schedule_its_own_time(schedule):
    config = OptimConfig(lr=0.2, schedule=schedule, milestones=(5,), warmup_epochs=2, warmup_lr=0.03)
    plain = rates(dataclasses.replace(config, warmup_epochs=0))
    assert rates(config) == pytest.approx([0.03] * (2 * STEPS) + plain[2 * STEPS :])


@pytest.mark.parametrize(("nesterov", "dampening"), [(True, 0.0), (False, 0.25)])
def test_the_optimizer_has_the_settings_and_leaves_out_what_is_frozen(nesterov, dampening):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    config = OptimConfig(lr=0.2, momentum=0.8, nesterov=nesterov, dampening=dampening, weight_decay=3e-4)
    optimizer, _ = make_optimizer(model, config, EPOCHS, STEPS)
    (group,) = optimizer.param_groups
    given = {key: group[key] for key in ("initial_lr", "momentum", "nesterov", "dampening", "weight_decay")}
    assert given == {"initial_lr": 0.2, "momentum": 0.8, "nesterov": nesterov, "dampening": dampening,
                     "weight_decay": 3e-4}  # fmt: skip
    assert group["params"] == list(model[1].parameters())


@pytest.mark.parametrize(("on_updates", "expected"), [(True, (0.05, 0.1, 0.1, 0.0)), (False, (0.0, 0.1, 0.1, 0.0))])
def test_timm_warms_up_on_a_line_and_falls_on_a_cosine(on_updates, expected):
    config = OptimConfig(
        lr=0.2, opt="adamw", sched="cosine", warmup_epochs=2, warmup_lr=1e-9, sched_on_updates=on_updates
    )
    found = rates(config)
    # Within the first epoch; at the end of the warm-up, where the cosine counts from the start of the run; half-way.
    of_cosine = 0.1 * (1 + math.cos(math.pi * 0.2))
    assert (found[2], found[4], found[8]) == pytest.approx((expected[0], expected[1], of_cosine), abs=1e-6)
    assert (found[20], found[40]) == pytest.approx(expected[2:], abs=1e-6)
    assert len(set(found[4:8])) == (4 if on_updates else 1)


def test_a_schedule_of_timm_goes_on_where_it_was_saved():
    config = OptimConfig(lr=0.2, opt="adamw", sched="cosine", sched_on_updates=True)
    whole = rates(config)
    optimizer, scheduler = make_optimizer(nn.Linear(2, 2), config, EPOCHS, STEPS)
    stepped(optimizer, scheduler, 7)
    saved = optimizer.state_dict(), scheduler.state_dict()
    optimizer, scheduler = make_optimizer(nn.Linear(2, 2), config, EPOCHS, STEPS)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert stepped(optimizer, scheduler, EPOCHS * STEPS - 7, 7) == whole[7:]


def test_norms_and_biases_do_not_decay():
    model = sdm.cifar_resnet20_stodepth_lineardecay()
    model.conv1.requires_grad_(False)
    optimizer, _ = make_optimizer(model, OptimConfig(opt="adamw", weight_decay=0.3, opt_betas=(0.8, 0.9)), 1, 1)
    decays = {id(tensor): group["weight_decay"] for group in optimizer.param_groups for tensor in group["params"]}
    assert set(decays) == {id(tensor) for tensor in model.parameters() if tensor.requires_grad}
    for tensor in model.parameters():
        assert decays.get(id(tensor), 0.0) == (0.3 if tensor.ndim > 1 and tensor.requires_grad else 0.0)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


def lr_by_name(model, **settings):
    config = OptimConfig(lr=1.0, opt="adamw", layer_decay=0.5, **settings)
    optimizer, _ = make_optimizer(model, config, EPOCHS, STEPS)
    found = {id(tensor): group["lr"] for group in optimizer.param_groups for tensor in group["params"]}
    return {name: found[id(tensor)] for name, tensor in model.named_parameters()}


@pytest.mark.parametrize("sched", [None, "cosine"])
def test_each_block_learns_half_as_fast_as_the_next_one(sched):
    found = lr_by_name(sdm.cifar_resnet20_stodepth_lineardecay(), sched=sched)
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer2.0.bn2.bias", "layer3.2.conv2.weight", "fc.weight"]
    assert [found[name] for name in names] == [2.0**-10, 2.0**-9, 2.0**-6, 2.0**-1, 1.0]
    assert found["bn1.bias"] == found["conv1.weight"]


def test_the_layers_of_other_models_of_torchvision_are_found_too():
    with torch.device("meta"):
        found = lr_by_name(convnext_tiny())
    assert found["classifier.2.weight"] == 1.0
    assert found["features.7.2.block.0.weight"] == 0.5
    assert found["features.0.0.weight"] == min(found.values()) < 2.0**-10


def test_a_step_under_layer_decay_is_the_step_of_adamw_scaled():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    vars(model)["group_matcher"] = lambda coarse: {"layers": r"^(\d+)"}
    before = [layer.weight.detach().clone() for layer in model]
    config = OptimConfig(lr=0.1, opt="adamw", layer_decay=0.25, weight_decay=0.5, schedule="constant")
    optimizer, _ = make_optimizer(model, config, EPOCHS, STEPS)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for layer, weight, rate in zip(model, before, (0.025, 0.1), strict=True):
        # The first step of Adam is the sign of the gradient.
        expected = weight * (1 - rate * 0.5) - rate * layer.weight.grad.sign()
        torch.testing.assert_close(layer.weight.detach(), expected)


def test_layer_decay_needs_an_optimizer_of_timm():
    with pytest.raises(ValueError, match=r"add optim\.opt=sgd"):
        OptimConfig(layer_decay=0.5)
