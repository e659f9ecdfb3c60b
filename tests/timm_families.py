"""Small models and blocks of timm, one for each form that its families take, and images for them."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import timm
import torch
from timm.models.mvitv2 import MultiScaleVitCfg
from torch import nn

RATE = 0.3
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
WINDOWS = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
STAGES = {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
MVIT = MultiScaleVitCfg(depths=(1, 2), embed_dim=16, stride_q=((1, 1), (2, 2)))
INVERTED = "_efficientnet_blocks."


def of_model(name: str, size: int, **settings: Any) -> tuple[Callable[[float], nn.Module], tuple[int, ...]]:
    """What builds a small model with a drop path rate, and the shape of one of its images."""
    return lambda rate: timm.create_model(name, num_classes=5, drop_path_rate=rate, **settings), (3, size, size)


def of_class(name: str, size: int, **settings: Any) -> tuple[Callable[[float], nn.Module], tuple[int, ...]]:
    """What builds a small model from its class, where the builder of the model fixes its sizes."""
    module_name, class_name = name.split(".")
    cls = getattr(import_module(f"timm.models.{module_name}"), class_name)
    return lambda rate: cls(num_classes=5, drop_path_rate=rate, **settings), (3, size, size)


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
    "relpos": of_model("vit_relpos_small_patch16_224", 32, **VIT, init_values=0.1),
    "relpos, shared positions": of_model("vit_srelpos_small_patch16_224", 32, **VIT),
    "relpos, norms behind": of_model("vit_relpos_base_patch16_rpn_224", 32, **VIT),
    "deepseek_vit": of_model("deepseek_vit_412m", 32, **VIT),
    "convit": of_model("convit_tiny", 32, **{**VIT, "embed_dim": 16}),
    "swin_transformer_v2_cr": of_model("swinv2_cr_tiny_ns_224", 64, **WINDOWS),
    "davit": of_model("davit_tiny", 64, depths=(1, 1), embed_dims=(16, 32), num_heads=(2, 2), window_size=4),
    "gcvit": of_class("gcvit.GlobalContextVit", 64, img_size=64, embed_dim=8, **STAGES, window_size=(4, 4, 4, 2)),
    "hiera": of_class("hiera.Hiera", 64, img_size=(64, 64), embed_dim=16, stages=(1, 1, 1, 1), mask_unit_size=(8, 8)),
    "hiera, no projection": of_class(
        "hiera.Hiera",
        64,
        img_size=(64, 64),
        embed_dim=8,
        stages=(1, 1, 1),
        mask_unit_attn=(True, False, False),
        q_pool=2,
        use_expand_proj=False,
        init_values=0.1,
    ),
    "hieradet": of_model("sam2_hiera_tiny", 64, embed_dim=16, num_heads=1),
    "levit": of_model("levit_128s", 64, embed_dim=(16, 32), num_heads=(2, 2), depth=(1, 1), img_size=64),
    "levit, convolutions": of_model(
        "levit_conv_128s", 64, embed_dim=(16, 32), num_heads=(2, 2), depth=(1, 1), img_size=64
    ),
    "mvitv2": of_class("mvitv2.MultiScaleVit", 64, cfg=MVIT, img_size=(64, 64)),
    "mvitv2, class token": of_class(
        "mvitv2.MultiScaleVit", 64, cfg=replace(MVIT, use_cls_token=True, expand_attn=False), img_size=(64, 64)
    ),
    "nest": of_class("nest.Nest", 64, img_size=64, embed_dims=(16, 32), num_heads=(2, 2), depths=(1, 2), num_levels=2),
    "pvt_v2": of_model("pvt_v2_b0", 64, depths=(1, 1, 1, 1)),
    "tiny_vit": of_model(
        "tiny_vit_5m_224", 64, embed_dims=(16, 16, 32, 32), depths=(2, 1, 1, 1), num_heads=(1, 1, 2, 2)
    ),
    "twins": of_model("twins_svt_small", 64, depths=(1, 1, 2, 1)),
    "twins, pooled keys": of_model("twins_pcpvt_small", 64, depths=(1, 1, 1, 1)),
    "volo": of_class(
        "volo.VOLO",
        64,
        img_size=64,
        layers=(1, 1, 1, 1),
        embed_dims=(16, 32, 32, 32),
        num_heads=(2, 2, 2, 2),
        use_aux_head=False,
        stem_hidden_dim=8,
    ),
    "efficientformer": of_model("efficientformer_l1", 224, depths=(1, 1, 1, 2), embed_dims=(4, 4, 8, 8)),
    "efficientformer_v2": of_model(
        "efficientformerv2_s0", 64, img_size=64, depths=(1, 1, 2, 2), embed_dims=(8, 8, 16, 16)
    ),
    "fasternet": of_model("fasternet_t0", 64, depths=(1, 1, 2, 1)),
    "fasternet, layer scale": of_blocks(
        "fasternet.MLPBlock", (16, 4), rate_name="drop_path", mlp_ratio=2.0, layer_scale_init_value=0.1
    ),
    "fastvit": of_model("fastvit_sa12", 64, layers=(1, 1, 1, 1), embed_dims=(8, 16, 16, 32)),
    "focalnet": of_class("focalnet.FocalNet", 64, embed_dim=8, depths=(1, 1, 1, 2)),
    "focalnet, layer scale": of_class(
        "focalnet.FocalNet", 64, embed_dim=8, depths=(1, 1, 1, 2), layerscale_value=0.1, use_post_norm=True
    ),
    "gemma4_vit": of_model("gemma4_vit_167m", 96, depth=2, embed_dim=32, num_heads=2, head_dim=16),
    "iformer": of_class(
        "iformer.IFormer",
        64,
        dims=(8, 16, 16, 32),
        depths=(1, 1, 4, 3),
        attn_groups=(0, 0, 1, 1),
        layer_scale_init_value=0.1,
    ),
    "inception_next": of_model("inception_next_atto", 64, depths=(1, 1, 1, 1)),
    "mambaout": of_model("mambaout_femto", 64, depths=(1, 1, 1, 1)),
    "mobilevit": of_model("mobilevit_xxs", 64),
    "mobilevitv2": of_model("mobilevitv2_050", 64),
    "sequencer": of_model(
        "sequencer2d_s",
        64,
        img_size=64,
        layers=(1, 1),
        embed_dims=(16, 32),
        hidden_sizes=(8, 8),
        patch_sizes=(7, 2),
        mlp_ratios=(2.0, 2.0),
    ),
    "starnet": of_model("starnet_s050", 64, depths=(1, 1, 1, 1)),
    "swiftformer": of_class("swiftformer.SwiftFormer", 64, layers=[2, 1, 1, 1], embed_dims=[8, 8, 16, 16]),
    "visformer": of_model("visformer_tiny", 64, img_size=64, embed_dim=32, depth=(1, 1, 1), num_heads=2),
    "vitamin": of_blocks("vitamin.MbConvLNBlock", (16, 16), (16, 32), rate_name="drop_path"),
    "lowformer": of_class(
        "lowformer.LowFormer", 64, width_list=[8, 8, 16, 16, 32], depth_list=[0, 1, 1, 1, 1], head_widths=(16, 16)
    ),
    "cspnext": of_model("cspnext_tiny", 64),
    "hgnet": of_model("hgnet_tiny", 64),
    "hgnetv2": of_model("hgnetv2_b0", 64),
    "res2net": of_model("res2net50_26w_4s", 64, layers=(1, 2, 1, 1), channels=(16, 16, 32, 32)),
    "rexnet": of_model("rexnet_100", 64, width_mult=0.5),
    "sknet": of_model("skresnet18", 64, layers=(1, 2, 1, 1), channels=(16, 16, 32, 32)),
    "sknet, bottleneck": of_model("skresnext50_32x4d", 64, layers=(1, 1, 1, 1), channels=(64, 64, 64, 64)),
    "tresnet": of_model("tresnet_m", 64, layers=(1, 2, 1, 1)),
    "vovnet": of_model("ese_vovnet39b", 64),
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
