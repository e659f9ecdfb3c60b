"""The gated residual: the six pins of a gate, autograd, autocast, memory format, and batches of one."""

import copy
import pickle
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor

import stodepth_models as sdm
from stodepth_models import (
    DropPath,
    StochasticDepthBlock,
    StochasticResidual,
    survival_probs,
)
from stodepth_models.layers.branch import call_on_single_row
from stodepth_models.layers.draw import MODES, RESCALES, draw_rows

ROW_MODES = ("row", "subset")


def _branch(channels=4):
    return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


def _count_calls(module):
    calls = []
    module.register_forward_hook(lambda _, inputs, out: calls.append(len(inputs[0])))
    return calls


@pytest.mark.parametrize("mode", MODES)
def test_a_dropped_branch_is_never_called_and_gets_no_gradient(mode):
    branch, x = _branch(), torch.randn(4, 4, 5, 5, requires_grad=True)
    calls = _count_calls(branch[0])
    statistics = copy.deepcopy(branch[1].state_dict())
    out = StochasticResidual(0.0, mode)(branch, x, x)
    assert torch.equal(out, x)
    out.sum().backward()
    assert calls == []
    assert all(parameter.grad is None for parameter in branch.parameters())
    assert all(torch.equal(statistics[key], value) for key, value in branch[1].state_dict().items())


@pytest.mark.parametrize("mode", MODES)
def test_the_gate_remembers_which_share_of_the_rows_survived(mode):
    torch.manual_seed(0)
    residual, rows = StochasticResidual(0.55, mode), []
    for _ in range(10):
        rows.append(0)
        residual(lambda x: rows.append(rows.pop() + len(x)) or x, torch.ones(8, 2), torch.ones(8, 2))
        assert residual.last_share == rows[-1] / 8
    assert len(set(rows)) > 1


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("mode", ROW_MODES)
def test_only_surviving_rows_enter_the_branch_and_the_scale_is_exact(mode, rescale):
    torch.manual_seed(0)
    residual, calls = StochasticResidual(0.6, mode, rescale), []
    x = torch.rand(64, 2, 3) + 1.0
    for _ in range(20):
        out = residual(lambda rows: calls.append(len(rows)) or rows, x, x)
        kept = (out != x).view(64, -1)
        assert torch.equal(kept.all(1), kept.any(1))
        assert calls.pop() == kept.all(1).sum()
        scale = 1 / 0.6 if rescale == "train" else 1.0
        torch.testing.assert_close(out, x * (1 + scale * kept.all(1).float()[:, None, None]))


@pytest.mark.parametrize("rescale", RESCALES)
def test_batch_mode_keeps_or_drops_the_whole_batch_at_the_exact_scale(rescale):
    torch.manual_seed(0)
    residual, x = StochasticResidual(0.6, "batch", rescale), torch.rand(8, 2) + 1.0
    ratios = {round((residual(lambda rows: rows, x, x) / x).mean().item(), 4) for _ in range(40)}
    assert ratios == {1.0, round(1 + 1 / 0.6, 4) if rescale == "train" else 2.0}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("rescale", "scale"), [("eval", 0.6), ("train", 1.0), ("none", 1.0)])
def test_evaluation_is_scaled_draws_nothing_and_uses_every_row(mode, rescale, scale):
    residual, x = StochasticResidual(0.6, mode, rescale).eval(), torch.rand(5, 3)
    before = torch.get_rng_state()
    torch.testing.assert_close(residual(lambda rows: 2 * rows, x, x), x * (1 + 2 * scale))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("survival_prob", [0.0, 1.0])
def test_training_draws_nothing_where_there_is_nothing_to_decide(mode, survival_prob):
    x, before = torch.rand(4, 2), torch.get_rng_state()
    StochasticResidual(survival_prob, mode)(lambda rows: rows, x, x)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_infinite_branch_does_not_leak_at_survival_0():
    x = torch.randn(3, 2)
    for residual in (StochasticResidual(0.0), StochasticResidual(0.0).eval()):
        assert torch.equal(residual(lambda rows: rows * torch.inf, x, x), x)


@pytest.mark.parametrize("mode", MODES)
def test_gates_follow_the_default_cpu_generator(mode):
    residual, x = StochasticResidual(0.5, mode), torch.rand(16, 2) + 1.0
    torch.manual_seed(5)
    first = [residual(lambda rows: rows, x, x) for _ in range(8)]
    state = torch.get_rng_state()
    later = [residual(lambda rows: rows, x, x) for _ in range(8)]
    torch.manual_seed(5)
    assert all(torch.equal(a, residual(lambda rows: rows, x, x)) for a in first)
    torch.set_rng_state(state)
    assert all(torch.equal(a, residual(lambda rows: rows, x, x)) for a in later)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_replays_the_gates(mode, use_reentrant):
    torch.manual_seed(1)
    branch = _branch().double()
    residual, x = StochasticResidual(0.5, mode), torch.randn(6, 4, 5, 5, dtype=torch.float64)
    branch[1].momentum = 0.0  # a second pass over the branch must not show in its statistics

    def gradients(run):
        torch.manual_seed(2)
        grads = []
        for _ in range(6):
            branch.zero_grad()
            leaf = x.clone().requires_grad_()
            run(lambda x: residual(branch, x * 1.0, x * 1.0), leaf).square().sum().backward()
            grads += [leaf.grad, branch[0].weight.grad]
        return grads

    plain = gradients(lambda function, x: function(x))
    replayed = gradients(lambda function, x: checkpoint(function, x, use_reentrant=use_reentrant))
    for expected, actual in zip(plain, replayed, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("mode", ROW_MODES)
def test_rows_are_not_kept_twice_for_the_backward_pass(mode):
    torch.manual_seed(0)
    residual, conv = StochasticResidual(0.5, mode), nn.Conv2d(2, 2, 1, bias=False)
    x = torch.randn(16, 2, 8, 8, requires_grad=True) * 1.0
    known, extra = {x.data_ptr(), conv.weight.data_ptr()}, []

    def pack(saved):
        if saved.data_ptr() not in known:
            extra.append(tuple(saved.shape))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        residual(conv, x, x)
    assert [shape for shape in extra if len(shape) == 4] == []


@pytest.mark.parametrize("mode", ROW_MODES)
def test_a_changed_input_is_refused_in_the_backward_pass(mode):
    torch.manual_seed(1)
    conv, x = nn.Conv2d(2, 2, 1), torch.randn(16, 2, 3, 3, requires_grad=True) * 1.0
    out = StochasticResidual(0.5, mode)(conv, x, x)
    with torch.no_grad():
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="changed in place"):
        out.sum().backward()


@pytest.mark.parametrize("mode", MODES)
def test_a_frozen_branch_stays_frozen(mode):
    branch, x = _branch().requires_grad_(False), torch.randn(6, 4, 3, 3, requires_grad=True)
    residual = StochasticResidual(0.5, mode)
    for _ in range(8):
        residual(branch, x, x).sum().backward()
    assert all(not p.requires_grad and p.grad is None for p in branch.parameters())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_survives(mode, memory_format):
    branch = _branch().to(memory_format=memory_format)
    x = torch.randn(6, 4, 5, 7).to(memory_format=memory_format).requires_grad_()
    torch.manual_seed(0)
    for _ in range(8):
        out = StochasticResidual(0.5, mode)(branch, x, x)
        assert out.is_contiguous(memory_format=memory_format)
        (grad,) = torch.autograd.grad(out.square().sum(), x)
        assert grad.is_contiguous(memory_format=memory_format)


BRANCH_STARTS = {
    "as it is": lambda x: x,
    "a transposed view": lambda x: x.transpose(2, 3),
    "a change in place": lambda x: x.relu_(),
}


@pytest.mark.parametrize(
    ("mode", "start"), [(m, s) for m in ROW_MODES for s in BRANCH_STARTS if (m, s) != ("subset", "a change in place")]
)
def test_gradients_are_right_whatever_a_branch_does_with_its_input(mode, start):
    torch.manual_seed(0)
    x, conv = torch.randn(8, 3, 5, 5, dtype=torch.float64), nn.Conv2d(3, 3, 3, padding=1).double()
    torch.manual_seed(3)
    rows = torch.arange(8)[draw_rows(mode, 0.5, 8)[0]] if mode == "subset" else draw_rows(mode, 0.5, 8)
    plain = x.index_add(0, rows, conv(BRANCH_STARTS[start](x[rows])))
    [expected] = torch.autograd.grad(plain.square().sum(), conv.weight)
    torch.manual_seed(3)
    inner = x.clone().requires_grad_() * 1.0
    shortcut = inner * 1.0 if start == "a change in place" else inner
    out = StochasticResidual(0.5, mode, "none")(lambda kept: conv(BRANCH_STARTS[start](kept)), inner, shortcut)
    torch.testing.assert_close(out, plain)
    [gradient] = torch.autograd.grad(out.square().sum(), conv.weight)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("layer", [StochasticResidual(0.0), StochasticResidual(0.0).eval()])
def test_what_follows_a_dropped_branch_may_write_in_place(layer):
    x = torch.randn(4, 3, requires_grad=True)
    hidden = torch.relu(x)
    out = layer(nn.Linear(3, 3), hidden, hidden).mul_(2.0)
    assert torch.equal(hidden, torch.relu(x))
    assert torch.equal(out, 2.0 * hidden)
    out.sum().backward()  # reads `hidden`
    assert torch.equal(x.grad, 2.0 * (x > 0))


def test_mode_and_rescale_are_checked_whenever_they_are_set():
    residual = StochasticResidual(0.5)
    with pytest.raises(ValueError, match="mode must be one of 'batch', 'row', 'subset', got 'Row'"):
        residual.mode = "Row"
    with pytest.raises(ValueError, match="rescale must be one of 'eval', 'train', 'none', got 'Train'"):
        residual.rescale = "Train"
    assert (residual.mode, residual.rescale) == ("batch", "eval")


def test_tensors_that_wrap_others_get_the_gradients_of_plain_ones():
    branch, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), torch.randn(6, 4)

    def gradients(seed, x):
        torch.manual_seed(seed)
        branch.zero_grad()
        x = x.clone().requires_grad_()
        StochasticResidual(0.5, "subset")(branch, x, x).sum().backward()
        grads = [x.grad, *(parameter.grad for parameter in branch.parameters())]
        return [grad.a if isinstance(grad, TwoTensor) else grad.clone() for grad in grads]

    for seed in range(6):
        for wrapped, plain in zip(gradients(seed, TwoTensor(x, x.clone())), gradients(seed, x), strict=True):
            torch.testing.assert_close(wrapped, plain)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("mode", ROW_MODES)
def test_a_branch_that_overwrites_some_rows_of_its_input_is_refused(mode, grad):
    branch, x = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4)), torch.randn(8, 4)
    with torch.set_grad_enabled(grad):
        for seed in range(8):  # windows in one run and in two
            torch.manual_seed(seed)
            hidden = x.clone()
            with pytest.raises(RuntimeError, match=r"overwrites its input.*inplace=False"):
                StochasticResidual(0.5, mode)(branch, hidden, hidden)


@pytest.mark.parametrize("mode", MODES)
def test_one_value_a_channel_takes_running_statistics_and_leaves_them(mode):
    torch.manual_seed(0)
    branch = _branch()
    branch[1].running_mean.uniform_()
    before = copy.deepcopy(branch[1].state_dict())
    x = torch.randn(1, 4, 1, 1)
    kept = 0
    for _ in range(20):
        out = StochasticResidual(0.5, mode)(branch, x, x)
        if not torch.equal(out, x):
            kept += 1
            torch.testing.assert_close(out, x + branch.eval()(x))
            branch.train()
    assert 0 < kept < 20
    assert branch[1].training
    assert all(torch.equal(before[key], value) for key, value in branch[1].state_dict().items())


def test_one_row_of_several_values_is_normalised_and_counted_as_usual():
    torch.manual_seed(0)
    branch, x = _branch(), torch.randn(1, 4, 3, 3)
    while torch.equal(StochasticResidual(0.5)(branch, x, x), x):
        pass
    assert branch[1].num_batches_tracked == 1


def test_forward_writes_nothing():
    branch, x = _branch().requires_grad_(True), torch.randn(4, 4, 3, 3)
    residual = StochasticResidual(0.5, "row")
    before = {name: (p.clone(), p.requires_grad) for name, p in branch.named_parameters()}
    for _ in range(6):
        residual(branch, x, x)
    assert residual.survival_prob == 0.5
    assert all(torch.equal(before[n][0], p) and before[n][1] == p.requires_grad for n, p in branch.named_parameters())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_their_settings(clone):
    twin = clone(StochasticResidual(0.3, "subset", "train", sync_gates=True))
    assert repr(twin) == "StochasticResidual(survival_prob=0.3, mode='subset', rescale='train')"
    assert twin.sync_gates


class _Residual(nn.Module):
    def __init__(self, shortcut):
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(2, 2, 1), shortcut

    def forward(self, x):
        return self.conv(x) + (x if self.shortcut is None else self.shortcut(x))


@pytest.mark.parametrize("shortcut", [None, nn.Conv2d(2, 2, 1)], ids=["identity", "projection"])
def test_a_stochastic_block_is_the_block_or_its_shortcut(shortcut):
    torch.manual_seed(0)
    block, x = _Residual(shortcut), torch.randn(3, 2, 4, 4)
    gated, calls = StochasticDepthBlock(block, 0.6), _count_calls(block.conv)
    alone = x if shortcut is None else shortcut(x)
    kept = [torch.equal(gated(x), block(x)) for _ in range(400)]
    assert abs(sum(kept) / 400 - 0.6) < 4 * (0.24 / 400) ** 0.5
    assert len(calls) == 400 + sum(kept)
    assert gated.last_share == kept[-1]
    gated.block.conv.requires_grad_(False)
    outs = [gated(x) for _ in range(20)]
    assert all(torch.equal(out, block(x)) or torch.equal(out, alone) for out in outs)
    assert torch.equal(gated.eval()(x), block(x))
    assert survival_probs(nn.Sequential(gated)) == [0.6]


def test_what_follows_a_dropped_block_may_write_in_place():
    x = torch.randn(4, 2, 3, 3, requires_grad=True)
    hidden = torch.relu(x)
    StochasticDepthBlock(_Residual(None), 0.0)(hidden).mul_(2.0).sum().backward()
    assert torch.equal(hidden, torch.relu(x))
    assert torch.equal(x.grad, 2.0 * (x > 0))


def test_a_stochastic_block_is_one_node_of_a_graph():
    for seed in range(4):
        torch.manual_seed(seed)
        graph = torch.fx.symbolic_trace(nn.Sequential(StochasticDepthBlock(_Residual(None), 0.5))).graph
        assert [node.target for node in graph.nodes if node.op == "call_module"] == ["0"]


def test_a_stochastic_block_without_a_shortcut_is_refused():
    with pytest.raises(TypeError, match="must have a shortcut or a downsample, got Conv2d"):
        StochasticDepthBlock(nn.Conv2d(1, 1, 1), 0.5)


def test_drop_path_module():
    x = torch.ones(1000, 2)
    torch.manual_seed(0)
    assert set(DropPath(0.25)(x).flatten().tolist()) == {0.0, 4.0}
    assert DropPath(0.25).eval()(x) is x
    assert repr(DropPath(0.25)) == "DropPath(p=0.25, inplace=False)"


class Dropping(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.conv, self.mask = nn.Conv2d(3, 3, 1), mask

    def forward(self, x):
        return x + self.mask(self.conv(x))


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:NOTE. The nodes obtained")
def test_drop_path_is_traced_without_freezing_its_draw():
    x = torch.randn(64, 3, 4, 4)
    traced = create_feature_extractor(nn.Sequential(Dropping(DropPath(0.5)), nn.ReLU()), ["0.add"]).train()
    kept = [(traced(x)["0.add"] != x).flatten(1).any(1) for _ in range(2)]
    assert 0 < kept[0].sum() < 64
    assert not torch.equal(*kept)
    scripted = torch.jit.trace(DropPath(0.5), x, check_trace=False)
    assert scripted(x[:7]).shape == x[:7].shape


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 3, 1), StochasticResidual(0.5)

    def forward(self, x):
        return self.gate(self.conv, x, x)


def test_a_gate_that_would_be_frozen_in_a_graph_says_what_to_do():
    model = nn.Sequential(Gated(), nn.ReLU())
    with pytest.raises(RuntimeError, match="keep the module that holds it whole"):
        create_feature_extractor(model, ["1"])
    extractor = create_feature_extractor(model, ["1"], tracer_kwargs={"leaf_modules": [Gated]}).eval()
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(extractor(x)["1"], model.eval()(x))


@pytest.mark.filterwarnings("ignore:`torch.jit")  # with which PyTorch itself makes its rules of jvp
@pytest.mark.parametrize("rescale", ["none", "train"])
@pytest.mark.parametrize("mode", MODES)
def test_transforms_of_torch_func_agree_with_the_backward_pass(mode, rescale):
    torch.manual_seed(0)
    gate, conv, x = (
        StochasticResidual(0.6, mode, rescale),
        nn.Conv2d(3, 3, 1).double(),
        torch.randn(6, 3, 4, 4).double(),
    )

    def loss(weights, x):
        torch.manual_seed(3)
        return gate(lambda rows: torch.func.functional_call(conv, weights, rows), x, x).square().sum()

    weights = dict(conv.named_parameters())
    expected = torch.autograd.grad(loss(weights, x.requires_grad_()), [*weights.values(), x])
    assert gate.last_share > 0.0
    assert mode == "batch" or gate.last_share < 1.0
    weights, x = {key: value.detach() for key, value in weights.items()}, x.detach()
    of_weights, of_x = torch.func.grad(loss, argnums=(0, 1))(weights, x)
    for got, wanted in zip([*of_weights.values(), of_x], expected, strict=True):
        torch.testing.assert_close(got, wanted)
    _, slope = torch.func.jvp(lambda x: loss(weights, x), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(slope, expected[-1].sum())


@pytest.mark.parametrize("mode", MODES)
def test_where_hooks_on_saved_tensors_are_forbidden_rows_are_kept(mode):
    torch.manual_seed(0)
    gate, layer, x = StochasticResidual(0.5, mode), nn.Linear(3, 3), torch.randn(6, 3, requires_grad=True)
    for _ in range(4):
        with torch.autograd.graph.disable_saved_tensors_hooks("no hooks here"):
            out = gate(layer, x, x)
        out.sum().backward()


class Token: ...


@pytest.mark.parametrize("mode", MODES)
def test_a_forward_pass_without_a_backward_pass_leaves_nothing_behind(mode):
    """Autograd holds the hooks on saved tensors, which must not hold the graph in turn: no collector sees that."""
    torch.manual_seed(0)
    gate, x = StochasticResidual(0.5, mode), torch.randn(8, 4, 5, 5, requires_grad=True)
    alive = []

    def branch(rows):
        out = nn.functional.softmax(rows * 2.0, 1)  # autograd saves the output of both
        hidden = out.exp()
        token = Token()
        hidden.grad_fn.metadata["token"] = token  # lives as long as the node
        alive.append(weakref.ref(token))
        return hidden

    for _ in range(8):
        gate(branch, x * 1.0, x * 1.0)
    assert len(alive) > 1
    assert not any(token() is not None for token in alive)


@pytest.mark.parametrize("when", ["second hook", "in the branch"])
def test_an_interrupt_leaves_no_norm_in_evaluation_mode_and_no_hook(when, monkeypatch):
    branch, x = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4)), torch.randn(1, 4, 1, 1)
    if when == "second hook":
        register = nn.BatchNorm2d.register_forward_pre_hook

        def interrupted(norm, hook):
            if norm is branch[1]:
                raise KeyboardInterrupt
            return register(norm, hook)

        monkeypatch.setattr(nn.BatchNorm2d, "register_forward_pre_hook", interrupted)
    else:
        monkeypatch.setattr(branch[1], "forward", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        call_on_single_row(branch, x)
    assert all(norm.training and not norm._forward_pre_hooks for norm in branch)


@pytest.mark.parametrize("mode", MODES)
def test_batched_gradients_are_those_of_one_backward_pass_each(mode):
    torch.manual_seed(0)
    gate, linear, x = StochasticResidual(0.5, mode), nn.Linear(3, 3).double(), torch.randn(6, 3).double()

    def function(x):
        torch.manual_seed(3)
        return gate(linear, x, x)

    one_by_one = torch.autograd.functional.jacobian(function, x)
    assert torch.equal(torch.autograd.functional.jacobian(function, x, vectorize=True), one_by_one)
    x.requires_grad_()
    seeds = torch.randn(4, 6, 3).double()
    (batched,) = torch.autograd.grad(function(x), x, seeds, is_grads_batched=True)
    for seed, gradient in zip(seeds, batched, strict=True):
        torch.testing.assert_close(gradient, torch.autograd.grad(function(x), x, seed)[0])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("randomness", ["error", "different"])
def test_vmap_over_gates_says_which_randomness_they_need(mode, randomness):
    gate, linear, x = StochasticResidual(0.5, mode), nn.Linear(3, 3), torch.randn(2, 6, 3)
    with pytest.raises(RuntimeError, match=r"draws gates.*vmap\(\.\.\., randomness='same'\)"):
        torch.func.vmap(lambda x: gate(linear, x, x), randomness=randomness)(x)
    torch.manual_seed(0)
    out = torch.func.vmap(lambda x: gate(linear, x, x), randomness="same")(x)
    torch.manual_seed(0)
    torch.testing.assert_close(out[0], gate(linear, x[0], x[0]))


def test_the_probability_of_a_stochastic_block_is_read_and_set_by_its_tutorial_name():
    block = StochasticDepthBlock(_Residual(None), 0.6)
    assert block.stoch_depth_probability == 0.6
    block.stoch_depth_probability = torch.tensor(0.25)
    assert (block.survival_prob, block.stoch_depth_probability) == (0.25, 0.25)
    assert survival_probs(block) == [0.25]
    with pytest.raises(ValueError, match=r"stoch_depth_probability must be a probability in \[0, 1\], got 1.5"):
        block.stoch_depth_probability = 1.5


def _files_of_a_block_forward(mode):
    """Files of the package whose functions are called in the training forward of one block."""
    model = sdm.cifar_resnet20_stodepth_lineardecay(mode=mode, prob_0_L=(0.5, 0.5), rescale="train")
    block = model.layer1[1]
    x = torch.randn(16, 16, 8, 8, requires_grad=True).relu()
    package = Path(sdm.__file__).parent
    files = set()

    def collect(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(package):
            files.add(path.relative_to(package).as_posix())

    torch.manual_seed(3)
    sys.setprofile(collect)
    try:
        block(x)
    finally:
        sys.setprofile(None)
    assert 0.0 < block.residual.last_share < 1.0
    return files


@pytest.mark.parametrize("mode", ["row", "subset"])
def test_a_step_on_some_rows_reads_in_five_files(mode):
    assert _files_of_a_block_forward(mode) == {
        "blocks/gated.py",
        "blocks/torchvision.py",
        "layers/draw.py",
        "layers/residual.py",
        "layers/rows.py",
    }
