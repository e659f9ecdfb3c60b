"""What a gate finds out about the branch that it skips."""

from functools import partial

import torch
from torch import nn

from stodepth_models import StochasticResidual, StoDepthBasicBlock
from stodepth_models.layers.branch import call_with_one_row, last_norm, modules_of


def test_modules_are_found_behind_methods_partials_and_closures():
    block = StoDepthBasicBlock(4, 4)
    bound, listed = block.branch, [nn.Linear(1, 1), {"a": nn.Linear(1, 1)}]
    empty = lambda: later  # noqa: E731
    assert modules_of(block) == modules_of(bound) == modules_of(partial(bound, k=2)) == [block]
    assert modules_of(lambda x: bound(x)) == modules_of(partial(partial(lambda f, x: f(x), bound))) == [block]
    assert modules_of(lambda x: (listed, block)) in (
        [block, listed[0], listed[1]["a"]],
        [listed[0], listed[1]["a"], block],
    )
    assert modules_of(torch.relu) == modules_of(empty) == []
    later = block
    assert modules_of(empty) == [block]


def test_the_last_norm_is_that_of_the_block_that_owns_the_branch():
    block = StoDepthBasicBlock(4, 4)
    assert last_norm(block.branch) is last_norm(lambda x: block.branch(x)) is block.bn2
    assert last_norm(nn.Linear(2, 2)) is last_norm(torch.relu) is None


def test_one_row_through_a_closure_is_protected_too():
    torch.manual_seed(0)
    block, x = StoDepthBasicBlock(4, 4), torch.randn(1, 4, 1, 1)
    bound = block.branch
    for _ in range(10):
        StochasticResidual(0.5)(lambda rows: bound(rows), x, x)
    assert block.bn1.num_batches_tracked == 0


def test_one_value_a_channel_is_normalised_to_the_bias_where_no_statistics_are_kept():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    x = torch.randn(1, 3, 1, 1, requires_grad=True)
    out = call_with_one_row(norm, x)
    torch.testing.assert_close(out, norm.bias.view(1, 3, 1, 1))
    (2 * out).sum().backward()
    assert torch.equal(norm.bias.grad, torch.full((3,), 2.0))
    torch.testing.assert_close(x.grad, torch.zeros_like(x))
    torch.testing.assert_close(norm.weight.grad, torch.zeros(3), atol=1e-3, rtol=0)
    parts = torch.randn(4, 3, 2, 2)  # as of a branch that cuts its row into pieces
    assert torch.equal(call_with_one_row(norm, parts), norm(parts))
    torch.testing.assert_close(call_with_one_row(norm.eval(), x), out)
    assert not norm._forward_hooks
