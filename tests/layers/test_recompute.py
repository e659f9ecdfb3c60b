"""Activation checkpointing: the same gradients, fewer saved bytes, and no second look at a dropped branch."""

import pytest
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import stodepth_models as sdm
from stodepth_models.blocks.fold import gated_blocks
from stodepth_models.layers.draw import MODES
from stodepth_models.layers.recompute import Stage


def _model(builder, mode, checkpoint_stages):
    torch.manual_seed(0)
    return builder(mode=mode, prob_0_L=(0.8, 0.3), num_classes=10, checkpoint_stages=checkpoint_stages).double()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("builder", [sdm.cifar_resnet32_stodepth_lineardecay, sdm.resnet34_stodepth_lineardecay])
def test_gradients_and_statistics_do_not_depend_on_checkpointing(builder, mode):
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    grads, states = [], []
    for checkpoint_stages in (False, True):
        model = _model(builder, mode, checkpoint_stages)
        torch.manual_seed(4)
        model(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
        states.append(model.state_dict())
    assert mode != "batch" or any(grad is None for grad in grads[0])
    for grad, twin in zip(*grads, strict=True):
        assert (grad is None) == (twin is None)
        if grad is not None:
            torch.testing.assert_close(twin, grad)
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value)


def test_stages_can_be_traced_and_sliced():
    model, x = _model(sdm.cifar_resnet20_stodepth_lineardecay, "batch", True), torch.randn(2, 3, 8, 8).double()
    extractor = create_feature_extractor(model, ["layer2.1"]).eval()
    hidden = model.eval().layer1(model.relu(model.bn1(model.conv1(x))))
    torch.testing.assert_close(extractor(x)["layer2.1"], model.layer2[:2](hidden))
    assert model.layer1[:2].checkpoint
    assert isinstance(model.layer1[0], sdm.StoDepthBasicBlock)


def test_dropped_branches_are_not_recomputed_and_kept_ones_once():
    model, calls = _model(sdm.cifar_resnet32_stodepth_lineardecay, "batch", True), {}
    for name, module in model.named_modules():
        if name.endswith("conv1"):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).sum().backward()
    kept = {name for name, p in model.named_parameters() if name.endswith("conv1.weight") and p.grad is not None}
    assert {f"{name}.weight" for name in calls} == kept
    assert 2 in calls.values()
    assert len(kept) < 16


def test_fewer_bytes_are_saved():
    def saved_bytes(model):
        total = 0

        def pack(saved):
            nonlocal total
            total += saved.numel() * saved.element_size()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            model(torch.randn(2, 3, 32, 32))
        return total

    plain, checkpointed = (
        sdm.cifar_resnet56_stodepth_lineardecay(prob_0_L=(1.0, 1.0), checkpoint_stages=flag) for flag in (False, True)
    )
    assert saved_bytes(checkpointed) < 0.5 * saved_bytes(plain)


@pytest.mark.parametrize(("blocks", "segments"), [(1, 1), (4, 2), (9, 3), (10, 3), (18, 4)])
def test_about_the_square_root_of_the_blocks_is_kept_at_a_time(blocks, segments):
    stage = Stage(*(nn.Linear(2, 2) for _ in range(blocks)), checkpoint=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.data_ptr()) or saved, lambda x: x):
        out = stage(torch.randn(3, 2, requires_grad=True))
    inputs = {pointer for pointer in kept if pointer}
    assert len(inputs) == segments
    out.sum().backward()
    assert all(block.weight.grad is not None for block in stage)


def test_evaluation_is_untouched():
    model = _model(sdm.cifar_resnet32_stodepth_lineardecay, "batch", True).eval()
    twin = _model(sdm.cifar_resnet32_stodepth_lineardecay, "batch", False).eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model(x), twin(x))


@pytest.mark.parametrize("mode", MODES)
def test_a_second_backward_pass_repeats_the_first(mode):
    model, x = _model(sdm.cifar_resnet20_stodepth_lineardecay, mode, True), torch.randn(3, 3, 16, 16).double()
    parameters = [*model.parameters()]
    loss = model(x).square().sum()
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for _ in range(2))
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert any(grad is not None for grad in first)
    assert model.layer1[0].bn1.momentum == 0.1
    assert model.layer1[0].bn1.num_batches_tracked in (0, 1)


@pytest.mark.parametrize("mode", MODES)
def test_gates_that_are_set_anew_before_the_backward_pass_change_no_gradient(mode):
    x, grads = torch.randn(6, 3, 16, 16).double(), []
    for checkpoint_stages in (False, True):
        model = _model(sdm.cifar_resnet20_stodepth_lineardecay, mode, checkpoint_stages)
        for _, _, gate in gated_blocks(model):
            gate.rescale = "train"
        torch.manual_seed(4)
        loss = model(x).square().sum()
        sdm.set_survival_probs(model, 0.9)
        loss.backward()
        assert sdm.survival_probs(model) == [0.9] * 9
        grads.append([p.grad for p in model.parameters()])
    for grad, twin in zip(*grads, strict=True):
        assert (grad is None) == (twin is None)
        if grad is not None:
            torch.testing.assert_close(twin, grad)
