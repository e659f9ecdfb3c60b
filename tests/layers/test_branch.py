"""What a gate finds out about the branch that it skips."""

from functools import partial

import torch
from torch import nn

from stodepth_models import StochasticResidual, StoDepthBasicBlock
from stodepth_models.layers.branch import modules_of


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


def test_one_row_through_a_closure_is_protected_too():
    torch.manual_seed(0)
    block, x = StoDepthBasicBlock(4, 4), torch.randn(1, 4, 1, 1)
    bound = block.branch
    for _ in range(10):
        StochasticResidual(0.5)(lambda rows: bound(rows), x, x)
    assert block.bn1.num_batches_tracked == 0
