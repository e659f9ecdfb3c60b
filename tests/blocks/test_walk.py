"""One model of each module of timm, and of each class of its blocks: converted as a whole, or refused by name.

``scripts/list_families.py`` does the same for every model.
"""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torchvision.models import swin_transformer

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
walk = importlib.import_module("walk")
convert, walk_timm = walk.convert, walk.walk_timm
walk_torchvision, walk_transformers = walk.walk_torchvision, walk.walk_transformers


def names_in(text: str) -> list[str]:
    return text.split()


CONVERTED = names_in("""
    beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coatnet_nano_rw_224 convit_tiny
    convnext_nano cpubone_nano cs3darknet_s cs3edgenet_x cspnext_tiny cspresnext50 davit_tiny
    deit_tiny_patch16_224 efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_cc_b0_4e
    efficientnetv2_rw_t eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_lrf gcvit_xxtiny gernet_s
    gmlp_ti16_224 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224 iformer_t inception_next_atto
    levit_128s levit_conv_128s lowformer_b0 mambaout_femto maxvit_nano_rw_256 maxxvit_rmlp_nano_rw_256
    mixer_s32_224 mobilenetv3_small_050 mobilenetv4_hybrid_medium mobileone_s0 mobilevit_xxs mobilevitv2_050
    mvitv2_tiny naflexvit_base_patch16_siglip nest_tiny nf_seresnet26 pit_ti_224 poolformer_s12 pvt_v2_b0
    regnetx_004_tv regnetz_b16 repvgg_a0 res2net50_26w_4s resmlp_12_224 resnet18 resnetv2_18 resnetv2_50
    rexnet_100 sam2_hiera_tiny skresnet18 skresnext50_32x4d starnet_s1 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tiny_vit_5m_224 tresnet_m
    twins_svt_small visformer_tiny vit_base_patch16_rpn_224 vit_base_patch16_xp_224
    vit_relpos_base_patch16_rpn_224 vit_relpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_r_s16_p8_224
    vitamin_small_224 volo_d1_224 xcit_nano_12_p8_224
""")
# Branches of several streams, dense connections, masks of windows, or a mask of the shortcut.
REFUSED = names_in("""
    coat_lite_tiny crossvit_tiny_240 csatv2 edgenext_small efficientvim_m1 nextvit_small rdnet_tiny resnest26d
    samvit_base_patch16 tnt_s_patch16_224 vit_small_patch16_18x2_224 xception41
""")


@pytest.mark.parametrize("name", CONVERTED)
def test_a_model_of_timm_is_converted_as_a_whole(name):
    _, outcome = walk_timm(name)
    assert outcome.kind == "converted", outcome.faults
    assert outcome.classes


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_of_timm_that_is_not_known_is_refused_by_name(name):
    _, outcome = walk_timm(name)
    assert outcome.kind in ("refused", "without blocks"), outcome.faults


@pytest.mark.parametrize("name", ["swin_t", "swin3d_t", "maxvit_t", "efficientnet_v2_s", "convnext_tiny"])
def test_a_model_of_torchvision_is_converted_as_a_whole(name):
    assert walk_torchvision(name)[1].kind == "converted"


@pytest.mark.parametrize(
    "name", ["beit", "convnextv2", "donut-swin", "dinov2", "hiera", "pvt", "segformer", "swinv2", "vitdet"]
)
def test_a_model_of_transformers_is_converted_as_a_whole(name):
    assert walk_transformers(name)[1].kind == "converted"


class HalfKnown(nn.Module):
    """A block that is known, and one with a mask that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.known = swin_transformer.SwinTransformerBlock(8, 1, [2, 2], [0, 0], stochastic_depth_prob=0.1)
        self.mask = DropPath(0.1)

    def forward(self, x):
        return x + self.mask(self.known(x))


def test_the_walk_finds_a_refusal_by_name_and_a_mask_that_stays_in_silence(monkeypatch):
    model = HalfKnown()
    outcome = convert(model, lambda model: model(torch.randn(1, 4, 4, 8)))
    assert (outcome.kind, outcome.classes) == ("refused", ("HalfKnown",))
    # Without the check that refuses, the walk says which mask is left.
    monkeypatch.setattr("stodepth_models.blocks.surgery.check_masks", lambda *_: None)
    outcome = convert(model, lambda model: model(torch.randn(1, 4, 4, 8)))
    assert outcome.faults == ["mask is called and stays, and the log does not name HalfKnown"]
