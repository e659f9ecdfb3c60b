"""timm's blocks with gates: the same function as with timm's masks, and no mask left behind."""

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

import stodepth_models.layers.residual as residual
from stodepth_models import apply_stochastic_depth, fold_rescale, remove_stochastic_depth
from stodepth_models.blocks.gated import GatedBlock
from stodepth_models.blocks.masks import masks_rows

RATE = 0.3
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
WINDOWS = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
INVERTED = "_efficientnet_blocks."


def of_model(name: str, size: int, **settings: Any) -> tuple[Callable[[float], nn.Module], tuple[int, ...]]:
    """What builds a small model with a drop path rate, and the shape of one of its images."""
    return lambda rate: timm.create_model(name, num_classes=5, drop_path_rate=rate, **settings), (3, size, size)


def of_blocks(
    name: str, *channels: tuple[int, int], rate_name: str = "drop_path_rate", **settings: Any
) -> tuple[Callable[[float], nn.Module], tuple[int, ...]]:
    """What builds blocks of one class in a row, from their numbers of channels, and the shape of an input."""
    module_name, class_name = name.split(".")
    cls = getattr(import_module(f"timm.models.{module_name}"), class_name)

    def build_blocks(rate: float) -> nn.Module:
        return nn.Sequential(*(cls(*pair, **settings, **{rate_name: rate}) for pair in channels))

    return build_blocks, (channels[0][0], 8, 8)


FAMILIES = {
    "vision_transformer": of_model("test_vit", 64),
    "vision_transformer, layer scale": of_model("vit_tiny_patch16_224", 32, **VIT, init_values=0.1),
    "vision_transformer, norms behind": of_model("vit_base_patch16_rpn_224", 32, **VIT),
    "vision_transformer, parallel": of_model("vit_base_patch16_xp_224", 32, **VIT, init_values=0.1),
    "vision_transformer, differential": of_model("vit_dpwee_patch16_reg1_gap_256", 32, **{**VIT, "num_heads": 1}),
    "deit": of_model("deit3_small_patch16_224", 32, **VIT),
    "naflexvit": of_model("naflexvit_base_patch16_gap", 32, patch_size=8, embed_dim=32, depth=3, num_heads=2),
    "eva": of_model("eva02_tiny_patch14_224", 32, **VIT),
    "eva, norms behind": of_model("eva02_enormous_patch14_clip_224", 32, **{**VIT, "mlp_ratio": 2.0}),
    "beit": of_model("beit_base_patch16_224", 32, **VIT, init_values=0.1),
    "beit, shared positions": of_model("beit_base_patch16_224", 32, **VIT, use_shared_rel_pos_bias=True),
    "cait": of_model("cait_xxs24_224", 32, **VIT),
    "swin_transformer": of_model("swin_tiny_patch4_window7_224", 64, **WINDOWS),
    "swin_transformer_v2": of_model("swinv2_tiny_window8_256", 64, **WINDOWS),
    "xcit": of_model("xcit_nano_12_p16_224", 32, embed_dim=32, depth=3, num_heads=2),
    "xcit, norm of all tokens": of_model("xcit_tiny_12_p16_224", 32, embed_dim=32, depth=2, num_heads=2),
    "mlp_mixer": of_model("mixer_s32_224", 32, img_size=32),
    "mlp_mixer, resmlp": of_model("resmlp_12_224", 32, img_size=32),
    "mlp_mixer, gmlp": of_model("gmlp_ti16_224", 32, img_size=32),
    "metaformer": of_model("poolformer_s12", 32),
    "metaformer, attention": of_model("caformer_s18", 32),
    "coatnet": of_model("test_coatnet", 160),
    "maxvit": of_model("test_maxvit", 160),
    "maxxvit": of_model("maxxvit_rmlp_nano_rw_256", 64, img_size=64),
    "maxvit, parallel": of_model("maxvit_tiny_pm_256", 64, img_size=64, embed_dim=(32, 32), depths=(1, 1)),
    "convnext": of_model("test_convnext", 64),
    "convnext, response norm": of_model("test_convnext3", 64),
    "resnetv2": of_model("resnetv2_50", 64, layers=(1, 2), channels=(16, 32), stem_chs=8),
    "resnetv2, basic": of_model("resnetv2_18", 64, layers=(1, 2), channels=(8, 16), stem_chs=8),
    "resnetv2, standardised weights": of_blocks("resnetv2.PreActBottleneck", (32, 32), bottle_ratio=1.0),
    "resnetv2, activation behind": of_blocks("resnetv2.Bottleneck", (32, 32), bottle_ratio=1.0),
    "regnet": of_model("regnety_002", 64),
    "regnet, norms in front": of_blocks("regnet.PreBottleneck", (16, 16), (16, 32), group_size=8),
    "nfnet": of_model("test_nfnet", 64),
    "nfnet, attention at the end": of_model("nf_ecaresnet26", 64),
    "efficientnet": of_model("efficientnet_b1", 64),
    "efficientnet, experts": of_blocks(f"{INVERTED}CondConvResidual", (16, 16), num_experts=4),
    "efficientnet, fused": of_blocks(f"{INVERTED}EdgeResidual", (16, 16), exp_ratio=4),
    "efficientnet, convolution": of_blocks(f"{INVERTED}ConvBnAct", (16, 16), kernel_size=3, skip=True),
    "mobilenetv4": of_model("mobilenetv4_hybrid_medium", 64),
    "mobilenetv4, position": of_blocks(f"{INVERTED}MobileAttention", (16, 16), use_cpe=True, num_heads=2),
    "byobnet": of_model("test_byobnet", 64),
    "byobnet, self-attention": of_model("botnet26t_256", 64, img_size=64),
    "byobnet, edge": of_blocks("byobnet.EdgeBlock", (16, 16), (16, 32)),
    "byobnet, repvgg": of_blocks("byobnet.RepVggBlock", (16, 16), (16, 16)),
    "byobnet, mobileone": of_blocks("byobnet.MobileOneBlock", (16, 16), num_conv_branches=2),
    "cspnet": of_blocks("cspnet.DarkBlock", (16, 16), rate_name="drop_path"),
    "cspnet, bottleneck": of_blocks("cspnet.BottleneckBlock", (16, 16), rate_name="drop_path"),
    "cspnet, edge": of_blocks("cspnet.EdgeBlock", (16, 16), rate_name="drop_path"),
}


def build(family: str, rate: float = RATE) -> nn.Module:
    torch.manual_seed(0)
    model = FAMILIES[family][0](rate).double()
    for parameter in model.parameters():
        # A branch that starts at zero would hide what happens to it.
        if parameter.dim() < 2 or not parameter.any():
            nn.init.uniform_(parameter, 0.2, 0.5)
    return model.eval()


def images(family: str, count: int = 4) -> torch.Tensor:
    shape = FAMILIES[family][1]
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


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


def keep_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let timm's masks and our gates keep the same rows, drawn anew for each call; the number of rows kept."""
    counts: list[int] = []

    def rows(batch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(len(counts))
        kept = (torch.rand(batch, generator=generator) < 0.6).nonzero().squeeze(1)
        counts.append(len(kept))
        return kept

    def mask(self: DropPath, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        kept = x.new_zeros(len(x), *[1] * (x.dim() - 1))
        kept[rows(len(x))] = 1.0 / (1.0 - self.drop_prob)
        return x * kept

    monkeypatch.setattr(DropPath, "forward", mask)
    monkeypatch.setattr(residual, "draw_rows", lambda mode, prob, batch, sync: rows(batch))
    return counts


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_stays_bit_equal(family):
    model, x = build(family), images(family)
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
    counts = keep_rows(monkeypatch)
    for model in (masked, gated):
        train_without_batch_statistics(model)
    expected = outputs_and_gradients(masked, images(family))
    masked_counts = [*counts]
    counts.clear()
    found = outputs_and_gradients(gated, images(family))
    assert counts == masked_counts
    assert sum(counts) < 4 * len(counts)
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


# A class attention passes patches on; the others end in attention, an activation, or a weight that is standardised.
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
