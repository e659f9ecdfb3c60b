"""Blocks that users register: several connections, masks of their own, and classes that became known since."""

import copy

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import EncoderBlock
from torchvision.ops import StochasticDepth

from stodepth_models import apply_stochastic_depth, register_block, remove_stochastic_depth, survival_probs
from stodepth_models.blocks import registry


@pytest.fixture(autouse=True)
def own_registry():
    """What a test registers is forgotten behind it, by the classes with gates too."""
    before = dict(registry._specs)
    yield
    registry._specs.clear()
    for cls, spec in before.items():
        registry._enter(cls, spec)


class Masked(nn.Module):
    """A block with a mask of its own, and a second one where a rate for it is given."""

    def __init__(self, *rates, mask=DropPath):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        for number, rate in enumerate(rates):
            self.add_module(f"mask{number}", mask(rate))

    def forward(self, x):
        masks = [module for name, module in self.named_children() if name.startswith("mask")]
        x = x + masks[0](self.first(x))
        return x + masks[-1](self.second(x).tanh())


def first(block, x):
    return block.first(x)


def second(block, x):
    return block.second(x).tanh()


def register_masked():
    register_block(Masked, [{"branch": first, "last_norm": lambda block: block.first}, {"branch": second}])


def vit():
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()


def attend(block, x):
    x = x + block.dropout(block.self_attention(*[block.ln_1(x)] * 3, need_weights=False)[0])
    return x + block.mlp(block.ln_2(x))


@pytest.mark.parametrize(
    ("rates", "expected"), [((0.5, 0.25), [0.5, 0.75]), ((0.25,), [0.75, 0.75]), ((0.5, 0.0), [0.5, 1.0])]
)
def test_masks_of_a_registered_block_give_way_to_gates_with_their_rates(rates, expected):
    register_masked()
    model = nn.Sequential(Masked(*rates), Masked(*rates))
    x = torch.randn(4, 4)
    before = model.eval()(x)
    assert apply_stochastic_depth(model, drop_rate=None, stochastic_method="sample") == 2
    assert survival_probs(model) == expected * 2
    assert torch.equal(model(x), before)
    # Masks and gates in one block would drop rows twice.
    assert not any(isinstance(module, DropPath) and module.drop_prob > 0 for module in model.modules())
    remove_stochastic_depth(model)
    assert [getattr(model[1], f"mask{number}").drop_prob for number in range(len(rates))] == list(rates)


def test_masks_with_a_mode_of_their_own_give_way_too():
    register_masked()
    model = Masked(0.5, mask=lambda rate: StochasticDepth(rate, "row"))
    apply_stochastic_depth(model, drop_rate=None)
    assert survival_probs(model) == [0.5, 0.5]


def test_masks_that_belong_to_no_connection_are_named():
    register_block(Masked, branch=first)
    model = Masked(0.5, 0.25)
    with pytest.raises(ValueError, match=r"Masked has masks .* 2 rates and 1 residual connections: mask0, mask1; give"):
        apply_stochastic_depth(model, drop_rate=None)
    assert type(model) is Masked
    assert apply_stochastic_depth(model, drop_rate=0.5) == 1


def test_connections_of_a_list_are_gated_one_by_one(monkeypatch):
    register_masked()
    model = Masked(0.5).double().train()
    x = torch.randn(4, 4, dtype=torch.float64)
    apply_stochastic_depth(model, drop_rate=None, stochastic_method="sample")
    rows = iter([torch.tensor([0, 2]), torch.tensor([2, 3])])
    monkeypatch.setattr("stodepth_models.layers.residual.draw_rows", lambda *_: next(rows))
    expected = x.clone()
    expected[[0, 2]] += 2 * model.first(expected[[0, 2]])
    expected[[2, 3]] += 2 * model.second(expected[[2, 3]]).tanh()
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("branch", "others", "error", "message"),
    [
        ([], {}, ValueError, r"branch must be a function, or a list with a mapping .* got \[\]"),
        ([first], {}, TypeError, r"each description in branch must be a mapping, got <function first"),
        ([{"identity": first}], {}, ValueError, r"must have a 'branch'.*identity, activation, last_norm, got identity"),
        ([{"branch": first, "norm": 1}], {}, ValueError, r"beside it only identity, .*, got branch, norm"),
        ([{"branch": 1}], {}, TypeError, r"branch must be a function of the block and x, got 1"),
        ([{"branch": first}], {"last_norm": first}, ValueError, r"last_norm must stand in the descriptions"),
    ],
)
def test_descriptions_are_checked(branch, others, error, message):
    with pytest.raises(error, match=message):
        register_block(Masked, branch, **others)
    assert registry.find_spec(Masked) is None


def test_a_script_that_describes_a_class_that_is_known_since_goes_on(caplog):
    model = vit()
    x = torch.randn(2, 3, 32, 32)
    before = model(x)
    for _ in range(2):
        register_block(EncoderBlock, branch=lambda block, x: attend(block, x) - x)
    assert [record.getMessage() for record in caplog.records] == [
        "torchvision.models.vision_transformer.EncoderBlock: what is registered takes the place of what is known of it"
    ]
    apply_stochastic_depth(model, drop_rate=0.5)
    assert survival_probs(model) == [0.75, 0.5]  # one gate a block, as the script says
    torch.testing.assert_close(model(x), before)
    assert survival_probs(copy.deepcopy(model)) == [0.75, 0.5]


def test_models_that_are_stochastic_already_keep_their_gates_when_their_class_is_described_anew():
    model = vit()
    x = torch.randn(2, 3, 32, 32)
    apply_stochastic_depth(model, drop_rate=0.5)
    before = model(x)
    register_block(EncoderBlock, branch=lambda block, x: attend(block, x) - x)
    assert torch.equal(model(x), before)
    assert len(survival_probs(model)) == 4
    remove_stochastic_depth(model)
    assert apply_stochastic_depth(model, drop_rate=0.5) == 2
    assert len(survival_probs(model)) == 2


@pytest.mark.parametrize("cls", [timm.models.vision_transformer.Block, timm.models.convnext.ConvNeXtBlock])
def test_a_class_of_timm_that_is_known_since_is_described_anew(cls, caplog):
    register_block(cls, branch=lambda block, x: x)
    assert len(caplog.records) == 1
    assert len(registry.find_spec(cls).residuals) == 1


@pytest.mark.parametrize("cls", [timm.models.vision_transformer.Block, timm.models.convnext.ConvNeXtBlock])
def test_what_a_test_registers_is_forgotten(cls):
    spec = registry.find_spec(cls)
    assert spec.gated.stodepth_spec == spec
    assert not spec.takes_all_masks
