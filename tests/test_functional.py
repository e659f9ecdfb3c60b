"""The arithmetic on rows against the plain formula, in values and gradients."""

import itertools

import pytest
import torch

from stodepth_models.functional import add_residual, add_rows, drop_path, keep_in_graph, select_rows, take_rows

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
    return x + scale * mask * torch.tanh(x * weight)


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
    out = add_rows(x.float(), taken, rows, dtype=torch.bfloat16)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert add_rows(x.float(), taken, rows).dtype == torch.float32


def test_what_is_not_selected_never_leaks():
    x = torch.zeros(3, 1, 1, 1)
    x[1] = torch.inf
    taken, shared = select_rows(x.requires_grad_(), (slice(0, 1), slice(2, 3)))
    out = add_rows(shared, taken * 0, (slice(0, 1), slice(2, 3)))
    assert torch.equal(out, x)


@pytest.mark.parametrize(("scale", "inplace"), [*itertools.product([1.0, 0.3], [False, True])])
def test_add_residual(scale, inplace):
    identity, branch = torch.randn(3, 4), torch.randn(3, 4).bfloat16()
    expected = identity + scale * branch
    with torch.no_grad():
        out = add_residual(identity, branch, scale, inplace)
    assert out.dtype == (torch.bfloat16 if inplace else torch.float32)
    torch.testing.assert_close(out.float(), expected, atol=0.02, rtol=0.01)
    assert (out is branch) == inplace
    leaf = torch.randn(3, 4, requires_grad=True)
    add_residual(identity, leaf * 1.0, scale, inplace).sum().backward()
    torch.testing.assert_close(leaf.grad, torch.full((3, 4), scale))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_add_residual_of_a_frozen_branch_to_a_trained_shortcut(scale):
    identity = torch.randn(3, 4, requires_grad=True)
    add_residual(identity * 1.0, torch.randn(3, 4), scale, inplace=True).sum().backward()
    assert torch.equal(identity.grad, torch.ones(3, 4))


def test_keep_in_graph_gives_zeros_and_copies():
    x, weight = torch.randn(3, requires_grad=True), torch.nn.Parameter(torch.randn(2, 2))
    out = keep_in_graph(x, [weight])
    assert torch.equal(out, x)
    assert out.data_ptr() != x.data_ptr()
    out.sum().backward()
    assert torch.equal(weight.grad, torch.zeros(2, 2))
    assert torch.equal(x.grad, torch.ones(3))


@pytest.mark.parametrize("shape", [(4096,), (4096, 2), (4096, 2, 3), (4096, 1, 2, 2, 1)])
@pytest.mark.parametrize("inplace", [False, True])
def test_drop_path_keeps_whole_rows_at_the_exact_scale(shape, inplace):
    torch.manual_seed(0)
    x = torch.rand(shape) + 1.0
    original = x.clone()
    out = drop_path(x, 0.7, inplace)
    rows = out.view(4096, -1)
    kept = rows.ne(0).all(1)
    assert torch.equal(kept, rows.ne(0).any(1))
    assert torch.equal(rows[kept], (original.view(4096, -1) / 0.7)[kept])
    assert abs(kept.float().mean().item() - 0.7) < 4 * (0.21 / 4096) ** 0.5
    assert (out.data_ptr() == x.data_ptr()) == inplace


def test_drop_path_at_the_ends_and_with_infinities():
    x = torch.full((8, 2), torch.inf)
    assert torch.equal(drop_path(x, 0.0), torch.zeros(8, 2))
    assert drop_path(x, 1.0) is x
    torch.manual_seed(0)
    assert not drop_path(x, 0.5).isnan().any()


def test_drop_path_scales_bfloat16_by_division():
    x = torch.ones(4000, 1, dtype=torch.bfloat16)
    out = drop_path(x, 0.9)
    assert set(out.flatten().tolist()) == {0.0, torch.tensor(1 / 0.9, dtype=torch.bfloat16).item()}


def test_one_run_of_rows_is_a_view_that_does_not_move_memory():
    x = torch.randn(6, 2, 3, 3, requires_grad=True) * 1.0
    for rows, shared in (((slice(1, 5),), True), ((slice(0, 2), slice(4, 6)), False), (torch.tensor([1, 2]), False)):
        taken, _ = select_rows(x, rows)
        assert (taken.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()) == shared
