"""Models of timm and torchvision by name: gates in the place of masks, weights, files that know what they hold."""

import dataclasses
import json

import pytest
import timm
import torch
import torchvision

import stodepth_models as sdm
from stodepth_models.training.config import DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from stodepth_models.training.errors import SettingsError
from stodepth_models.training.evaluation import evaluate_weights
from stodepth_models.training.run.libraries import classifiers
from stodepth_models.training.run.model import build_model, check_model, frozen_modules
from stodepth_models.training.run.train import train
from stodepth_models.weights.checkpoint import read_file

TINY_VIT = {"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2}


def vit(**settings):
    return ModelConfig(name="timm:vit_tiny_patch16_224", options=TINY_VIT, **settings)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (vit(drop_rate=0.2), [0.95, 0.9, 0.85, 0.8]),
        (dataclasses.replace(vit(), options={**TINY_VIT, "drop_path_rate": 0.3}), [1.0, 0.9, 0.8, 0.7]),
        (vit(), []),
        (ModelConfig(name="torchvision:resnet18", drop_rate=0.8), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]),
        (ModelConfig(name="torchvision:squeezenet1_0"), []),
    ],
)
def test_the_last_block_is_dropped_at_the_rate(config, expected):
    model = build_model(config, 3)
    found = sdm.survival_probs(model)
    assert found[:: max(1, len(found) // max(1, len(expected)))] == pytest.approx(expected)
    assert len(model.get_submodule(classifiers(model)[0]).weight) == 3


def test_gates_leave_the_evaluation_of_the_library_as_it_was(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TINY_VIT).eval()
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    x = torch.randn(2, 3, 32, 32)
    for rescale in (None, "eval"):
        config = vit(drop_rate=0.5, weights=str(tmp_path / "vit.pth"), rescale=rescale, mode="row")
        torch.testing.assert_close(build_model(config, 3).eval()(x), model(x))


def test_models_with_several_outputs_give_the_one_of_the_classifier():
    with torch.device("meta"):
        model = build_model(ModelConfig(name="torchvision:googlenet"), 3).train()
        assert model(torch.empty(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("timm:deit_tiny_distilled_patch16_224", ("head", "head_dist")),
        ("torchvision:convnext_tiny", ("classifier.2",)),
        ("cifar_resnet20", ("fc",)),
    ],
)
def test_all_but_the_classifier_is_frozen(name, head):
    config = ModelConfig(name=name, freeze="body")
    with torch.device("meta"):
        model = build_model(config, 3)
    assert classifiers(model) == head
    left = set(model.modules()) - set(frozen_modules(model, config))
    assert left == {model.get_submodule(name) for name in head}


def test_layers_are_frozen_up_to_a_stage_or_a_block():
    model = build_model(ModelConfig(), 3)
    frozen = frozen_modules(model, ModelConfig(freeze="layer2.0"))
    names = {name for name, module in model.named_modules() if module in set(frozen)}
    assert {"conv1", "bn1", "layer1.2.conv2", "layer2.0.bn2"} <= names
    assert not {name for name in names if name.startswith(("layer2.1", "layer3", "fc"))}
    with pytest.raises(ValueError, match=r"model\.freeze must be body or a module such as conv1, .*, got 'layer9'"):
        frozen_modules(model, ModelConfig(freeze="layer9"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "timm:vit_tini_patch16_224"}, r"^model\.name: timm has no .*; did you mean vit_tiny_patch16_224"),
        ({"name": "torchvision:resnet19"}, r"torchvision has no model 'resnet19'; did you mean resnet"),
        ({"name": "torchvision:squeezenet1_0", "drop_rate": 0.2}, "does not hold a known residual block"),
        ({"name": "timm:resnet18", "options": {"depht": 3}}, "depht"),
        ({"name": "timm:resnet18", "weights": "IMAGENET1K_V1"}, r"no weights 'IMAGENET1K_V1' for timm:resnet18"),
    ],
)
def test_what_a_library_does_not_know_is_refused_before_any_data_is_read(config, message):
    with pytest.raises(SettingsError, match=message):
        check_model(ModelConfig(**config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_rate": 0.2}, r"model\.drop_rate is for timm:NAME"),
        ({"name": "timm:resnet18", "frozen_stem": True}, r"model\.freeze keeps layers"),
        ({"freeze": "layer1", "frozen_stem": True}, "give one of them"),
        ({"name": "tim:resnet18"}, r"other libraries: timm:NAME, torchvision:NAME"),
    ],
)
def test_settings_of_other_models_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def run_settings(output, model, side=32):
    data = DataConfig(name="fake", fake_images=32, fake_classes=2, image_size=side)
    return TrainConfig(model=model, data=data, epochs=1, batch_size=16, output=output, cpu=True, trackers=(),
                       progress=False, stop_at_chance=0)  # fmt: skip


def test_a_model_of_timm_trains_and_its_file_is_evaluated(tmp_path):
    config = run_settings(tmp_path, vit(drop_rate=0.5, freeze="blocks.1", mode="row"))
    torch.manual_seed(config.seed)
    fresh = build_model(config.model, 2).state_dict()
    assert train(config) == 0
    last = tmp_path / "last.safetensors"
    for name, tensor in read_file(last, "last").state_dict.items():
        is_frozen = not name.startswith(("blocks.2", "blocks.3", "norm", "head"))
        assert torch.equal(tensor, fresh[name]) == is_frozen, name
    model = ModelConfig(name=config.model.name, weights=str(last))
    result = evaluate_weights(EvaluateConfig(model=model, data=config.data, cpu=True))
    trained = json.loads((tmp_path / "result.json").read_text())
    assert result["nll"] == pytest.approx(trained["test_last"]["nll"], rel=1e-5)


def test_images_of_a_size_that_the_model_does_not_take_are_named(tmp_path):
    config = run_settings(tmp_path, ModelConfig(name="timm:vit_tiny_patch16_224"), side=8)
    with pytest.raises(ValueError, match=r"computes no images of 8 pixels \(.*\): set data\.image_size"):
        train(config)


def test_pretrained_weights_of_torchvision_are_its_default(monkeypatch):
    model = torchvision.models.resnet18()
    member = torchvision.models.ResNet18_Weights.DEFAULT
    monkeypatch.setattr(type(member), "get_state_dict", lambda self, **_: model.state_dict())
    built = build_model(ModelConfig(name="torchvision:resnet18", drop_rate=0.2, weights="pretrained"), 5)
    assert torch.equal(built.layer4[1].conv2.weight, model.layer4[1].conv2.weight)
    assert built.fc.out_features == 5
