"""The arithmetic on whole batches against the plain formula, in values and gradients."""

import itertools

import pytest
import torch

from stodepth_models.layers.branch import with_zero_gradients
from stodepth_models.layers.drop_path import drop_path
from stodepth_models.layers.rows import add_residual


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


def test_with_zero_gradients_gives_zeros_and_copies():
    x, weight = torch.randn(3, requires_grad=True), torch.nn.Parameter(torch.randn(2, 2))
    out = with_zero_gradients(x, [weight])
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
