"""The arithmetic on rows against the plain formula, in values and gradients."""

import pytest
import torch

from stodepth_models.layers.rows import add_rows, select_rows, take_rows

WINDOWS = [
    (size, rows)
    for size in range(1, 8)
    for rows in [
        (slice(0, 1),),
        (slice(0, size),),
        (slice(size // 2, size),),
        (slice(0, size // 3), slice(size // 2, size)),
        torch.arange(0, size, 2),
        torch.arange(size)[: max(1, size // 2)],
    ]
    if isinstance(rows, torch.Tensor) or all(run.start < run.stop for run in rows)
]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "every second": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
}


def _indices(rows, size):
    return rows if isinstance(rows, torch.Tensor) else torch.cat([torch.arange(size)[run] for run in rows])


def _masked(x, rows, scale, weight):
    mask = torch.zeros(len(x), 1, 1, 1, dtype=x.dtype)
    mask[_indices(rows, len(x))] = 1
    out = x + scale * mask * torch.tanh(x * weight)
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("size", "rows"), WINDOWS, ids=str)
def test_selected_rows_added_back_equal_the_masked_formula(size, rows, layout):
    torch.manual_seed(0)
    x = LAYOUTS[layout](torch.randn(size, 3, 4, 5, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(3, 1, 1, dtype=torch.float64, requires_grad=True)
    taken, shared = select_rows(x * 1, rows)
    ours = add_rows(shared, torch.tanh(taken * weight), rows, 1.7)
    plain = _masked(x * 1, rows, 1.7, weight)
    torch.testing.assert_close(ours, plain)
    seed = torch.randn_like(plain)
    for ours_grad, plain_grad in zip(
        torch.autograd.grad(ours, [x, weight], seed), torch.autograd.grad(plain, [x, weight], seed), strict=True
    ):
        torch.testing.assert_close(ours_grad, plain_grad)


@pytest.mark.parametrize("rows", [(slice(0, 1), slice(2, 4)), torch.tensor([0, 2, 3])], ids=["runs", "indices"])
def test_second_derivatives_are_those_of_the_formula(rows):
    torch.manual_seed(0)
    x = torch.randn(4, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 1, dtype=torch.float64, requires_grad=True)

    def ours(x, weight):
        taken, shared = select_rows(x, rows)
        return add_rows(shared, torch.tanh(taken * weight), rows, 1.7)

    assert torch.autograd.gradgradcheck(ours, (x, weight))


@pytest.mark.parametrize("rows", [(slice(1, 3),), torch.tensor([1, 2])], ids=["runs", "indices"])
def test_rows_without_the_shared_input_get_gradients_of_zeros_elsewhere(rows):
    x = torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    taken, _ = select_rows(x, rows)
    taken.sum().backward()
    assert x.grad.flatten(1).sum(1).tolist() == [0.0, 18.0, 18.0, 0.0]
    assert x.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rows", [(slice(1, 3),), torch.tensor([1, 2])], ids=["runs", "indices"])
def test_memory_format_and_dtype_of_rows(rows):
    x = torch.randn(4, 2, 3, 3, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    taken = take_rows(x, rows)
    assert torch.equal(taken, x[1:3])
    assert taken.is_contiguous(memory_format=torch.channels_last)
    out = add_rows(x.float(), taken, rows, inplace=True)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert add_rows(x.float(), taken, rows).dtype == torch.float32


def test_what_is_not_selected_never_leaks():
    x = torch.zeros(3, 1, 1, 1)
    x[1] = torch.inf
    taken, shared = select_rows(x.requires_grad_(), (slice(0, 1), slice(2, 3)))
    out = add_rows(shared, taken * 0, (slice(0, 1), slice(2, 3)))
    assert torch.equal(out, x)


@pytest.mark.parametrize("rows", [(slice(1, 3),), (slice(0, 1), slice(2, 4)), torch.tensor([0, 2, 3])], ids=str)
def test_gradients_that_somebody_keeps_are_not_overwritten(rows):
    """The backward pass sums in a buffer of its own, of which a branch that passes gradients on sees nothing."""
    torch.manual_seed(0)
    x = torch.randn(4, 2, 3, 3, requires_grad=True)
    taken, shared = select_rows(x * 1, rows)
    seen = []
    for tensor in (taken, branch := taken.transpose(2, 3)):
        tensor.register_hook(seen.append)
    out = add_rows(shared, branch, rows).relu_()
    out.retain_grad()
    seed = torch.randn_like(out)
    for _ in range(2):
        seen.clear()
        x.grad = None
        out.backward(seed, retain_graph=True)
        expected = seed * (out > 0)
        mine = expected[_indices(rows, 4)]
        torch.testing.assert_close(seen, [mine, mine.transpose(2, 3)])
        torch.testing.assert_close(x.grad, expected.index_add(0, _indices(rows, 4), mine.transpose(2, 3)))
        assert torch.equal(out.grad, seed)
        out.grad = None


def test_a_shared_input_that_is_used_elsewhere_too_gets_both_gradients():
    torch.manual_seed(0)
    x, rows = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 3])
    taken, shared = select_rows(x * 1, rows)
    (add_rows(shared, taken * 2, rows).relu() + shared.square()).sum().backward()
    plain = x.detach().clone().requires_grad_()
    (plain.index_add(0, rows, 2 * plain[rows]).relu() + plain.square()).sum().backward()
    torch.testing.assert_close(x.grad, plain.grad)


def test_one_run_of_rows_is_a_view_that_does_not_move_memory():
    x = torch.randn(6, 2, 3, 3, requires_grad=True) * 1.0
    for rows, shared in (((slice(1, 5),), True), ((slice(0, 2), slice(4, 6)), False), (torch.tensor([1, 2]), False)):
        taken, _ = select_rows(x, rows)
        assert (taken.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == shared
