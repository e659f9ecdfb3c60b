"""One step of a learner, against the formulas of timm and torch: averages, clipped gradients; compiled models."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy

import stodepth_models as sdm
from stodepth_models.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.errors import SettingsError
from stodepth_models.training.run.learner import Learner, check_timm

SETTINGS = TrainConfig(
    model=ModelConfig(prob_0_L=(1.0, 1.0)), batch_size=16,
    data=DataConfig(name="fake", fake_images=80, fake_classes=4, image_size=8),
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return load_data(SETTINGS.data)


def learner(data, optim, **changes):
    config = dataclasses.replace(SETTINGS, optim=OptimConfig(lr=0.5, schedule="constant", **optim), **changes)
    return Learner(config, config.model, Accelerator(cpu=True), data, steps_per_epoch=5)


def step(learner, number):
    learner.train()
    images, labels = torch.randn(8, 3, 8, 8), torch.randint(4, (8,))
    learner.accelerator.backward(cross_entropy(learner.model(images), labels))
    learner.step(number)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_follows_the_formula_of_timm(data, warmup):
    ours = learner(data, {"model_ema": True, "model_ema_decay": 0.75, "model_ema_warmup": warmup})
    step(ours, 1)
    first = {name: tensor.clone() for name, tensor in ours.bare.state_dict().items()}
    assert all(torch.equal(tensor, first[name]) for name, tensor in ours.ema.module.state_dict().items())
    step(ours, 2)
    decay = 1 - 2 ** (-2 / 3) if warmup else 0.75
    for name, tensor in ours.bare.state_dict().items():
        expected = tensor
        if tensor.is_floating_point():
            expected = decay * first[name] + (1 - decay) * tensor
        torch.testing.assert_close(ours.ema.module.state_dict()[name], expected)


def test_the_average_is_evaluated_with_the_survival_of_the_model(data):
    ours = learner(data, {"model_ema": True}, model=ModelConfig(prob_0_L=(1.0, 0.5)))
    sdm.set_survival_probs(ours.bare, 0.7)
    assert ours.evaluated is ours.ema.module
    assert sdm.survival_probs(ours.evaluated) == [0.7] * 9
    assert learner(data, {}).evaluated is not None
    assert "ema" not in learner(data, {}).parts()


@pytest.mark.parametrize("mode", ["norm", "value"])
def test_gradients_are_clipped_as_by_torch(data, mode):
    ours = learner(data, {"clip_grad": 0.01, "clip_mode": mode, "momentum": 0.0, "nesterov": False, "weight_decay": 0})
    before = [parameter.detach().clone() for parameter in ours.bare.parameters()]
    step(ours, 1)
    # Without momentum the step is the gradient, times the learning rate.
    gradients = [(old - new.detach()) / 0.5 for old, new in zip(before, ours.bare.parameters(), strict=True)]
    size = nn.utils.get_total_norm(gradients, 2.0 if mode == "norm" else float("inf"))
    assert size == pytest.approx(0.01, rel=1e-2)


def test_a_compiled_model_is_the_model(data, monkeypatch):
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: original(self, backend="eager"))
    plain, compiled = (learner(data, {"model_ema": True}, compile=compile) for compile in (False, True))
    for ours in (plain, compiled):
        torch.manual_seed(0)
        step(ours, 1)
    assert compiled.bare._compiled_call_impl is not None
    first, second = (ours.evaluated.state_dict() for ours in (plain, compiled))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("optim", {"opt": "adamv"}, r"given optim\.opt=adamv; did you mean adam\w*\?$"),
        ("optim", {"opt": "adamw", "opt_args": {"x": 1}}, r"'x', given optim\.opt=adamw, optim\.opt_args=\{'x': 1\}"),
        ("optim", {"opt": "adahessian"}, r"optim\.opt=adahessian"),
        ("optim", {"sched": "cosin"}, r"Unknown scheduler 'cosin', given optim\.sched=cosin; did you mean cosine\?$"),
        ("optim", {"sched": "plateau"}, r"optim\.sched=plateau is no schedule over epochs"),
        ("optim", {"sched": "cosine", "sched_args": {"cooldown_epochs": 3}}, "lasts 33 epochs"),
        ("data", {"aa": "rand-x9"}, r"RandAugment.*data\.aa=rand-x9"),
        ("data", {"aa": "ta-wide"}, r"data\.aa=ta-wide; policies are such as .* and ta_wide"),
        ("data", {"aa": "randaugment"}, r"^AssertionError, given data\.aa=randaugment; policies are such as rand-m9"),
        ("data", {"transform_args": {"hue": 1}}, "'hue'"),
    ],
)
def test_what_timm_does_not_know_is_refused_before_any_data_is_read(section, changes, message):
    config = dataclasses.replace(SETTINGS, **{section: dataclasses.replace(getattr(SETTINGS, section), **changes)})
    with pytest.raises(SettingsError, match=message):
        check_timm(config)


def test_layer_decay_is_no_reason_for_a_warning_of_the_check(caplog):
    check_timm(dataclasses.replace(SETTINGS, optim=OptimConfig(opt="adamw", layer_decay=0.5)))
    assert not caplog.records
