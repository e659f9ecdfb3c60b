"""timm's blocks with gates: the same function as with timm's masks, and no mask left behind."""

import copy

import pytest
import torch
from timm.layers import DropPath
from timm_families import FAMILIES, build, images
from torch import nn

import stodepth_models.layers.residual as residual
from stodepth_models import apply_stochastic_depth, fold_rescale, remove_stochastic_depth
from stodepth_models.blocks.gated import GatedBlock
from stodepth_models.blocks.masks import masks_rows


def train_without_batch_statistics(model: nn.Module) -> None:
    """Rows then do not depend on one another, as in models without batch norm. Dropout is off too."""
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout)):
            module.eval()


def outputs_and_gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    out.square().sum().backward()
    found = {"output": out.detach(), "input": x.grad}
    for name, parameter in model.named_parameters():
        found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return found


def keep_rows(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """Let timm's masks and our gates keep the same rows, drawn anew for each call; the numbers kept, and of rows."""
    counts: list[int] = []
    batches: list[int] = []

    def rows(batch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(counts))
        kept = (torch.rand(batch, generator=generator) < 0.6).nonzero().squeeze(1)
        counts.append(len(kept))
        batches.append(batch)
        return kept

    def mask(self: DropPath, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        kept = x.new_zeros(len(x), *[1] * (x.dim() - 1))
        kept[rows(len(x))] = 1.0 / (1.0 - self.drop_prob)
        return x * kept

    monkeypatch.setattr(DropPath, "forward", mask)
    monkeypatch.setattr(residual, "draw_rows", lambda mode, prob, batch, sync: rows(batch))
    return counts, batches


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_stays_bit_equal(family, memory_format):
    model = build(family).to(memory_format=memory_format)
    x = images(family).to(memory_format=memory_format)
    with torch.no_grad():
        expected = model(x)
        assert apply_stochastic_depth(model, drop_rate=None) > 0
        assert torch.equal(model(x), expected)
        remove_stochastic_depth(model)
        assert torch.equal(model(x), expected)
    assert not any(isinstance(module, GatedBlock) for module in model.modules())
    assert any(masks_rows(module) for module in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_of_rows_compute_what_masks_compute(family, monkeypatch):
    masked = build(family)
    gated = copy.deepcopy(masked)
    apply_stochastic_depth(gated, drop_rate=None, stochastic_method="sample")
    counts, batches = keep_rows(monkeypatch)
    for model in (masked, gated):
        train_without_batch_statistics(model)
    expected = outputs_and_gradients(masked, images(family))
    masked_counts = [*counts]
    counts.clear()
    found = outputs_and_gradients(gated, images(family))
    assert counts == masked_counts
    assert sum(counts) < sum(batches)
    for name, value in expected.items():
        error = (found[name] - value).abs().max() / value.abs().max().clamp(min=1.0)
        assert error < 1e-10, name


@pytest.mark.parametrize("family", ["vision_transformer", "cait", "convnext", "resnetv2", "efficientnet", "xcit"])
def test_a_gate_of_a_batch_is_drawn_once_a_connection(family, monkeypatch):
    model = build(family)
    apply_stochastic_depth(model, drop_rate=None, stochastic_method="block")
    draws: list[float] = []
    monkeypatch.setattr(residual, "draw_batch", lambda prob, sync: draws.append(prob) or False)
    monkeypatch.setattr(residual, "draw_rows", lambda *settings: pytest.fail("rows were drawn"))
    train_without_batch_statistics(model)
    model(images(family))
    gates = [gate for block in model.modules() if isinstance(block, GatedBlock) for gate in block.stodepth_gates]
    assert draws == [gate.survival_prob for gate in gates if gate.survival_prob < 1]
    assert draws


# A class attention passes patches on; the others end in attention, an activation, any block, or a standardised weight.
NOT_FOLDABLE = (
    "xcit",
    "xcit, norm of all tokens",
    "resnetv2, standardised weights",
    "nfnet",
    "nfnet, attention at the end",
    "efficientnet, convolution",
    "byobnet",
    "cspnet",
    "cspnet, edge",
    "cspnext",
    "hgnet",
    "hgnetv2",
    "iformer",
    "lowformer",
    "tresnet",
    "vovnet",
)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NOT_FOLDABLE])
def test_a_scale_of_evaluation_is_folded_into_weights(family):
    model, x = build(family), images(family)
    apply_stochastic_depth(model, drop_rate=0.4, rescale="eval")
    with torch.no_grad():
        expected = model(x)
        remove_stochastic_depth(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", NOT_FOLDABLE)
def test_a_scale_that_no_weight_can_hold_is_refused(family):
    model = build(family)
    apply_stochastic_depth(model, drop_rate=0.4, rescale="eval")
    with pytest.raises(ValueError, match=r"cannot be folded into its weights: it (does not end|ends) in"):
        fold_rescale(model)
