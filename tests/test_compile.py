"""torch.compile, torch.export, ONNX and tracing: graphs stay few, gates stay random, evaluation is one graph."""

import copy
import logging

import pytest
import timm
import torch
import torch._dynamo
from torch._dynamo.utils import counters
from torchvision.models import resnet18

import stodepth_models as sdm
from stodepth_models.layers.draw import MODES

# The compiler itself looks at the gradients of what it is handed after a graph break.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def _graphs():
    return counters["stats"]["unique_graphs"]


def _limit_hits(caplog):
    return [record for record in caplog.records if "recompile_limit" in record.getMessage()]


@pytest.mark.parametrize("build", [sdm.cifar_resnet20_stodepth_lineardecay, sdm.resnet18_stodepth_lineardecay])
@pytest.mark.parametrize("mode", MODES)
def test_training_with_gates_is_left_to_eager_mode(mode, build):
    model, x = build(mode=mode), torch.randn(4, 3, 32, 32)
    compiled = torch.compile(model, backend="eager")
    for _ in range(3):
        compiled(x).sum().backward()
    assert _graphs() == 0
    sdm.set_survival_probs(model, 1.0)
    compiled(x)
    assert _graphs() == 1


def test_a_foreign_network_is_compiled_around_its_blocks():
    model = resnet18()
    sdm.apply_stochastic_depth(model, drop_rate=0.5, drop_distribution="uniform")
    compiled, seen = torch.compile(model, backend="eager"), []
    model.layer1[0].conv1.register_forward_hook(lambda *_: seen.append(torch.compiler.is_compiling()))
    for _ in range(6):
        compiled(torch.randn(4, 3, 32, 32)).sum().backward()
    assert _graphs() <= 16
    assert 1 <= len(seen) <= 6
    assert not any(seen)


@pytest.mark.parametrize("mode", MODES)
def test_compiled_training_draws_the_gates_of_eager_training(mode):
    torch.manual_seed(0)
    model = sdm.cifar_resnet20_stodepth_lineardecay(mode=mode, prob_0_L=(0.8, 0.3))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # both runs see the same statistics
    compiled, x = torch.compile(model, backend="aot_eager"), torch.randn(6, 3, 16, 16)

    def run(network):
        torch.manual_seed(7)
        results = []
        for _ in range(4):
            model.zero_grad()
            out = network(x)
            out.square().sum().backward()
            results.append((out.detach(), [p.grad for p in model.parameters()]))
        return results

    eager, traced = run(model), run(compiled)
    assert len({out.sum().item() for out, _ in eager}) > 1
    for (out, grads), (twin_out, twin_grads) in zip(eager, traced, strict=True):
        torch.testing.assert_close(twin_out, out, rtol=1e-4, atol=1e-5)
        for grad, twin in zip(grads, twin_grads, strict=True):
            assert (grad is None) == (twin is None)
            if grad is not None:
                torch.testing.assert_close(twin, grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("survival", [(1.0, 0.5), (0.0, 0.0)])
def test_compiled_evaluation_is_one_graph(survival):
    model, x = sdm.resnet18_stodepth_lineardecay(prob_0_L=survival).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
    assert _graphs() == 1


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("builder", [sdm.resnet18_stodepth_lineardecay, sdm.cifar_resnet20_stodepth_lineardecay])
def test_export_of_evaluation(builder, strict):
    model, x = builder().eval(), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.export.export(model, (x,), strict=strict).module()(x), model(x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("strict", [False, True])
def test_export_of_training_is_refused(strict, mode):
    model = sdm.cifar_resnet20_stodepth_lineardecay(mode=mode)
    with pytest.raises(Exception, match=r"call model\.eval\(\)"):
        torch.export.export(model, (torch.randn(2, 3, 32, 32),), strict=strict)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace_of_evaluation_works_and_of_training_is_refused():
    model, x = sdm.cifar_resnet20_stodepth_lineardecay(), torch.randn(2, 3, 32, 32)
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\)"):
        torch.jit.trace(model, x)
    torch.testing.assert_close(torch.jit.trace(model.eval(), x)(x), model(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_gives_the_same_logits():
    onnxruntime = pytest.importorskip("onnxruntime")
    model, x = sdm.cifar_resnet20_stodepth_lineardecay().eval(), torch.randn(2, 3, 32, 32)
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-4, atol=1e-4)


def test_blocks_that_begin_to_drop_one_by_one_do_not_use_up_the_recompilations(caplog):
    model, x = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0)), torch.randn(4, 3, 16, 16)
    compiled, seen = torch.compile(model, backend="eager"), []
    with caplog.at_level(logging.WARNING):
        for certain in reversed(range(9)):
            sdm.set_survival_probs(model, [1.0] * certain + [0.8] * (9 - certain))
            compiled(x).sum().backward()
    assert _limit_hits(caplog) == []
    model.layer1[0].conv1.register_forward_hook(lambda *_: seen.append(torch.compiler.is_compiling()))
    model.eval()
    compiled(x)
    assert seen == [True]


def test_a_gate_sees_that_the_shortcut_is_the_input():
    block, seen = timm.create_model("resnet18").layer1[0], []
    sdm.apply_stochastic_depth(block, "BasicBlock", "sample", 0.5)
    block.stochastic_residual.register_forward_pre_hook(lambda _, given: seen.append(given[1] is given[2]))
    block(torch.randn(4, 64, 3, 3))
    assert seen == [True]


def test_recomputed_stages_at_survival_1_are_one_graph_and_count_a_batch_once():
    torch.manual_seed(0)
    model, x = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 1.0)).double(), torch.randn(4, 3, 16, 16).double()
    twin = copy.deepcopy(model)
    for stage in (twin.layer1, twin.layer2, twin.layer3):
        stage.checkpoint = True
    for network in (model, torch.compile(twin, fullgraph=True, backend="aot_eager")):
        network(x).square().sum().backward()
    assert _graphs() == 1
    for (name, ours), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(theirs, ours, msg=name)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad)


def test_recomputed_stages_with_gates_are_left_to_eager_mode():
    model = sdm.cifar_resnet20_stodepth_lineardecay(checkpoint_stages=True)
    compiled, seen = torch.compile(model, backend="eager"), []
    model.layer1[0].conv1.register_forward_hook(lambda *_: seen.append(torch.compiler.is_compiling()))
    compiled(torch.randn(4, 3, 16, 16)).sum().backward()
    assert _graphs() == 0
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("mode", MODES)
def test_a_foreign_network_in_training_does_not_hit_the_recompile_limit(mode, caplog):
    torch.manual_seed(0)
    model = timm.create_model("resnet26")
    sdm.apply_stochastic_depth(model, stochastic_method=mode, drop_rate=0.5)
    schedule = sdm.SurvivalSchedule(model, total_steps=4)
    compiled, history = torch.compile(model, backend="eager"), []
    with caplog.at_level(logging.WARNING):
        for batch in (4, 4, 3, 4, 2, 4, 4):
            schedule.step()
            compiled(torch.randn(batch, 3, 32, 32)).sum().backward()
            history.append(_graphs())
    assert _limit_hits(caplog) == []
    assert history[-1] == history[-2]  # warm
