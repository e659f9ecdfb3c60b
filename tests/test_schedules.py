"""Survival probabilities over training."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from stodepth_models import (
    StochasticDepthBlock,
    StochasticDepthProbabilitySchedulerLinear,
    SurvivalSchedule,
    apply_stochastic_depth,
    cifar_resnet20_stodepth_lineardecay,
    cifar_resnet110_stodepth_lineardecay,
    linear_decay,
    load_pretrained,
    survival_probs,
)


def model_of(p_0: float = 1.0, p_L: float = 0.5) -> nn.Module:
    return cifar_resnet20_stodepth_lineardecay(prob_0_L=(p_0, p_L), rescale="train")


def run(schedule: SurvivalSchedule, steps: int) -> list[list[float]]:
    seen = [schedule.get_last_probs()]
    for _ in range(steps):
        schedule.step()
        seen.append(schedule.get_last_probs())
    return seen


def test_the_model_goes_from_constant_depth_to_its_own_values_and_stays():
    model = model_of()
    end = survival_probs(model)
    schedule = SurvivalSchedule(model, 4)
    assert survival_probs(model) == [1.0] * 9
    for step in range(1, 8):
        schedule.step()
        done = min(step / 4, 1.0)
        assert survival_probs(model) == pytest.approx([1 - done * (1 - p) for p in end], abs=1e-15)
        assert schedule.get_last_probs() == survival_probs(model)
    assert survival_probs(model) == end


def test_a_share_of_the_training_is_the_warm_up_of_composer():
    model = model_of()
    apply_stochastic_depth(model, drop_rate=0.2)
    schedule = SurvivalSchedule(model, 100, share=0.1)
    for step in range(12):
        rate = min(step / (100 * 0.1), 1.0) * 0.2  # Composer: `(step / drop_warmup_iters) * drop_rate`
        expected = [1 - (i + 1) / 9 * rate for i in range(9)]
        assert survival_probs(model) == pytest.approx(expected, abs=1e-12)
        schedule.step()


@pytest.mark.parametrize(
    ("probs", "expected"),
    [
        (0.7, [0.7] * 9),
        ((0.9, 0.1), linear_decay(9, 0.9, 0.1)),
        ([0.1 * i for i in range(9)], [0.1 * i for i in range(9)]),
    ],
)
def test_start_and_end_are_one_probability_a_pair_or_a_list(probs, expected):
    model = model_of()
    schedule = SurvivalSchedule(model, 2, start=probs, end=0.0)
    assert survival_probs(model) == pytest.approx(expected)
    schedule = SurvivalSchedule(model, 2, end=probs)
    assert run(schedule, 3)[2:] == [pytest.approx(expected)] * 2
    assert schedule.start == [1.0] * 9


def test_one_block_takes_the_second_of_a_pair():
    block = nn.Identity()
    block.shortcut = nn.Identity()
    model = StochasticDepthBlock(block, 0.5)
    SurvivalSchedule(model, 1, start=(1.0, 0.25))
    assert survival_probs(model) == [0.25]


def test_a_curve_replaces_the_line_between_start_and_end():
    model = model_of(0.5, 0.5)
    schedule = SurvivalSchedule(model, 4, start=1.0, curve=lambda progress: (1 - math.cos(math.pi * progress)) / 2)
    values = [probs[0] for probs in run(schedule, 5)]
    assert values == pytest.approx(
        [1.0, 1 - 0.25 * (1 - math.sqrt(0.5)), 0.75, 1 - 0.25 * (1 + math.sqrt(0.5)), 0.5, 0.5]
    )
    schedule = SurvivalSchedule(model, 2, start=1.0, end=0.5, curve=lambda progress: 0.0)  # a jump: the ends hold
    assert [probs[0] for probs in run(schedule, 2)] == [1.0, 1.0, 0.5]
    schedule = SurvivalSchedule(model, 2, curve=lambda progress: 2.0)
    with pytest.raises(ValueError, match=r"curve\(0\.5\) must be a probability in \[0, 1\], got 2\.0"):
        schedule.step()


def test_a_resumed_schedule_equals_one_that_never_stopped():
    model = model_of()
    schedule = SurvivalSchedule(model, 10, start=0.9, share=0.5)
    for _ in range(3):
        schedule.step()
    state = json.loads(json.dumps(schedule.state_dict()))
    other = model_of(1.0, 1.0)
    resumed = SurvivalSchedule(other, 99)
    resumed.load_state_dict(state)
    assert survival_probs(other) == survival_probs(model)
    assert run(resumed, 5) == run(schedule, 5)


def test_a_schedule_changes_no_weight_and_draws_no_number():
    model = model_of()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    run(SurvivalSchedule(model, 3), 4)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, {"model": nn.Linear(1, 1)}, "model must have stochastic blocks, got Linear without any"),
        (ValueError, {"total_steps": 0}, "total_steps must be at least 1, got 0"),
        (TypeError, {"total_steps": 1.5}, "total_steps must be a whole number, got 1.5"),
        (ValueError, {"start": 1.5}, r"start must be a probability in \[0, 1\], got 1.5"),
        (ValueError, {"end": [0.5] * 3}, "end must hold a pair, or one probability for each of the 9 blocks, got 3"),
        (ValueError, {"share": 0.0}, "share must be above 0"),
        (ValueError, {"share": 1.5}, r"share must be a probability in \[0, 1\], got 1.5"),
        (TypeError, {"curve": 0.5}, "curve must be a function of the progress, or None, got 0.5"),
    ],
)
def test_arguments_are_checked(error, arguments, message):
    model = model_of()
    before = survival_probs(model)
    with pytest.raises(error, match=message):
        SurvivalSchedule(**{"model": model, "total_steps": 4, **arguments})
    assert survival_probs(model) == before


def test_probabilities_of_blocks_may_be_an_array():
    model = model_of()
    SurvivalSchedule(model, 4, start=np.linspace(1.0, 0.6, 9))
    assert survival_probs(model) == pytest.approx(linear_decay(9, 1.0, 0.6))
    with pytest.raises(TypeError, match="start must be a probability"):
        SurvivalSchedule(model, 4, start="0.5")


@pytest.mark.parametrize("number", [torch.tensor, np.float32, np.array, lambda value: np.float64(value)])
def test_probabilities_may_be_numbers_of_other_libraries(number):
    model = model_of()
    schedule = SurvivalSchedule(model, 2, start=number(0.75), end=(number(0.5), number(0.25)), share=number(1.0))
    assert survival_probs(model) == [0.75] * 9
    assert run(schedule, 2)[2] == linear_decay(9, 0.5, 0.25)
    assert all(type(value) is float for value in [schedule.share, *schedule.start, *schedule.end])
    with pytest.raises(ValueError, match=r"start must be a probability in \[0, 1\], got 1\.5"):
        SurvivalSchedule(model, 4, start=number(1.5))
    StochasticDepthProbabilitySchedulerLinear(number(1.0), number(0.5), max_epochs=2, model=model).step()


@pytest.mark.parametrize(
    ("rescale", "end", "warns"),
    [("eval", 0.5, True), ("eval", 1.0, False), ("train", 0.5, False), ("none", 0.5, False)],
)
def test_a_schedule_that_moves_the_evaluation_scale_says_so_once(rescale, end, warns, caplog):
    model = cifar_resnet20_stodepth_lineardecay(rescale=rescale)
    with caplog.at_level("WARNING", logger="stodepth_models"):
        run(SurvivalSchedule(model, 4, start=1.0, end=end), 4)
    assert ["build the model with rescale='train'" in message for message in caplog.messages] == [True] * warns
    caplog.clear()
    StochasticDepthProbabilitySchedulerLinear(1.0, end, max_epochs=2, model=model).step()
    assert len(caplog.messages) == warns


@pytest.mark.parametrize("moment", ["before", "at start", "on the way"])
@pytest.mark.parametrize("rescale", ["eval", "train"])
def test_the_average_of_a_scheduled_model_loads_to_the_function_that_was_trained(moment, rescale, tmp_path):
    torch.manual_seed(0)
    model, x = cifar_resnet20_stodepth_lineardecay(rescale=rescale), torch.randn(4, 3, 16, 16)
    average = AveragedModel(model) if moment == "before" else None
    schedule = SurvivalSchedule(model, 4)
    for step in range(4):
        if average is None and moment == ("at start", "", "on the way", "")[step]:
            average = AveragedModel(model)
        model.train()(x)
        schedule.step()
    average.update_parameters(model)
    average.module.load_state_dict({**average.module.state_dict(), **dict(model.named_buffers())})
    torch.save(average.state_dict(), tmp_path / "average.pth")
    for source in (average.state_dict(), tmp_path / "average.pth"):
        other = cifar_resnet20_stodepth_lineardecay(prob_0_L=(0.9, 0.8))
        load_pretrained(other, source)
        with torch.no_grad():
            torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [True, torch.tensor(True), "0.5", None, 1j])
def test_what_is_no_number_is_no_probability(value):
    with pytest.raises(TypeError, match="start must be a probability"):
        SurvivalSchedule(model_of(), 4, start=value)


def test_the_epoch_scheduler_resumes_before_its_first_step():
    schedule = StochasticDepthProbabilitySchedulerLinear(cur_epoch=4, max_epochs=6, model=model_of())
    other = model_of()
    StochasticDepthProbabilitySchedulerLinear(max_epochs=6, model=other).load_state_dict(schedule.state_dict())
    assert survival_probs(other)[0] == torch.linspace(1.0, 0.5, 6)[4].item()


def test_the_state_of_another_depth_is_refused():
    schedule = SurvivalSchedule(model_of(), 4)
    state = SurvivalSchedule(cifar_resnet110_stodepth_lineardecay(), 4).state_dict()
    with pytest.raises(ValueError, match="state_dict must be of a schedule of 9 blocks, got one of 54"):
        schedule.load_state_dict(state)


def test_the_epoch_scheduler_sets_one_value_of_a_linspace_at_each_step():
    model = model_of()
    schedule = StochasticDepthProbabilitySchedulerLinear(1.0, 0.5, 0, 6, model)
    assert survival_probs(model) == [1.0] * 9
    for epoch in range(8):
        schedule.step()
        expected = torch.linspace(1.0, 0.5, 6)[min(epoch, 5)].item()
        assert survival_probs(model) == schedule.get_last_probs() == [expected] * 9


def test_the_epoch_scheduler_starts_late_and_resumes():
    model = model_of()
    schedule = StochasticDepthProbabilitySchedulerLinear(cur_epoch=2, max_epochs=5, model=model)
    schedule.step()
    assert survival_probs(model)[0] == torch.linspace(1.0, 0.5, 5)[2].item()
    other = model_of()
    resumed = StochasticDepthProbabilitySchedulerLinear(max_epochs=5, model=other)
    resumed.load_state_dict(schedule.state_dict())
    assert survival_probs(other) == survival_probs(model)
    resumed.step()
    assert survival_probs(other)[0] == torch.linspace(1.0, 0.5, 5)[3].item()


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (ValueError, {"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        (TypeError, {"max_epochs": 2.0}, "max_epochs must be a whole number, got 2.0"),
        (TypeError, {"max_epochs": None}, "max_epochs must be a whole number, got None"),
        (TypeError, {"model": None}, r"model must be a torch\.nn\.Module, got None"),
        (ValueError, {"cur_epoch": -1}, "cur_epoch must be at least 0, got -1"),
        (ValueError, {"final_stoch_depth_probability": 2.0}, "final_stoch_depth_probability must be a probability"),
        (ValueError, {"stoch_depth_probability": -0.1}, "stoch_depth_probability must be a probability"),
        (ValueError, {"model": nn.Linear(1, 1)}, "model must have stochastic blocks"),
    ],
)
def test_arguments_of_the_epoch_scheduler_are_checked(error, arguments, message):
    with pytest.raises(error, match=message):
        StochasticDepthProbabilitySchedulerLinear(**{"max_epochs": 4, "model": model_of(), **arguments})
