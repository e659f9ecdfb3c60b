"""Adapters of PEFT in converted models: what is trained, what is saved, and what is left when they are merged."""

import copy

import pytest
import timm
import torch
import transformers as hf
from library_masks import Draws, give_gates, give_masks, results

import stodepth_models as sdm

peft = pytest.importorskip("peft")

# PEFT reads a name of transformers that a later release will remove.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

CLASSES = 3
SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
LABELS = {"id2label": {number: str(number) for number in range(CLASSES)}}


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        depth=2,
        embed_dim=16,
        num_heads=2,
        num_classes=CLASSES,
        init_values=0.5,
        drop_path_rate=0.5,
    )


def dinov2():
    return hf.Dinov2ForImageClassification(hf.Dinov2Config(**SMALL, drop_path_rate=0.5, **LABELS))


def convnext():
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "layer_scale_init_value": 0.5}
    return hf.ConvNextForImageClassification(hf.ConvNextConfig(**sizes, drop_path_rate=0.5, **LABELS))


def swin():
    sizes = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "patch_size": 4, "window_size": 4, "image_size": 32}
    return hf.SwinForImageClassification(hf.SwinConfig(**sizes, drop_path_rate=0.5, **LABELS))


# name: the model, the linear layers that get adapters, the classifier
MODELS = {
    "timm_vit": (vit, ["qkv", "proj", "fc1", "fc2"], "head"),
    "dinov2": (dinov2, ["q_proj", "v_proj", "fc1", "fc2"], "classifier"),
    "convnext": (convnext, ["pwconv1", "pwconv2"], "classifier"),
    "swin": (swin, ["q_proj", "v_proj", "o_proj", "fc1", "fc2"], "classifier"),
}
ADAPTERS = {
    "lora": (peft.LoraConfig, {"r": 2, "init_lora_weights": False}),
    "dora": (peft.LoraConfig, {"r": 2, "init_lora_weights": False, "use_dora": True}),
    "loha": (peft.LoHaConfig, {"r": 2, "init_weights": False}),
    "ia3": (peft.IA3Config, {"feedforward_modules": [], "init_ia3_weights": False}),
}


def build(name):
    torch.manual_seed(0)
    return MODELS[name][0]().double().eval(), torch.randn(4, 3, 32, 32, dtype=torch.float64)


def adapted(model, name, kind="lora"):
    """``model`` with adapters whose updates count from the start, and a classifier that is trained whole."""
    _, targets, classifier = MODELS[name]
    config, options = ADAPTERS[kind]
    torch.manual_seed(1)
    return peft.get_peft_model(model, config(target_modules=targets, modules_to_save=[classifier], **options))


def converted(model, name, order, kind="lora", mode="sample"):
    """The model with adapters and gates; ``order`` says which of the two comes first."""
    settings = {"drop_rate": None, "stochastic_method": mode}
    if order == "surgery first":
        sdm.apply_stochastic_depth(model, **settings)
        return adapted(model, name, kind)
    model = adapted(model, name, kind)
    sdm.apply_stochastic_depth(model, **settings)
    return model


def logits(out):
    return getattr(out, "logits", out)


def square_of(out):
    return logits(out).square().sum()


@pytest.mark.parametrize("order", ["surgery first", "adapters first"])
@pytest.mark.parametrize(
    ("name", "kind"), [*[(name, "lora") for name in MODELS], *[("dinov2", kind) for kind in ADAPTERS if kind != "lora"]]
)
def test_adapters_are_trained_as_with_masks(name, kind, order, monkeypatch):
    model, x = build(name)
    masked, drawn = Draws(4), Draws(4)
    twin = adapted(give_masks(copy.deepcopy(model), masked), name, kind)
    model = converted(model, name, order, kind)
    assert torch.equal(logits(model.eval()(x)), logits(twin.eval()(x)))
    give_gates(monkeypatch, drawn)
    expected = results(twin.train(), x, square_of)
    actual = results(model.train(), x, square_of)
    assert masked.count == drawn.count >= 2
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-10, atol=1e-10, msg=key)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    assert all(parameter.grad is None for parameter in frozen)


@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
@pytest.mark.parametrize("name", ["timm_vit", "dinov2"])
def test_every_adapter_is_trained_and_nothing_else(name, mode):
    model, x = build(name)
    model = converted(model, name, "surgery first", mode=mode)
    torch.manual_seed(2)
    for _ in range(8):
        square_of(model.train()(x)).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained


@pytest.mark.parametrize("order", ["surgery first", "adapters first"])
@pytest.mark.parametrize("name", MODELS)
def test_saved_adapters_load_into_converted_models_and_merge(name, order, tmp_path):
    model, x = build(name)
    model = converted(model, name, order).eval()
    expected = logits(model(x))
    model.save_pretrained(tmp_path)
    again, _ = build(name)
    if order == "surgery first":
        sdm.apply_stochastic_depth(again, drop_rate=None, stochastic_method="sample")
    again = peft.PeftModel.from_pretrained(again, tmp_path).eval()
    assert torch.equal(logits(again(x)), expected)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged(x)), expected, rtol=1e-10, atol=1e-10)
    assert min(sdm.survival_probs(merged)) == 0.5
    sdm.remove_stochastic_depth(merged)
    plain, _ = build(name)
    plain.load_state_dict(merged.state_dict())  # the library's own names, and no others
    torch.testing.assert_close(logits(plain(x)), expected, rtol=1e-10, atol=1e-10)


def test_stochastic_depth_is_removed_under_adapters():
    model, x = build("timm_vit")
    model = converted(model, "timm_vit", "adapters first").eval()
    expected = model(x)
    sdm.remove_stochastic_depth(model)
    assert sdm.survival_probs(model) == []
    assert torch.equal(model(x), expected)


def test_an_evaluation_scale_waits_until_adapters_are_merged():
    """The last layer of a branch and its adapter would both have to be scaled."""
    model, x = build("swin")
    sdm.apply_stochastic_depth(model, drop_rate=0.5, rescale="eval")
    model = adapted(model, "swin").eval()
    expected = logits(model(x))
    with pytest.raises(ValueError, match=r"ends in Linear with parameters beside weight and bias.*merge"):
        sdm.remove_stochastic_depth(model)
    assert torch.equal(logits(model(x)), expected)
    merged = model.merge_and_unload()
    sdm.remove_stochastic_depth(merged)
    torch.testing.assert_close(logits(merged(x)), expected, rtol=1e-10, atol=1e-10)
