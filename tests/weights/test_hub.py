"""Models in folders and on the Hub: saved, rebuilt, and pushed, bit for bit."""

import json
import logging
import os
import re
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import stodepth_models as sdm


def tiny(**kwargs):
    torch.manual_seed(0)
    return sdm.cifar_resnet20_stodepth_lineardecay(**kwargs).eval()


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prob_0_L": (0.9, 0.3), "mode": "row", "rescale": "train", "depth_rule": "paper"},
        {"mult_flag": False, "mode": "subset", "num_classes": 3, "shortcut": "B", "sync_gates": True},
    ],
)
def test_a_round_trip_is_bit_exact(options, tmp_path):
    model = tiny(**options)
    model.save_pretrained(tmp_path)
    twin = sdm.CifarResNet.from_pretrained(tmp_path)
    assert same_weights(model, twin)
    assert repr(twin) == repr(model)
    assert [m.sync_gates for m in twin.modules() if isinstance(m, sdm.StochasticResidual)] == 9 * [
        options.get("sync_gates", False)
    ]
    assert not twin.training


def test_imagenet_models_and_their_dtype_travel_too(tmp_path):
    model = sdm.resnext50_32x4d_stodepth_lineardecay(num_classes=2).bfloat16()
    model.save_pretrained(tmp_path)
    twin = sdm.StoDepthResNet.from_pretrained(tmp_path)
    assert same_weights(model, twin)
    assert twin.fc.weight.dtype == torch.bfloat16
    assert twin.groups == 32


def test_norms_more_precise_than_the_rest_stay_so(tmp_path):
    model = tiny().bfloat16()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.float()
    model.save_pretrained(tmp_path)
    twin = sdm.CifarResNet.from_pretrained(tmp_path)
    assert same_weights(model, twin)
    assert {(p.dtype, p.requires_grad) for p in twin.bn1.parameters()} == {(torch.float32, True)}
    assert twin.fc.weight.dtype == torch.bfloat16


def test_survival_probabilities_set_later_are_saved(tmp_path):
    model = tiny()
    sdm.set_survival_probs(model, [0.9, 0.1, 0.3, 0.7, 0.2, 1.0, 0.4, 0.6, 0.5])
    model.save_pretrained(tmp_path)
    assert sdm.survival_probs(sdm.CifarResNet.from_pretrained(tmp_path)) == sdm.survival_probs(model)


def test_config_names_what_was_built(tmp_path):
    tiny(num_classes=7).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["builder"] == "cifar_resnet20_stodepth_lineardecay"
    assert config["survival_probs"] == sdm.linear_decay(9)
    assert (config["mode"], config["rescale"], config["num_classes"], config["shortcut"]) == ("batch", "eval", 7, "A")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["stodepth_models"]) == config


def test_the_file_alone_is_enough(tmp_path):
    model = tiny()
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    twin = sdm.CifarResNet.from_pretrained(tmp_path)
    assert same_weights(model, twin)
    assert repr(twin) == repr(model)


@pytest.mark.parametrize("overrides", [{"rescale": "train"}, {"mult_flag": False}, {"prob_0_L": (1.0, 0.2)}], ids=str)
def test_overrides_keep_the_function(overrides, tmp_path):
    model, x = tiny(), torch.randn(2, 3, 16, 16)
    model.save_pretrained(tmp_path)
    twin = sdm.CifarResNet.from_pretrained(tmp_path, **overrides)
    assert repr(twin) != repr(model)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=1e-4)


def test_another_number_of_classes_starts_a_new_classifier(tmp_path, caplog):
    model = tiny()
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "stodepth_models"):
        twin = sdm.CifarResNet.from_pretrained(tmp_path, num_classes=3)
    assert torch.equal(twin.layer3[2].conv2.weight, model.layer3[2].conv2.weight)
    assert twin.fc.out_features == 3
    assert len(caplog.records) == 1


def test_the_card_says_what_the_model_is(tmp_path):
    model = tiny()
    sdm.set_survival_probs(model, 2 / 3)
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: stodepth_models\n")
    assert "# cifar_resnet20_stodepth_lineardecay" in card
    assert 'CifarResNet.from_pretrained("path/or/repository")' in card
    assert "the first block to the last, 0.667, 0.667," in card


def test_push_uploads_what_save_writes(monkeypatch, tmp_path):
    created, model = [], tiny()

    def create_repo(self, repo_id, **kwargs):
        created.append(repo_id)
        return type("Repo", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        shutil.copytree(folder_path, tmp_path / "pushed")
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert model.push_to_hub("someone/tiny").endswith("/commit/1")
    assert created == ["someone/tiny"]
    assert {path.name for path in (tmp_path / "pushed").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert same_weights(model, sdm.CifarResNet.from_pretrained(tmp_path / "pushed"))


def test_a_norm_layer_is_asked_for_again(tmp_path):
    tiny(norm_layer=FrozenBatchNorm2d).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"norm_layer: give it to from_pretrained"):
        sdm.CifarResNet.from_pretrained(tmp_path)
    twin = sdm.CifarResNet.from_pretrained(tmp_path, norm_layer=FrozenBatchNorm2d)
    assert isinstance(twin.bn1, FrozenBatchNorm2d)


def test_what_cannot_be_rebuilt_is_not_saved(tmp_path):
    changed = tiny()
    changed.layer1[0].conv1 = nn.Conv2d(16, 16, 1)
    with pytest.raises(ValueError, match=r"was changed after it was built.*\n?.*layer1\.0\.conv1\.weight"):
        changed.save_pretrained(tmp_path)
    headless = tiny()
    headless.fc = nn.Identity()
    with pytest.raises(ValueError, match=r"model\.fc must be a linear layer.*Identity"):
        headless.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must come from one of this package's builders, got a hand-made CifarResNet"):
        sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4]).save_pretrained(tmp_path)
    mixed = tiny()
    mixed.layer1[0].residual.mode = "row"
    with pytest.raises(ValueError, match="all blocks must share mode"):
        mixed.save_pretrained(tmp_path)


def test_the_wrong_class_and_wrong_configurations_are_named(tmp_path):
    tiny().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a CifarResNet, use CifarResNet\.from_pretrained"):
        sdm.StoDepthResNet.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="loads the saved weights, got weights as well"):
        sdm.CifarResNet.from_pretrained(tmp_path, weights="CIFAR10_IDELBAYEV")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "builder": "alexnet"}))
    with pytest.raises(sdm.CheckpointError, match="names no builder of this package, got 'alexnet'"):
        sdm.CifarResNet.from_pretrained(tmp_path)


def test_sources_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        sdm.CifarResNet.from_pretrained(tmp_path)
    with pytest.raises(sdm.DownloadError, match="nowhere/at/all is neither a folder nor the name of a repository"):
        sdm.CifarResNet.from_pretrained("nowhere/at/all")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(sdm.DownloadError, match=r"no folder someone/tiny, and the repository .* HF_HUB_OFFLINE is set"):
        sdm.CifarResNet.from_pretrained("someone/tiny", cache_dir=tmp_path)


def test_a_cached_repository_is_read_offline(tmp_path, monkeypatch):
    model, repo, commit = tiny(mode="row"), tmp_path / "models--someone--tiny", "0" * 40
    model.save_pretrained(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    twin = sdm.CifarResNet.from_pretrained("someone/tiny", cache_dir=tmp_path)
    assert same_weights(model, twin)
    assert repr(twin) == repr(model)


def test_a_file_of_another_library_is_named(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(sdm.CheckpointError, match="was not saved by save_pretrained: build a model and use load_pre"):
        sdm.CifarResNet.from_pretrained(tmp_path)


def test_the_same_weights_are_the_same_file(tmp_path):
    model = sdm.cifar_resnet20_stodepth_lineardecay()
    contents = set()
    for number in range(6):
        model.save_pretrained(tmp_path / str(number))
        contents.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "0" / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert torch.equal(file.get_tensor("fc.weight"), model.fc.weight)


def test_names_of_classes_are_not_saved_beside_a_classifier_for_others(tmp_path):
    model = sdm.cifar_resnet20_stodepth_lineardecay(pretrained=True)
    model.fc = torch.nn.Linear(64, 7)
    model.save_pretrained(tmp_path)
    assert sdm.CifarResNet.from_pretrained(tmp_path).categories is None


def test_a_model_without_gates_says_how_to_save_it(tmp_path):
    model = sdm.cifar_resnet20_stodepth_lineardecay()
    sdm.remove_stochastic_depth(model)
    with pytest.raises(ValueError, match="must have stochastic blocks to be described, got none: save its state dict"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("maxpool", nn.Identity()), ("layer1.0.relu", nn.SiLU()), ("bn1", nn.BatchNorm2d(64, eps=0.1))],
    ids=str,
)
def test_a_layer_without_weights_of_another_shape_is_noticed_too(name, layer, tmp_path):
    model = sdm.resnet18_stodepth_lineardecay()
    model.set_submodule(name, layer)
    with pytest.raises(ValueError, match=f"could not rebuild it; 1 layers differ: {re.escape(name)}$"):
        model.save_pretrained(tmp_path)


def test_what_evaluates_alike_is_saved(tmp_path):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(tiny())
    model.relu = nn.ReLU()
    model.bn1.momentum = 0.01
    model.save_pretrained(tmp_path)
    assert same_weights(sdm.CifarResNet.from_pretrained(tmp_path), model)


def test_a_depth_rule_needs_the_pair_that_it_lies_between(tmp_path):
    tiny(prob_0_L=(0.9, 0.4)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give prob_0_L as well"):
        sdm.CifarResNet.from_pretrained(tmp_path, depth_rule="paper")
    model = sdm.CifarResNet.from_pretrained(tmp_path, depth_rule="paper", prob_0_L=(0.9, 0.4))
    assert sdm.survival_probs(model) == sdm.linear_decay(9, 0.9, 0.4, rule="paper")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda text: text.replace('"mode"', '"moed"'),
            "not one of cifar_resnet20.*takes no moed; did you mean mode",
        ),
        (lambda text: text.replace("1.0,", "", 1), "not one of cifar_resnet20.*each of the 9 blocks, got 8"),
    ],
)
def test_a_damaged_configuration_is_named(change, match, tmp_path):
    tiny().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(change(config.read_text()))
    with pytest.raises(sdm.CheckpointError, match=match):
        sdm.CifarResNet.from_pretrained(tmp_path)


def test_classes_may_be_counted_by_numpy(tmp_path):
    tiny(num_classes=np.array([0, 4]).max() + 1).save_pretrained(tmp_path)
    assert sdm.CifarResNet.from_pretrained(tmp_path).fc.out_features == 5


DAMAGES = {
    "torn": lambda text: text[:40],
    "empty": lambda text: "",
    "null": lambda text: "null",
    "list": lambda text: "[1]",
    "deep": lambda text: "[" * 100_000,
    "probabilities": lambda text: text.replace('"survival_probs": [', '"survival_probs": ["x", '),
    "builder": lambda text: text.replace('"builder": "', '"builder": 3, "x": "'),
    "classes": lambda text: text.replace('"num_classes": 10', '"num_classes": "10"'),
    "callables": lambda text: text.replace('"callables": []', '"callables": 7'),
    "dtype": lambda text: text.replace('"dtype": "float32"', '"dtype": []'),
    "categories": lambda text: text.replace('"categories": null', '"categories": 3'),
    "training": lambda text: text.replace('"categories": null', '"training": {"image_size": "x"}'),
    "no text": lambda text: b"\xff\xfe\xfa",
}


def damaged(tmp_path, damage):
    """A saved model with a damaged config.json."""
    model = tiny()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = DAMAGES[damage](path.read_text())
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return model


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_header_takes_the_place_of_a_damaged_config(damage, tmp_path, caplog):
    model = damaged(tmp_path, damage)
    with caplog.at_level(logging.WARNING, "stodepth_models"):
        twin = sdm.CifarResNet.from_pretrained(tmp_path)
    assert same_weights(twin, model)
    assert sdm.survival_probs(twin) == sdm.survival_probs(model)
    assert len(caplog.records) == (damage not in ("null", "list"))  # another library's, as far as one can tell


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_config_without_a_header_is_named(damage, tmp_path):
    model = damaged(tmp_path, damage)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(sdm.CheckpointError, match=r"config\.json|was not saved by save_pretrained"):
        sdm.CifarResNet.from_pretrained(tmp_path)


def test_a_config_that_is_a_named_pipe_is_not_read(tmp_path):
    tiny().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    sdm.CifarResNet.from_pretrained(tmp_path)
    sdm.load_pretrained(tiny(), tmp_path)


def test_a_save_that_is_killed_leaves_a_folder_that_loads(tmp_path, monkeypatch):
    model = tiny()
    model.save_pretrained(tmp_path)

    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stodepth_models.weights.hub.json.dumps", kill)
        with pytest.raises(KeyboardInterrupt):
            model.save_pretrained(tmp_path)
    assert same_weights(sdm.CifarResNet.from_pretrained(tmp_path), model)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("builder", "change"),
    [
        (sdm.cifar_resnet20_stodepth_lineardecay, {"num_classes": 10**7}),
        (sdm.cifar_resnet20_stodepth_lineardecay, {"shortcut": "B", "num_classes": 10**8}),
        (sdm.resnet18_stodepth_lineardecay, {"num_classes": 10**7}),
    ],
)
def test_a_config_of_another_network_is_refused_before_memory_is_taken(builder, change, tmp_path, monkeypatch):
    model = builder(num_classes=10)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(sdm.CheckpointError, match=r"describes another network: fc\.weight is \(10{7,8}, \d+\) by the"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("call", ["save_pretrained", "push_to_hub", "from_pretrained"])
def test_a_configuration_is_not_dropped_in_silence(call, tmp_path):
    with pytest.raises(TypeError, match=f"{call} takes no config, got dict"):
        getattr(tiny(), call)(str(tmp_path), config={"mode": "row"})


def test_tied_weights_are_saved(tmp_path):
    model = tiny()
    model.layer1[0].conv1.weight = model.layer1[1].conv1.weight
    model.save_pretrained(tmp_path)
    assert same_weights(sdm.CifarResNet.from_pretrained(tmp_path), model)


def test_the_card_has_licence_data_and_metrics_for_the_hub(tmp_path):
    details = {"license": "bsd-3-clause", "dataset": "cifar10", "metrics": {"accuracy": 0.91}}
    tiny().save_pretrained(tmp_path, model_card_kwargs=details)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.datasets, data.pipeline_tag) == ("bsd-3-clause", ["cifar10"], "image-classification")
    (result,) = data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("cifar10", "accuracy", 0.91)
    with pytest.raises(ValueError, match="give dataset as well"):
        tiny().generate_model_card(metrics={"accuracy": 0.91})
