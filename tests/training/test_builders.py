"""Weights say which builder they belong to, from whatever place they come."""

import dataclasses
import json

import pytest
import torch
import torchvision

import stodepth_models as sdm
from stodepth_models.training.builders import Owner, builder_of
from stodepth_models.training.cli import parse
from stodepth_models.training.commands.convert import build as convert
from stodepth_models.training.commands.evaluate import data_of_run
from stodepth_models.training.commands.predict import read as predict
from stodepth_models.training.config import DataConfig, EvaluateConfig, ModelConfig, TrainConfig
from stodepth_models.training.run.libraries import describe
from stodepth_models.training.run.model import build_model
from stodepth_models.weights.checkpoint import read_file, write_file
from stodepth_models.weights.config import config_of

SUFFIX = "_stodepth_lineardecay"


@pytest.fixture
def run(tmp_path):
    """A folder as a run leaves it: the best weights, the last ones, and a configuration that is no model's."""
    for name, classes in (("best", 3), ("last", 4)):
        model = sdm.cifar_resnet32_stodepth_lineardecay(num_classes=classes)
        write_file(tmp_path / f"{name}.safetensors", model.state_dict(), config_of(model))
    (tmp_path / "config.json").write_text('{"settings": {}}')
    return tmp_path


def test_a_run_folder_is_its_best_weights_everywhere(run):
    assert builder_of(str(run)) == Owner("cifar_resnet32" + SUFFIX, {})
    assert sdm.cifar_resnet32_stodepth_lineardecay(weights=run).fc.out_features == 3
    assert sdm.CifarResNet.from_pretrained(run).fc.out_features == 3
    (run / "best.safetensors").unlink()
    assert sdm.cifar_resnet32_stodepth_lineardecay(weights=str(run)).fc.out_features == 4
    assert sdm.CifarResNet.from_pretrained(run).fc.out_features == 4


@pytest.mark.parametrize("config", [TrainConfig, EvaluateConfig])
def test_weights_name_the_model_where_nobody_else_does(run, config, tmp_path):
    weights = ["--weights", str(run)]
    assert parse(config, weights).model.name == "cifar_resnet32" + SUFFIX
    (tmp_path / "a.yaml").write_text("model:\n  name: cifar_resnet44")
    assert parse(config, [f"--config={tmp_path / 'a.yaml'}", *weights]).model.name == "cifar_resnet32" + SUFFIX


@pytest.mark.parametrize("same_file", [True, False])
def test_weights_of_another_builder_than_the_one_named_beside_them_are_an_error(run, same_file, tmp_path, capsys):
    words = ["--model=cifar_resnet20", f"--weights={run}"]
    if same_file:
        (tmp_path / "a.yaml").write_text(f"model:\n  name: cifar_resnet20\n  weights: {run}")
        words = [f"--config={tmp_path / 'a.yaml'}"]
    with pytest.raises(SystemExit, match="2"):
        parse(TrainConfig, words)
    expected = f"--model cifar_resnet20 and --weights {run} contradict one another, the weights are those of cifar_res"
    assert expected in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"--model cifar_resnet20 and --weights {run} contradict"):
        predict(str(run), "cifar_resnet20")
    checkpoint = read_file(run / "best.safetensors", "best")
    with pytest.raises(ValueError, match="--model cifar_resnet20 and --weights best contradict one another"):
        convert(checkpoint, "cifar_resnet20" + SUFFIX)


@pytest.mark.parametrize("saved", [True, False])
def test_options_come_with_weights_whose_builder_is_named_too(saved, tmp_path):
    model = sdm.cifar_resnet20_stodepth_lineardecay(shortcut="B")
    weights = tmp_path / "a.pth"
    torch.save(model.state_dict(), weights)
    if saved:
        weights = tmp_path / "a.safetensors"
        write_file(weights, model.state_dict(), config_of(model))
    recipe = ["--config=short_digits", f"--weights={weights}"]
    for words in (recipe, ["--model=cifar_resnet20", f"--weights={weights}"]):
        found = parse(TrainConfig, words).model
        assert (found.name, found.options) == ("cifar_resnet20" + SUFFIX, {"shortcut": "B"})
    assert parse(TrainConfig, [*recipe, "--model.options.shortcut=A"]).model.options == {"shortcut": "A"}
    assert predict(str(weights), "cifar_resnet20")[2] == {"shortcut": "B"}


def test_a_named_builder_stays_where_the_weights_name_none(tmp_path, capsys):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "a.pth")
    (tmp_path / "a.yaml").write_text("model:\n  name: timm:resnet18")
    words = [f"--config={tmp_path / 'a.yaml'}", f"--weights={tmp_path / 'a.pth'}"]
    assert parse(TrainConfig, words).model.name == "timm:resnet18"
    assert parse(TrainConfig, [words[0], "--weights=pretrained"]).model.name == "timm:resnet18"
    assert parse(TrainConfig, ["--config=short_digits", "--weights=CIFAR10_JPEG_V1"]).model.options == {}


def test_shapes_name_the_builder_and_its_options_where_the_file_says_nothing(tmp_path):
    torch.save(sdm.cifar_resnet44_stodepth_lineardecay(shortcut="B").state_dict(), tmp_path / "a.pth")
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "b.pth")
    assert builder_of(str(tmp_path / "a.pth")) == Owner("cifar_resnet44" + SUFFIX, {"shortcut": "B"}, is_saved=False)
    assert builder_of(str(tmp_path / "b.pth")).name == "resnet34" + SUFFIX
    config = parse(EvaluateConfig, [f"--weights={tmp_path / 'a.pth'}"])
    assert config.model.options == {"shortcut": "B"}


@pytest.mark.parametrize("name", ["cifar_resnet20" + SUFFIX, "timm:vit_tiny_patch16_224"])
def test_a_file_brings_along_the_options_of_its_builder_to_train_on(name, tmp_path):
    options = {"shortcut": "B"}
    if name.startswith("timm:"):
        options = {"img_size": 32, "depth": 1}
    config = ModelConfig(name=name, options=options)
    model = build_model(config, 3)
    write_file(tmp_path / "a.safetensors", model.state_dict(), describe(model, config))
    if name.startswith("timm:"):
        with pytest.raises(ValueError, match=r"safetensors holds timm:.*; stodepth evaluate, predict and train take"):
            convert(read_file(tmp_path / "a.safetensors", "a.safetensors"), None)
    found = parse(TrainConfig, ["--weights", str(tmp_path / "a.safetensors")]).model
    assert (found.name, found.options) == (name, options)
    tuned = build_model(found, 3).state_dict()
    assert all(torch.equal(tuned[key], tensor) for key, tensor in model.state_dict().items())
    other = parse(TrainConfig, ["--weights", str(tmp_path / "a.safetensors"), "--model.options.act_layer=relu"]).model
    assert other.options == {**options, "act_layer": "relu"}


def test_names_of_published_weights():
    assert builder_of("CifarResNet56_Weights.CIFAR10_JPEG_V1") == Owner("cifar_resnet56" + SUFFIX, {})
    assert builder_of("ResNet101_Weights.IMAGENET1K_V2") == Owner("resnet101" + SUFFIX, {})
    assert builder_of("CIFAR10_JPEG_V1", default="cifar_resnet20" + SUFFIX) == Owner("cifar_resnet20" + SUFFIX, {})
    expected = "^CIFAR10_JPEG_V1 are weights of cifar_resnet20, cifar_resnet32, .*: say which with --model$"
    with pytest.raises(ValueError, match=expected):
        builder_of("CIFAR10_JPEG_V1")
    with pytest.raises(ValueError, match="are weights of no model of the zoo: say which with --model"):
        builder_of("ViT_B_16_Weights.IMAGENET1K_V1")


def test_weights_that_are_not_there_yet_can_be_planned_with():
    assert parse(TrainConfig, ["--weights=runs/before/last.safetensors"]).model.name == TrainConfig().model.name


def test_weights_of_no_builder_ask_for_one(tmp_path, capsys):
    torch.save({"a": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(SystemExit, match="2"):
        parse(TrainConfig, ["--weights", str(tmp_path / "odd.pth")])
    assert "odd.pth matches no builder: name it with --model" in capsys.readouterr().err


def test_an_evaluation_takes_the_images_of_the_run_whose_weights_it_measures(run):
    assert data_of_run(str(run)) is None  # no metrics: not the folder of a run
    (run / "metrics.jsonl").touch()
    config = TrainConfig(
        data=DataConfig(name="folder", root=run / "pets", valid_size=7, mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    )
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    (run / "config.json").write_text(json.dumps({"settings": settings, "processes": 1}))
    for weights in (run, run / "last.safetensors"):
        data = data_of_run(str(weights))
        assert (data.name, data.root, data.valid_size) == ("folder", run / "pets", 7)
    assert data_of_run(None) is None
    assert data_of_run("CIFAR10_JPEG_V1") is None
