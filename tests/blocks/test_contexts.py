"""Converted models of timm where training puts them: checkpointing, the compiler, averages, files, autocast, masks."""

import copy

import pytest
import timm
import torch
from library_masks import Draws, give_gates, give_masks
from timm.utils import ModelEmaV3
from timm.utils.model import reparameterize_model
from timm_families import FAMILIES, build, images
from torch import nn

import stodepth_models as sdm
from stodepth_models.blocks.masks import mask_rate, masks_rows

TRANSFORMERS = ("vision_transformer", "swin_transformer", "convnext")


def converted(family: str, **settings) -> tuple[nn.Module, torch.Tensor]:
    model = build(family).float()
    sdm.apply_stochastic_depth(model, drop_rate=None, stochastic_method="sample", **settings)
    return model, images(family).float()


def step(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output and gradients of a training step with given gates."""
    model.zero_grad()
    torch.manual_seed(3)
    out = model.train()(x)
    out.square().sum().backward()
    found = {"output": out.detach()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name.removeprefix("_orig_mod.")] = parameter.grad.clone()
    return found


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, msg=name)


@pytest.mark.parametrize("family", [*TRANSFORMERS, "eva", "levit", "cait"])
def test_timms_gradient_checkpointing_draws_the_same_gates_again(family):
    model, x = converted(family)
    expected = step(model, x)
    model.set_grad_checkpointing(True)
    assert_same(step(model, x), expected)


@pytest.mark.parametrize("family", ["swin_transformer", "hiera", "davit"])
def test_evaluation_compiles_as_one_graph(family):
    model, x = converted(family)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


# The compiler looks at the gradient of every tensor that it meets.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_training_under_the_compiler_is_that_of_eager_mode():
    model, x = converted("vision_transformer")
    expected = step(model, x)
    assert_same(step(torch.compile(model, backend="eager"), x), expected)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_averages_of_weights_are_copies_with_gates(family):
    model, x = converted(family)
    average = ModelEmaV3(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update(model)
    twin = build(family).float()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
        torch.testing.assert_close(average.module.eval()(x), twin(x), rtol=1e-3, atol=1e-3)
    assert sdm.survival_probs(average.module) == sdm.survival_probs(model)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_files_have_the_names_of_timm_and_load_with_and_without_gates(family, tmp_path):
    model, x = converted(family)
    plain = build(family).float()
    assert list(model.state_dict()) == list(plain.state_dict())
    torch.save(model.state_dict(), tmp_path / "model.pth")
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
        timm.models.load_checkpoint(plain, str(tmp_path / "model.pth"))
        assert torch.equal(plain(x), model(x))


@pytest.mark.parametrize("family", ["vision_transformer", "swin_transformer", "convnext", "pvt_v2", "xcit", "cait"])
def test_under_autocast_gates_compute_what_masks_compute(family, monkeypatch):
    model, x = build(family).float().train(), images(family).float()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.modules.batchnorm._BatchNorm)):
            module.eval()
    masked = give_masks(copy.deepcopy(model), Draws(4))
    sdm.apply_stochastic_depth(model, drop_rate=None, stochastic_method="sample")
    give_gates(monkeypatch, Draws(4))
    outputs, gradients = [], []
    for network in (masked, model):
        with torch.autocast("cpu", torch.bfloat16):
            outputs.append(network(x))
        outputs[-1].float().square().sum().backward()
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
        gradients.append(torch.cat([grad.flatten() for grad in flat]))
    assert outputs[0].dtype == outputs[1].dtype
    # Rounding of bfloat16: 8 bits of mantissa, over a few blocks.
    error = (outputs[0] - outputs[1]).float().norm() / outputs[0].float().norm()
    assert error < 0.02
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_are_back_with_their_rates(family):
    model = build(family)
    before = {name: mask_rate(module) for name, module in model.named_modules() if masks_rows(module)}
    sdm.apply_stochastic_depth(model, drop_rate=None)
    sdm.remove_stochastic_depth(model)
    assert before == {name: mask_rate(module) for name, module in model.named_modules() if masks_rows(module)}
    assert before


def block_of(family: str, name: str) -> nn.Module:
    model = build(family)
    sdm.apply_stochastic_depth(
        model, drop_rate=0.5, drop_distribution="uniform", stochastic_method="sample", rescale="none"
    )
    return next(block for block in model.modules() if type(block).__name__ == f"StoDepth{name}")


@pytest.mark.parametrize(
    ("family", "name", "argument", "shape"),
    [
        ("vision_transformer", "Block", "attn_mask", (4, 1, 5, 5)),
        ("vision_transformer", "Block", "attn_mask", (4, 5)),
        ("eva", "EvaBlock", "rope", (4, 1, 5, 32)),
        ("relpos", "RelPosBlock", "shared_rel_pos", (4, 5, 5)),
        ("mobilevitv2", "LinearTransformerBlock", "x_prev", None),
    ],
)
def test_an_argument_with_a_row_for_each_sample_is_cut_or_shared(family, name, argument, shape, monkeypatch):
    """What the branch gets for rows 1 and 3: two rows of four where there is one a sample, and all of it otherwise."""
    block = block_of(family, name).train()
    kept = torch.tensor([1, 3])
    monkeypatch.setattr("stodepth_models.layers.residual.draw_rows", lambda *_: kept)
    seen = []

    def attend(x, *args, **kwargs):
        values = {**dict(zip(["x_prev"], args, strict=False)), **kwargs}
        seen.append((len(x), values[argument]))
        return x

    monkeypatch.setattr(block.attn, "forward", attend)
    channels = next(parameter for parameter in block.norm1.parameters()).shape[0]
    x = torch.randn(4, 5, channels, dtype=torch.float64)
    if shape is None:
        x = torch.randn(4, channels, 4, 9, dtype=torch.float64)
        shape = x.shape
    value = torch.randn(shape, dtype=torch.float64)
    block(x, **{argument: value})
    count, given = seen[0]
    assert count == 2
    is_cut = argument == "x_prev" or (argument in ("attn_mask", "rope") and len(shape) == 4)
    assert torch.equal(given, value[kept] if is_cut else value)


@pytest.mark.parametrize("family", ["cait", "xcit"])
def test_class_attention_trains_the_class_token_of_surviving_rows(family, monkeypatch):
    model = build(family)
    sdm.apply_stochastic_depth(model, drop_rate=1.0, drop_distribution="uniform", stochastic_method="sample")
    x = images(family)
    out = model.train()(x)
    # No branch is computed: all images leave with the class token that they came with.
    torch.testing.assert_close(out, out[:1].expand_as(out))
    out.sum().backward()
    blocks = [block for block in model.modules() if hasattr(block, "stodepth_gates")]
    of_branches = [p.grad for block in blocks for n, p in block.named_parameters() if "attn" in n]
    assert all(grad is None for grad in of_branches)


def test_masks_that_stay_are_named_in_the_log(caplog):
    with torch.device("meta"):
        model = timm.create_model("regnetz_b16", drop_path_rate=0.3)
    sdm.apply_stochastic_depth(model, drop_rate=None)
    assert [record.getMessage() for record in caplog.records] == [
        "ByobNet: the masks (drop path) in BottleneckBlock without a shortcut stay"
    ]


def test_a_model_that_would_be_half_converted_is_refused_unless_the_blocks_are_chosen(caplog):
    model = nn.Sequential(build("vision_transformer"), timm.models.vision_transformer_sam.Block(8, 2, drop_path=0.2))
    with pytest.raises(
        ValueError, match=r"Sequential masks branches \(drop path\) in Block too, where the masks would"
    ):
        sdm.apply_stochastic_depth(model, drop_rate=None)
    assert sdm.apply_stochastic_depth(model, timm.models.vision_transformer.Block, drop_rate=None) > 0
    assert caplog.records[-1].getMessage() == "Sequential: the masks (drop path) in Block stay"


@pytest.mark.parametrize("family", ["byobnet, repvgg", "byobnet, mobileone"])
def test_blocks_that_were_reparameterized_have_no_branch_for_their_gates(family):
    model, x = converted(family)
    expected = model.eval()(x)
    scaled = copy.deepcopy(model)
    sdm.apply_stochastic_depth(scaled, drop_rate=0.5, rescale="eval")
    for network in (model, scaled):
        reparameterize_model(network, inplace=True)
        with pytest.raises(RuntimeError, match=r"was reparameterized while it had a gate.*remove_stochastic_depth"):
            network(x)
    sdm.remove_stochastic_depth(model)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="cannot be folded into its weights"):
        sdm.remove_stochastic_depth(scaled)  # the scale that it had is lost


def test_masks_that_do_not_divide_survivors_are_not_taken_for_such_that_do():
    model = build("vision_transformer")
    masks = [module for module in model.modules() if masks_rows(module)]
    masks[-1].scale_by_keep = False
    with pytest.raises(ValueError, match=r"has scale_by_keep=False.*give rescale='none'"):
        sdm.apply_stochastic_depth(model, drop_rate=None)
    assert sdm.survival_probs(model) == []
    assert sdm.apply_stochastic_depth(model, drop_rate=None, rescale="none") > 0


def test_flops_of_a_model_that_hands_a_parameter_to_its_blocks():
    model, x = converted("cait")
    assert 0.5 < sdm.expected_flops(model, tuple(x.shape)).share < 1.0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_known_blocks_that_have_no_shortcut_in_this_model_are_named():
    model = timm.create_model("test_efficientnet", drop_path_rate=0.3)
    with pytest.raises(ValueError, match=r"; without a shortcut in this model: ConvBnAct, EdgeResidual, Inv\w+; block"):
        sdm.apply_stochastic_depth(model)
