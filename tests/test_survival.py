"""Depth rules against their formulas, and what reads and sets probabilities."""

import copy

import numpy as np
import pytest
import timm
import torch

from stodepth_models import (
    cifar_resnet20_stodepth_lineardecay,
    linear_decay,
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


@pytest.mark.parametrize("value", [torch.tensor(0.25), torch.tensor([0.25]), np.float32(0.25), np.array(0.25)])
def test_numbers_of_torch_and_numpy_are_taken_for_all_blocks(value):
    model = cifar_resnet20_stodepth_lineardecay()
    set_survival_probs(model, value)
    assert survival_probs(model) == [0.25] * 9


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


def test_numbers_of_numpy_are_numbers():
    assert linear_decay(np.int64(3), np.float32(1.0), np.float32(0.5)) == [1.0, 0.75, 0.5]
    model = cifar_resnet20_stodepth_lineardecay()
    set_survival_probs(model, np.linspace(1, 0.5, 9, dtype=np.float32))
    assert survival_probs(model)[4] == 0.75
    assert type(survival_probs(model)[4]) is float
