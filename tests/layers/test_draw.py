"""Frequency, size and reproducibility of the gates."""

import math

import pytest
import torch

from stodepth_models.layers.draw import count_rows, draw_batch, draw_rows, dropped_runs


def _mask(rows, batch):
    mask = torch.zeros(batch, dtype=torch.bool)
    for part in [rows] if isinstance(rows, torch.Tensor) else rows:
        mask[part] = True
    return mask


def _within_binomial_bound(frequency, survival_prob, draws):
    return abs(frequency - survival_prob) < 4 * math.sqrt(survival_prob * (1 - survival_prob) / draws)


@pytest.mark.parametrize("survival_prob", [0.1, 0.5, 0.9])
def test_batch_gates_survive_with_their_probability(survival_prob):
    torch.manual_seed(0)
    frequency = sum(draw_batch(survival_prob) for _ in range(4000)) / 4000
    assert _within_binomial_bound(frequency, survival_prob, 4000)


@pytest.mark.parametrize("mode", ["row", "subset"])
@pytest.mark.parametrize(
    ("batch", "survival_prob"), [(1, 0.3), (5, 0.5), (7, 0.83), (8, 0.75), (16, 0.06), (70, 0.97), (64, 0.8)]
)
def test_every_row_survives_with_its_probability(mode, batch, survival_prob):
    torch.manual_seed(0)
    draws = 3000
    frequency = sum(_mask(draw_rows(mode, survival_prob, batch), batch).double() for _ in range(draws)) / draws
    assert all(_within_binomial_bound(f, survival_prob, draws) for f in frequency.tolist())


def test_rows_are_independent_of_each_other():
    torch.manual_seed(0)
    masks = torch.stack([_mask(draw_rows("row", 0.5, 2), 2) for _ in range(4000)])
    assert _within_binomial_bound(masks.all(1).double().mean().item(), 0.25, 4000)


@pytest.mark.parametrize(("batch", "survival_prob"), [(8, 0.75), (7, 0.5), (16, 0.06), (3, 0.9)])
def test_a_subset_has_one_of_two_neighbouring_sizes_with_the_right_mean(batch, survival_prob):
    torch.manual_seed(0)
    sizes = torch.tensor([count_rows(draw_rows("subset", survival_prob, batch)) for _ in range(3000)]).double()
    exact = survival_prob * batch
    assert set(sizes.tolist()) <= {math.floor(exact), math.ceil(exact)}
    assert sizes.mean().item() == pytest.approx(exact, abs=0.04)


@pytest.mark.parametrize(
    ("batch", "survival_prob", "expected"),
    [(64, 0.75, {48}), (64, 0.8, {48, 56}), (128, 0.03, {0, 8}), (70, 0.97, {64, 70}), (63, 0.8, {50, 51})],
)
def test_large_batches_have_subsets_of_a_multiple_of_8_rows_with_the_right_mean(batch, survival_prob, expected):
    torch.manual_seed(0)
    sizes = torch.tensor([count_rows(draw_rows("subset", survival_prob, batch)) for _ in range(3000)]).double()
    assert set(sizes.tolist()) == expected
    assert sizes.mean().item() == pytest.approx(survival_prob * batch, abs=0.3)


@pytest.mark.parametrize(("batch", "survival_prob", "expected"), [(64, 0.5, 1.0), (64, 0.75, 0.5), (16, 13 / 16, 0.25)])
def test_subsets_start_where_few_of_them_wrap_around(batch, survival_prob, expected):
    torch.manual_seed(0)
    single = sum(len(draw_rows("subset", survival_prob, batch)) == 1 for _ in range(3000)) / 3000
    assert single == expected if expected == 1.0 else _within_binomial_bound(single, expected, 3000)


def test_a_subset_of_whole_size_is_one_window_of_exactly_that_size():
    assert {count_rows(draw_rows("subset", 0.5, 8)) for _ in range(100)} == {4}
    assert draw_rows("subset", 1.0, 8) == (slice(0, 8),)
    assert draw_rows("subset", 0.0, 8) == ()


def test_surviving_and_dropped_runs_make_up_the_batch():
    torch.manual_seed(0)
    for _ in range(200):
        rows = draw_rows("subset", 0.6, 7)
        assert all(run.start < run.stop for run in rows)
        assert torch.equal(_mask(dropped_runs(rows, 7), 7), ~_mask(rows, 7))


def test_the_default_cpu_generator_reproduces_gates_whatever_the_default_dtype_and_device():
    def draw():
        return [draw_batch(0.5) for _ in range(20)], draw_rows("row", 0.5, 64).tolist(), draw_rows("subset", 0.3, 9)

    torch.manual_seed(3)
    expected = draw()
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            assert draw() == expected
    finally:
        torch.set_default_dtype(torch.float32)
