"""Vision models of transformers: what surgery finds, what it leaves as it was, and what training computes."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.distributed as distributed
import transformers as hf
from library_masks import Draws, freeze_norms, give_gates, give_masks, results
from randomised import randomise_norms
from timm.utils import ModelEmaV3
from torch import nn
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionBackbone
from transformers.models.qianfan_ocr.configuration_qianfan_ocr import QianfanOCRVisionConfig
from transformers.models.qianfan_ocr.modeling_qianfan_ocr import QianfanOCRVisionModel

import stodepth_models as sdm

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
DROPS = {**SMALL, "drop_path_rate": 0.5}
STAGES = {"depths": [1, 2], "drop_path_rate": 0.5}
MIT = {
    "num_encoder_blocks": 2,
    "depths": [1, 2],
    "sr_ratios": [2, 1],
    "hidden_sizes": [8, 16],
    "patch_sizes": [7, 3],
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "num_heads": [2, 2], "window_size": 4, **STAGES}
PVT = {**MIT, "patch_sizes": [4, 2], "sequence_reduction_ratios": [2, 1]}
FOCAL = {"image_size": 32, "embed_dim": 8, "focal_levels": [2, 2], "focal_windows": [3, 3], **STAGES}
BITS = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2], "num_groups": 4, "drop_path_rate": 0.5}
SWIFT = {"depths": [2, 3], "embed_dims": [8, 16], "downsamples": [True, True], "drop_path_rate": 0.5}
CONVOLUTIONS = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2]}

# name: class of the model, its configuration, number of blocks
MODELS = {
    "dinov2": (hf.Dinov2Model, hf.Dinov2Config(**DROPS), 3),
    "dinov2_swiglu": (hf.Dinov2Model, hf.Dinov2Config(**DROPS, use_swiglu_ffn=True), 3),
    "dinov2_registers": (hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig(**DROPS), 3),
    "dinov3_vit": (hf.DINOv3ViTModel, hf.DINOv3ViTConfig(**DROPS, intermediate_size=32), 3),
    "dinov3_gated": (hf.DINOv3ViTModel, hf.DINOv3ViTConfig(**DROPS, intermediate_size=32, use_gated_mlp=True), 3),
    "dinov3_convnext": (
        hf.DINOv3ConvNextModel,
        hf.DINOv3ConvNextConfig(hidden_sizes=[8, 16], image_size=32, **STAGES),
        3,
    ),
    "convnext": (hf.ConvNextModel, hf.ConvNextConfig(hidden_sizes=[8, 16], num_stages=2, **STAGES), 3),
    "convnext_plain": (
        hf.ConvNextModel,
        hf.ConvNextConfig(hidden_sizes=[8, 16], num_stages=2, layer_scale_init_value=0.0, **STAGES),
        3,
    ),
    "convnextv2": (hf.ConvNextV2Model, hf.ConvNextV2Config(hidden_sizes=[8, 16], num_stages=2, **STAGES), 3),
    "swin": (hf.SwinModel, hf.SwinConfig(**WINDOWS), 3),
    "swin_padded": (hf.SwinModel, hf.SwinConfig(**{**WINDOWS, "window_size": 3}), 3),
    "swinv2_padded": (hf.Swinv2Model, hf.Swinv2Config(**{**WINDOWS, "window_size": 3}), 3),
    "swinv2": (hf.Swinv2Model, hf.Swinv2Config(**WINDOWS), 3),
    "beit": (hf.BeitModel, hf.BeitConfig(**DROPS, use_relative_position_bias=True, layer_scale_init_value=0.5), 3),
    "beit_shared": (
        hf.BeitModel,
        hf.BeitConfig(**DROPS, use_shared_relative_position_bias=True, layer_scale_init_value=0.0),
        3,
    ),
    "segformer": (hf.SegformerModel, hf.SegformerConfig(**MIT, drop_path_rate=0.5), 3),
    "vit": (hf.ViTModel, hf.ViTConfig(**SMALL, hidden_dropout_prob=0.0), 3),
    "resnet": (hf.ResNetModel, hf.ResNetConfig(**CONVOLUTIONS), 4),
    "resnet_basic": (hf.ResNetModel, hf.ResNetConfig(**CONVOLUTIONS, layer_type="basic"), 4),
    "regnet": (hf.RegNetModel, hf.RegNetConfig(**CONVOLUTIONS, groups_width=8), 4),
    "deit": (hf.DeiTModel, hf.DeiTConfig(**SMALL, intermediate_size=32), 3),
    "pixio": (hf.PixioModel, hf.PixioConfig(**DROPS, mlp_ratio=2), 3),
    "radio": (hf.RadioModel, hf.RadioConfig(**DROPS, mlp_ratio=2.0, max_img_size=32, patch_dim=192), 3),
    "data2vec": (
        hf.Data2VecVisionModel,
        hf.Data2VecVisionConfig(**DROPS, intermediate_size=32, use_relative_position_bias=True),
        3,
    ),
    "data2vec_shared": (
        hf.Data2VecVisionModel,
        hf.Data2VecVisionConfig(**DROPS, intermediate_size=32, use_shared_relative_position_bias=True),
        3,
    ),
    "donut": (hf.DonutSwinModel, hf.DonutSwinConfig(**WINDOWS), 3),
    "focalnet": (hf.FocalNetModel, hf.FocalNetConfig(**FOCAL), 3),
    "focalnet_post": (
        hf.FocalNetModel,
        hf.FocalNetConfig(**FOCAL, use_post_layernorm=True, use_layerscale=True, layerscale_value=0.5),
        3,
    ),
    "glpn": (hf.GLPNModel, hf.GLPNConfig(**MIT, drop_path_rate=0.5), 3),
    "pvt": (
        hf.PvtModel,
        hf.PvtConfig(
            **{**MIT, "patch_sizes": [4, 2]}, image_size=32, sequence_reduction_ratios=[2, 1], drop_path_rate=0.5
        ),
        3,
    ),
    "pvt_v2": (hf.PvtV2Model, hf.PvtV2Config(**MIT, image_size=32, drop_path_rate=0.5), 3),
    "bit": (hf.BitModel, hf.BitConfig(**BITS), 4),
    "bit_postact": (hf.BitModel, hf.BitConfig(**BITS, layer_type="bottleneck"), 4),
    "hiera": (
        hf.HieraModel,
        hf.HieraConfig(
            embed_dim=8,
            image_size=[32, 32],
            patch_size=[3, 3],
            patch_stride=[2, 2],
            patch_padding=[1, 1],
            depths=[1, 2, 1],
            num_heads=[1, 2, 2],
            num_query_pool=2,
            masked_unit_size=[4, 4],
            masked_unit_attention=[True, True, False],
            drop_path_rate=0.5,
        ),
        4,
    ),
    "vitdet": (
        hf.VitDetModel,
        hf.VitDetConfig(
            **{**DROPS, "image_size": 40},
            pretrain_image_size=40,
            mlp_ratio=2,
            window_size=3,
            window_block_indices=[0, 2],
            residual_block_indices=[1],
            use_relative_position_embeddings=True,
        ),
        3,
    ),
    "swin2sr": (hf.Swin2SRModel, hf.Swin2SRConfig(**{**WINDOWS, "patch_size": 1, "window_size": 8}), 3),
    "maskformer_swin": (hf.MaskFormerSwinModel, hf.MaskFormerSwinConfig(**WINDOWS), 3),
    "maskformer_swin_padded": (hf.MaskFormerSwinModel, hf.MaskFormerSwinConfig(**{**WINDOWS, "window_size": 3}), 3),
    "swiftformer": (hf.SwiftFormerModel, hf.SwiftFormerConfig(**SWIFT, layer_scale_init_value=0.5), 2),
    "swiftformer_plain": (hf.SwiftFormerModel, hf.SwiftFormerConfig(**SWIFT, use_layer_scale=False), 2),
    "qianfan_ocr": (
        QianfanOCRVisionModel,
        QianfanOCRVisionConfig(**{**DROPS, "image_size": [32, 32], "patch_size": [8, 8]}, intermediate_size=32),
        3,
    ),
    "florence2": (
        Florence2VisionBackbone,
        Florence2VisionConfig(
            depths=[1, 1],
            patch_size=[7, 3],
            patch_stride=[4, 2],
            patch_padding=[3, 1],
            patch_prenorm=[False, True],
            embed_dim=[8, 16],
            num_heads=[2, 2],
            num_groups=[2, 2],
            window_size=3,
            drop_path_rate=0.5,
        ),
        4,
    ),
    "regnet_x": (hf.RegNetModel, hf.RegNetConfig(**CONVOLUTIONS, groups_width=8, layer_type="x"), 4),
}
# Where a mask would be in layers that have none: behind these modules.
PLACES = {
    "ViTLayer": ("dropout",),
    "DeiTLayer": ("dropout",),
    "Swin2SRLayer": ("layernorm_before", "layernorm_after"),
    **dict.fromkeys(["ResNetBasicLayer", "ResNetBottleNeckLayer"], ("layer",)),
}
PLACES.update(dict.fromkeys(["RegNetXLayer", "RegNetYLayer"], ("layer",)))
UNMASKED = ["swin2sr", "vit", "deit", "resnet", "resnet_basic", "regnet", "regnet_x"]


def build(name, **options):
    torch.manual_seed(0)
    cls, config, _ = MODELS[name]
    config = copy.deepcopy(config)
    for key, value in options.items():
        setattr(config, key, value)
    model = randomise_norms(cls(config)).double().eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, torch.randn(4, 3, 32, 32, dtype=torch.float64)


def square_of(out):
    return out.last_hidden_state.square().sum()


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_is_the_librarys_bit_for_bit(name):
    model, x = build(name)
    before, keys, kinds = model(x).last_hidden_state, list(model.state_dict()), [type(m) for m in model.modules()]
    assert sdm.apply_stochastic_depth(model, drop_rate=0.5) == MODELS[name][2]
    assert torch.equal(model(x).last_hidden_state, before)
    assert list(model.state_dict()) == keys
    sdm.remove_stochastic_depth(model)
    assert torch.equal(model(x).last_hidden_state, before)
    assert [type(m) for m in model.modules()] == kinds


# BiT's layers without a norm at their end standardise the weight that ends them.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "bit"])
def test_removal_moves_an_evaluation_scale_into_the_weights(name):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=0.5, rescale="eval")
    scaled = model(x).last_hidden_state
    sdm.remove_stochastic_depth(model)
    torch.testing.assert_close(model(x).last_hidden_state, scaled, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_training_is_that_of_masks_with_the_same_rows(name, monkeypatch):
    model, x = build(name)
    masked, drawn = Draws(4), Draws(4)
    twin = give_masks(copy.deepcopy(model), masked, PLACES)
    rates = {"drop_rate": 0.5, "drop_distribution": "uniform"} if name in UNMASKED else {"drop_rate": None}
    sdm.apply_stochastic_depth(model, stochastic_method="sample", **rates)
    give_gates(monkeypatch, drawn)
    torch.manual_seed(1)  # DINOv3 augments its position embeddings at random
    expected = results(freeze_norms(twin.train()), x, square_of)
    torch.manual_seed(1)
    actual = results(freeze_norms(model.train()), x, square_of)
    assert masked.count == drawn.count >= 2
    for key, value in zip(actual, expected.values(), strict=True):
        torch.testing.assert_close(actual[key], value, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", MODELS)
def test_a_gate_for_the_batch_drops_the_whole_branch(name):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=0.5, drop_distribution="uniform")
    gates = [module for module in model.modules() if isinstance(module, sdm.StochasticResidual)]
    freeze_norms(model.train())
    shares = set()
    for _ in range(4):
        model(x)
        shares.update(gate.last_share for gate in gates)
    assert shares == {0.0, 1.0}


@pytest.mark.parametrize(
    "name", ["dinov2", "dinov3_vit", "swin", "swinv2", "beit", "segformer", "vit", "hiera", "vitdet"]
)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attentions_and_hidden_states_are_returned(name, implementation):
    if name in ("swinv2", "hiera", "vitdet") and implementation == "sdpa":
        pytest.skip("transformers has no such attention")
    model, x = build(name)
    model.set_attn_implementation(implementation)
    wanted = {"output_hidden_states": True, "output_attentions": implementation == "eager"}
    before = model(x, **wanted)
    sdm.apply_stochastic_depth(model, stochastic_method="sample", drop_rate=0.5)
    after = model(x, **wanted)
    assert after.keys() == before.keys()
    for key in ("hidden_states", "attentions") if wanted["output_attentions"] else ("hidden_states",):
        assert len(after[key]) == len(before[key]) > 0
        assert all(torch.equal(a, b) for a, b in zip(after[key], before[key], strict=True))
    out = model.train()(x, **wanted)
    assert len(out.hidden_states) == len(before.hidden_states)
    assert len(out.last_hidden_state) == 4


@pytest.mark.parametrize("name", ["dinov2", "swin", "beit", "segformer", "vit"])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_draws_the_same_gates_again(name, reentrant):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, stochastic_method="sample", drop_rate=0.5)
    model.train()
    torch.manual_seed(1)
    expected = results(model, x, square_of)
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.manual_seed(1)
    actual = results(model, x, square_of)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", ["dinov2", "convnext", "swin"])
def test_a_saved_model_loads_with_and_without_stochastic_depth(name, tmp_path):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=None, stochastic_method="sample")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert torch.equal(loaded(x).last_hidden_state, model(x).last_hidden_state)
    sdm.apply_stochastic_depth(loaded, drop_rate=None, stochastic_method="sample")
    assert sdm.survival_probs(loaded) == sdm.survival_probs(model)


@pytest.mark.parametrize("name", ["dinov2", "convnext", "swin", "swinv2", "beit", "segformer", "vit"])
def test_evaluation_compiles_as_one_graph(name):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=0.5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x).last_hidden_state, model(x).last_hidden_state)


@pytest.mark.parametrize("name", ["dinov2", "convnext", "swin"])
def test_copies_for_averages_of_weights_keep_their_gates(name):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, drop_rate=0.5)
    average = ModelEmaV3(model, decay=0.5)
    average.update(model)
    assert torch.equal(average.module(x).last_hidden_state, model(x).last_hidden_state)
    assert sdm.survival_probs(average.module) == sdm.survival_probs(model)


def test_a_mask_for_attention_is_cut_to_the_surviving_rows(monkeypatch):
    model, _ = build("vit")
    mask = torch.rand(4, 1, 17, 17) < 0.7
    mask[..., 0] = True
    layer = next(m for m in model.modules() if isinstance(m, hf.models.vit.modeling_vit.ViTLayer))
    tokens = torch.randn(4, 17, 16, dtype=torch.float64)
    expected = layer(tokens, attention_mask=mask)
    sdm.apply_stochastic_depth(model, stochastic_method="sample", drop_rate=0.5, rescale="none")
    kept = torch.tensor([1, 3])
    monkeypatch.setattr("stodepth_models.layers.residual.draw_rows", lambda *_: kept)
    out = layer.train()(tokens, attention_mask=mask)
    torch.testing.assert_close(out[kept], expected[kept])
    assert torch.equal(out[0], tokens[0])


def test_a_layer_of_swin_has_a_rate_for_what_transformers_masks_alone():
    model, _ = build("swin")
    sdm.apply_stochastic_depth(model, drop_rate=None)
    layer = model.encoder.layers[1].blocks[1]
    assert [gate.survival_prob for gate in layer.stodepth_gates] == [0.5, 1.0]


def test_the_package_imports_no_transformers():
    code = "import sys, stodepth_models; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("name", ["dinov2", "convnext", "swin", "segformer"])
def test_among_ranks_dropped_branches_have_gradients_of_zeros(name, tmp_path):
    model, x = build(name)
    sdm.apply_stochastic_depth(model, stochastic_method="sample", drop_rate=1.0, drop_distribution="uniform")
    # What the loss cannot reach without branches either, such as a mask token, is left out.
    of_blocks = [m for m in model.modules() if hasattr(m, "stodepth_gates")]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in of_blocks:
        block.requires_grad_(True)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model.train())
        for _ in range(2):
            square_of(parallel(x.requires_grad_())).backward()
    finally:
        distributed.destroy_process_group()
    for block in of_blocks:
        assert all(p.grad is not None and not p.grad.any() for p in block.parameters())
