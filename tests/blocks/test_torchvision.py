"""Blocks against torchvision's, and the rules of autograd, tracing and memory that a block keeps when it is dropped."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import BasicBlock, Bottleneck

from stodepth_models import StochasticResidual, StoDepthBasicBlock, StoDepthBottleneck, set_survival_probs
from stodepth_models.layers.draw import MODES

PAIRS = [(StoDepthBasicBlock, BasicBlock, 8), (StoDepthBottleneck, Bottleneck, 2)]
IDS = ["basic", "bottleneck"]


def _pair(ours, theirs, planes, downsample=False):
    def shortcut():
        return nn.Sequential(nn.Conv2d(8, 8, 1, 2, bias=False), nn.BatchNorm2d(8)) if downsample else None

    torch.manual_seed(0)
    block = ours(8, planes, 2 if downsample else 1, shortcut())
    twin = theirs(8, planes, 2 if downsample else 1, shortcut())
    twin.load_state_dict(block.state_dict())
    return block, twin


class Capped(nn.ReLU):
    def forward(self, x):
        return super().forward(x).clamp(max=0.1)


def test_a_dropped_block_applies_an_activation_that_only_looks_like_relu():
    block = StoDepthBasicBlock(8, 8)
    block.relu = Capped()
    set_survival_probs(block, 0.0)
    x = torch.randn(4, 8, 6, 6)
    assert torch.equal(block(x), x.clamp(0.0, 0.1))
    assert torch.equal(block(x.relu().requires_grad_().relu()), x.clamp(0.0, 0.1))


@pytest.mark.parametrize("mode", MODES)
def test_a_dropped_block_behind_a_relu_returns_what_it_was_given(mode):
    torch.manual_seed(0)
    before, dropped = StoDepthBasicBlock(8, 8), StoDepthBasicBlock(8, 8)
    before.residual.mode, before.residual.survival_prob = mode, 0.7
    dropped.residual.survival_prob = 0.0
    for _ in range(6):
        x = before(torch.randn(4, 8, 6, 6).relu_().requires_grad_().relu())
        assert dropped(x) is x


def test_among_ranks_a_dropped_block_gives_its_weights_zeros_and_copies_nothing(monkeypatch):
    monkeypatch.setattr(DistributedDataParallel, "_get_active_ddp_module", lambda: object())
    blocks = [StoDepthBasicBlock(8, 8) for _ in range(2)]
    for block in blocks:
        set_survival_probs(block, 0.0)
    x = torch.randn(4, 8, 6, 6, requires_grad=True).relu()
    out = blocks[1](blocks[0](x))
    assert out.data_ptr() == x.data_ptr()
    (grad,) = torch.autograd.grad(out.square().sum(), x, retain_graph=True)
    assert torch.equal(grad, 2 * x)
    out.square().sum().backward()
    weights = [weight for block in blocks for weight in block.parameters()]
    assert all(weight.grad is not None and not weight.grad.any() for weight in weights)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("downsample", [False, True])
@pytest.mark.parametrize(("ours", "theirs", "planes"), PAIRS, ids=IDS)
def test_at_survival_1_a_block_is_torchvisions(ours, theirs, planes, downsample, mode):
    block, twin = _pair(ours, theirs, planes, downsample)
    block.residual.mode = mode
    x = torch.randn(4, 8, 6, 6)
    for training in (True, False):
        outs = []
        for module in (block.train(training), twin.train(training)):
            module.zero_grad()
            outs.append(module(x))
            outs[-1].square().sum().backward()
        assert torch.equal(*outs)
        for (name, p), (_, q) in zip(block.named_parameters(), twin.named_parameters(), strict=True):
            assert torch.equal(p.grad, q.grad), name
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in block.state_dict().items())


@pytest.mark.parametrize("survival_prob", [0.0, 0.5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("ours", "theirs", "planes"), PAIRS, ids=IDS)
def test_consecutive_drops_do_not_break_autograd(ours, theirs, planes, mode, survival_prob):
    torch.manual_seed(0)
    blocks = nn.Sequential(*[ours(8, planes) for _ in range(4)])
    for block in blocks:
        block.residual.mode = mode
    set_survival_probs(blocks, survival_prob)
    x = torch.randn(4, 8, 6, 6, requires_grad=True)
    original = x.detach().clone()
    for _ in range(8):
        x.grad = None
        features = [x]
        for block in blocks:
            features.append(block(features[-1]))
        kept = [feature.detach().clone() for feature in features]
        features[-1].sum().backward()
        assert all(torch.equal(a, b) for a, b in zip(kept, features, strict=True))
        if survival_prob == 0.0:
            assert torch.equal(x.grad, (x > 0).float())
            assert torch.equal(features[-1], x.relu())
    assert torch.equal(x, original)


@pytest.mark.parametrize("mode", MODES)
def test_a_dropped_block_runs_its_shortcut_on_every_row(mode):
    block, twin = _pair(*PAIRS[0], downsample=True)
    block.residual.mode = mode
    block.residual.survival_prob = 0.0
    x = torch.randn(4, 8, 6, 6)
    torch.testing.assert_close(block(x), twin.downsample(x).relu())
    assert torch.equal(block.downsample[1].running_mean, twin.downsample[1].running_mean)
    assert block.bn1.num_batches_tracked == 0


def test_dropped_parameters_are_left_alone_by_the_optimizer():
    block = StoDepthBasicBlock(4, 4)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    block(x).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    block.residual.survival_prob = 0.0
    before = [p.clone() for p in block.parameters()]
    block(x).sum().backward()
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(before, block.parameters(), strict=True))


@pytest.mark.parametrize("downsample", [False, True])
@pytest.mark.parametrize(("ours", "theirs", "planes"), PAIRS, ids=IDS)
def test_dtype_under_autocast_is_torchvisions_whatever_the_gate(ours, theirs, planes, downsample):
    block, twin = _pair(ours, theirs, planes, downsample)
    x = torch.randn(4, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        expected = twin(x).dtype
        for mode in MODES:
            block.residual.mode = mode
            for survival_prob in (0.5, 1.0):
                block.residual.survival_prob = survival_prob
                out = block(x)
                # A branch that is dropped for all rows leaves the shortcut in the shortcut's dtype.
                is_dropped = survival_prob < 1.0 and block.residual.last_share == 0.0 and not downsample
                assert out.dtype == (torch.float32 if is_dropped else torch.bfloat16)
                assert block.eval()(x).dtype == expected == torch.bfloat16
                block.train()


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.5, inplace=True), nn.SiLU(inplace=True)])
def test_a_replaced_activation_is_applied_to_a_dropped_block_too(activation):
    block = StoDepthBasicBlock(4, 4)
    block.relu = activation
    block.residual.survival_prob = 0.0
    x = torch.randn(2, 4, 3, 3)
    original = x.clone()
    torch.testing.assert_close(block(x), activation(x.clone()))
    assert torch.equal(x, original)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("watch", ["register_forward_pre_hook", "register_forward_hook", "register_full_backward_hook"])
def test_a_hook_on_the_activation_sees_the_sum_in_every_mode(watch, mode):
    torch.manual_seed(0)
    block, seen = StoDepthBasicBlock(4, 4), []
    block.relu = nn.ReLU()  # one that backward hooks can watch
    block.residual.mode, block.residual.survival_prob = mode, 0.5
    getattr(block.relu, watch)(lambda *_: seen.append(1))
    for _ in range(6):
        seen.clear()
        block(torch.randn(4, 4, 3, 3, requires_grad=True)).sum().backward()
        assert len(seen) == (2 if block.residual.last_share else 1)


def _forward_replaced(module):
    module.forward = lambda x: nn.functional.leaky_relu(x, 0.5)
    return module


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("activation", [lambda: _forward_replaced(nn.ReLU()), lambda: torch.tanh], ids=["forward", "f"])
def test_an_activation_without_a_class_of_its_own_is_applied_in_training_as_in_evaluation(activation, mode):
    torch.manual_seed(0)
    block = StoDepthBasicBlock(4, 4)
    del block.relu
    block.relu = activation()
    block.residual.mode, block.residual.survival_prob = mode, 0.5
    for _ in range(6):
        assert block(torch.randn(4, 4, 3, 3)).min() < 0


@pytest.mark.parametrize("mode", MODES)
def test_a_hook_on_the_gate_sees_the_sum_before_the_activation(mode):
    torch.manual_seed(0)
    block, smallest = StoDepthBasicBlock(4, 4), []
    block.residual.mode, block.residual.survival_prob = mode, 0.5
    block.residual.register_forward_hook(lambda _, inputs, out: smallest.append(out.min().item()))
    for _ in range(6):
        assert block(torch.randn(4, 4, 3, 3)).min() == 0
        assert smallest.pop() < 0


@pytest.mark.parametrize("mode", MODES)
def test_a_gate_with_a_forward_of_its_own_is_called(mode):
    class Doubled(StochasticResidual):
        def forward(self, branch, x, identity):
            return 2 * super().forward(branch, x, identity)

    block, x = StoDepthBasicBlock(4, 4), torch.rand(4, 4, 3, 3)
    block.residual = Doubled(0.5, mode)
    gate = StochasticResidual(0.5, mode)
    torch.manual_seed(1)
    out = block(x)
    torch.manual_seed(1)
    torch.testing.assert_close(out, 2 * gate(block.branch, x, x).relu())


@pytest.mark.parametrize("scale", ["eval", "none"])
def test_evaluation_scales_the_branch_alone(scale):
    block, twin = _pair(*PAIRS[1])
    block.residual.rescale, block.residual.survival_prob = scale, 0.25
    x = torch.randn(2, 8, 4, 4)
    expected = (x + (0.25 if scale == "eval" else 1.0) * block.eval().branch(x)).relu()
    torch.testing.assert_close(block(x), expected)
    if scale == "none":
        assert torch.equal(block(x), twin.eval()(x))


@pytest.mark.parametrize("name", ["deepcopy", "pickle", "save"])
def test_copies_work_and_keep_drawing(name):
    block = StoDepthBasicBlock(4, 4)
    block.residual.survival_prob = 0.5
    buffer = io.BytesIO()
    torch.save(block, buffer)
    buffer.seek(0)
    twin = {
        "deepcopy": lambda: copy.deepcopy(block),
        "pickle": lambda: pickle.loads(pickle.dumps(block)),
        "save": lambda: torch.load(buffer, weights_only=False),
    }[name]()
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(twin.eval()(x), block.eval()(x))
    torch.manual_seed(0)
    assert len({twin.train()(x).sum().item() for _ in range(30)}) > 1


def test_the_state_dict_is_torchvisions_and_the_gate_shows():
    block = StoDepthBottleneck(8, 2)
    assert block.state_dict().keys() == Bottleneck(8, 2).state_dict().keys()
    assert "survival_prob=1, mode='batch', rescale='eval'" in repr(block)


def test_any_fx_tracer_sees_a_leaf_that_stays_random():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), StoDepthBasicBlock(4, 4))
    model[1].residual.survival_prob = 0.5
    traced = torch.fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    assert len({traced(x).sum().item() for _ in range(30)}) > 1
    assert len({traced.eval()(x).sum().item() for _ in range(5)}) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_global_hook_sees_gate_and_activation_in_every_mode(mode):
    torch.manual_seed(0)
    block, seen = StoDepthBasicBlock(4, 4), []
    block.residual.mode, block.residual.survival_prob = mode, 0.5
    handle = register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        block(torch.randn(4, 4, 3, 3))
    finally:
        handle.remove()
    assert seen[-3:] == [block.residual, block.relu, block]
