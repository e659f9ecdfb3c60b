"""Figures of an evaluation, against scikit-learn and counting by hand."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import nn

from stodepth_models import CifarResNet20_Weights
from stodepth_models.training.config import DataConfig, EvaluateConfig, ModelConfig, OptimConfig, TrainConfig
from stodepth_models.training.data.datasets import Data
from stodepth_models.training.errors import SettingsError
from stodepth_models.training.evaluation import _outputs_of_classes, evaluate_weights, report
from stodepth_models.training.predictions import accuracy_interval
from stodepth_models.training.run.metrics import evaluate
from stodepth_models.training.run.train import train
from stodepth_models.weights import checkpoint, sources
from stodepth_models.weights.preprocessing import saved_preprocessing

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_figures_are_those_of_scikit_learn_over_uneven_batches():
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(103, 8), torch.randint(8, (103,))
    batches = list(zip(logits.split(25), labels.split(25), strict=True))
    figures = evaluate(nn.Identity(), batches, Accelerator(cpu=True))
    probs = logits.double().softmax(1).numpy()
    assert figures.count == 103
    assert figures.nll == pytest.approx(log_loss(labels, probs, labels=range(8)), rel=1e-5)
    assert figures.top1 == pytest.approx(top_k_accuracy_score(labels, probs, k=1, labels=range(8)))
    assert figures.top5 == pytest.approx(top_k_accuracy_score(labels, probs, k=5, labels=range(8)))
    confidence, right = probs.max(1), (logits.argmax(1) == labels).numpy()
    expected = 0.0
    for low in range(15):
        inside = (confidence * 15 >= low) & (confidence * 15 < low + 1)
        if inside.any():
            expected += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    assert figures.ece == pytest.approx(expected, abs=1e-6)


def test_evaluation_draws_no_random_number_and_restores_modes():
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout())
    model[1].eval()
    state = torch.get_rng_state()
    evaluate(model, [(torch.randn(5, 8, generator=torch.Generator()), torch.zeros(5).long())], Accelerator(cpu=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, False]


def test_the_weights_of_a_run_score_as_at_its_end(tmp_path):
    data = DataConfig(name="digits")
    train(TrainConfig(data=data, optim=OptimConfig(lr=0.05), epochs=2, output=tmp_path, trackers=(), progress=False,
                      stop_at_chance=0))  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    for name in ("best", "last"):
        weights = str(tmp_path / f"{name}.safetensors")
        figures = evaluate_weights(EvaluateConfig(model=ModelConfig(weights=weights), data=data))
        assert figures["nll"] == pytest.approx(result[f"test_{name}"]["nll"], rel=1e-5)
        assert figures["error_percent"] == pytest.approx(result[f"test_error_{name}"])
    low, high = figures["top1_interval"]
    assert (low, high) == accuracy_interval(round(figures["top1"] * figures["count"]), figures["count"])
    line = report(figures, as_json=False)
    assert f"images of digits: top-1 {figures['top1']:.2%} (95 % interval {low:.2%} to {high:.2%}), top-5" in line
    command = [sys.executable, str(SCRIPTS / "evaluate.py"), "--model.weights", weights, "--data.name=digits", "--json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True,
                         env=os.environ | {"PYTHONPATH": str(SCRIPTS.parent)})  # fmt: skip
    assert json.loads(out.stdout)["top1"] == pytest.approx(result["test_last"]["top1"])


def make_pets(root, split, names):
    """Plain pictures, each class of a brightness of its own: dark cats, grey dogs, bright eels."""
    brightness = {"cat": 20, "dog": 120, "eel": 220, "fox": 250, "a": 20, "b": 120, "c": 220}
    for name in names:
        (root / split / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8), (brightness[name] + number,) * 3).save(root / split / name / f"{number}.png")
    return DataConfig(name="folder", root=root, padding=0)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Weights that tell cats, dogs and eels apart."""
    folder = tmp_path_factory.mktemp("pets")
    data = make_pets(folder / "set", "train", ("cat", "dog", "eel"))
    model, optim = ModelConfig(prob_0_L=(1.0, 1.0)), OptimConfig(lr=0.05)
    train(TrainConfig(model=model, data=data, optim=optim, epochs=6, batch_size=10, output=folder / "run", trackers=(),
                      progress=False, stop_at_chance=0))  # fmt: skip
    return str(folder / "run" / "last.safetensors")


def test_a_data_set_without_test_images_names_the_other_splits(pets, tmp_path):
    data = make_pets(tmp_path, "train", ("cat", "dog", "eel"))
    with pytest.raises(ValueError, match=r"^split=test: .* no such images; try --split valid or --split train$"):
        evaluate_weights(EvaluateConfig(model=ModelConfig(weights=pets), data=data, cpu=True))


@pytest.mark.parametrize("names", [("dog", "eel"), ("cat", "eel"), ("cat", "dog", "eel")])
def test_names_tell_which_output_stands_for_a_class(pets, tmp_path, names, monkeypatch):
    data, reads = make_pets(tmp_path, "test", names), []

    def read_file(path, name):
        reads.append(path)
        return checkpoint.read_file(path, name)

    monkeypatch.setattr(sources, "read_file", read_file)
    figures = evaluate_weights(EvaluateConfig(model=ModelConfig(weights=pets), data=data, cpu=True))
    assert figures["top1"] > 0.9
    assert len(reads) == 1  # settings, preprocessing and model are made from one reading


@pytest.mark.parametrize(
    ("names", "refusal"),
    [
        (("dog", "fox"), r"last\.safetensors does not know 1 of the 2 classes of data\.name=folder: fox$"),
        (("cat", "dog", "eel", "fox"), "does not know 1 of the 4 classes of .*: fox$"),
        (
            ("a", "b", "c"),
            r"last\.safetensors \(cat, dog, eel\) and data\.name=folder \(a, b, c\) have no class names in common: "
            r"accuracy is meaningless; rename the folders, or add --classes_in_order true where the order is the same$",
        ),
        (("a", "b"), "have no class names in common: accuracy is meaningless"),
    ],
)
def test_classes_that_the_weights_do_not_know_are_named(pets, tmp_path, names, refusal):
    data = make_pets(tmp_path, "test", names)
    with pytest.raises(ValueError, match=refusal):
        evaluate_weights(EvaluateConfig(model=ModelConfig(weights=pets), data=data, cpu=True))


def test_weights_bring_their_size_beside_a_given_mean(tmp_path):
    data = DataConfig(name="digits", image_size=16)
    train(TrainConfig(data=data, optim=OptimConfig(lr=0.05), epochs=1, output=tmp_path, trackers=(), progress=False,
                      stop_at_chance=0))  # fmt: skip
    weights = tmp_path / "last.safetensors"
    saved = saved_preprocessing(weights)
    figures = [
        evaluate_weights(EvaluateConfig(model=ModelConfig(weights=str(weights)), data=data, cpu=True))["nll"]
        for data in (DataConfig(name="digits"), DataConfig(name="digits", mean=saved.mean, std=saved.std))
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)


def test_weights_bring_the_options_of_their_builder(tmp_path):
    model, data = ModelConfig(options={"shortcut": "B"}), DataConfig(name="digits")
    train(TrainConfig(model=model, data=data, optim=OptimConfig(lr=0.05), epochs=1, output=tmp_path, trackers=(),
                      progress=False, stop_at_chance=0))  # fmt: skip
    weights = ModelConfig(weights=str(tmp_path / "last.safetensors"))
    figures = evaluate_weights(EvaluateConfig(model=weights, data=data, cpu=True))
    tested = json.loads((tmp_path / "result.json").read_text())
    assert figures["error_percent"] == pytest.approx(tested["test_error_last"], abs=1e-6)
    asked = dataclasses.replace(weights, options={"shortcut": "A"})
    with pytest.raises(ValueError, match=r"unexpected: .*downsample"):  # what the settings give goes before
        evaluate_weights(EvaluateConfig(model=asked, data=data, cpu=True))


def test_weights_without_names_go_by_the_order_of_the_classes(pets, tmp_path):
    """A tensor alone carries no names: more outputs than classes are accepted, fewer are not."""
    torch.save(load_file(pets), tmp_path / "plain.pth")
    model = ModelConfig(weights=str(tmp_path / "plain.pth"))
    statistics = {"mean": (0.5,) * 3, "std": (0.3,) * 3}
    data = dataclasses.replace(make_pets(tmp_path / "two", "test", ("a", "b")), **statistics)
    assert evaluate_weights(EvaluateConfig(model=model, data=data, cpu=True))["count"] == 40
    data = dataclasses.replace(make_pets(tmp_path / "four", "test", ("cat", "dog", "eel", "fox")), **statistics)
    with pytest.raises(ValueError, match=r"knows 3 classes, data\.name=folder has 4$"):
        evaluate_weights(EvaluateConfig(model=model, data=data, cpu=True))


def test_weights_that_cannot_be_evaluated_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"model\.weights must name the weights"):
        evaluate_weights(EvaluateConfig(data=DataConfig(name="fake")))
    (tmp_path / "empty.pth").touch()
    model = ModelConfig(weights=str(tmp_path / "empty.pth"), options={"shortcutt": "B"})
    with pytest.raises(
        SettingsError, match=r"^model: .*takes no shortcutt; did you mean shortcut\?, given model\.options"
    ):
        evaluate_weights(EvaluateConfig(model=model, data=DataConfig(name="folder", root=tmp_path / "none")))


def test_weights_are_evaluated_alike_by_name_by_path_and_by_url(tmp_path):
    member = CifarResNet20_Weights.CIFAR10_JPEG_V1
    data = make_pets(tmp_path, "test", ("cat", "dog"))
    figures = []
    for source in ("CIFAR10_JPEG_V1", str(member.path()), member.path().as_uri()):
        result = evaluate_weights(EvaluateConfig(model=ModelConfig(weights=source), data=data, cpu=True))
        figures.append((result["top1"], result["nll"]))
    assert figures[0] == figures[1] == figures[2]


def test_weights_bring_the_size_that_images_are_scaled_to(tmp_path):
    noise = torch.Generator().manual_seed(0)
    for split, name, shade in ((s, n, c) for s in ("train", "test") for n, c in (("dark", 60), ("bright", 160))):
        (tmp_path / "set" / split / name).mkdir(parents=True)
        for number in range(8):
            pixels = torch.randint(shade, shade + 60, (100, 100, 3), generator=noise, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / "set" / split / name / f"{number}.png")
    data = DataConfig(name="folder", root=tmp_path / "set", image_size=80, resize=80)
    train(TrainConfig(data=data, optim=OptimConfig(lr=0.01), epochs=1, batch_size=4, output=tmp_path / "run",
                      trackers=(), progress=False, stop_at_chance=0))  # fmt: skip
    weights, at_the_end = (
        tmp_path / "run" / "last.safetensors",
        json.loads((tmp_path / "run" / "result.json").read_text()),
    )
    assert saved_preprocessing(weights).resize == 80
    given = EvaluateConfig(
        model=ModelConfig(weights=str(weights)), data=DataConfig(name="folder", root=data.root), cpu=True
    )
    assert evaluate_weights(given)["nll"] == pytest.approx(at_the_end["test_last"]["nll"], rel=1e-5)


@pytest.mark.parametrize("names", [("a", "b", "c"), ("cat", "dog", "eel")])
def test_classes_are_paired_in_their_order_where_the_settings_say_so(pets, tmp_path, names):
    data = make_pets(tmp_path / "set", "test", names)
    config = EvaluateConfig(
        model=ModelConfig(weights=pets), data=data, cpu=True, classes_in_order=True, report=tmp_path / "report"
    )
    assert evaluate_weights(config)["top1"] > 0.9
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert all(f'<td class="text">{name}</td>' in page for name in names)
    fewer = dataclasses.replace(config, data=make_pets(tmp_path / "fewer", "test", names[:2]))
    with pytest.raises(ValueError, match=r"last\.safetensors knows 3 classes, data\.name=folder has 2$"):
        evaluate_weights(fewer)


def test_the_page_names_outputs_as_the_weights_do(pets, tmp_path):
    """Weights that know cats, dogs and eels see eels as eels, and cats as cats, in a set of eels and cats."""
    data = make_pets(tmp_path / "set", "test", ("cat", "eel"))
    for picture in (tmp_path / "set" / "test" / "cat").iterdir():  # dogs, labelled as cats
        number = int(picture.stem)
        Image.new("RGB", (8, 8), (120 + number,) * 3).save(picture)
    folder = tmp_path / "report"
    figures = evaluate_weights(EvaluateConfig(model=ModelConfig(weights=pets), data=data, cpu=True, report=folder))
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert figures["top1"] == pytest.approx(0.5, abs=0.1)
    assert re.search(r"<b>cat</b><br>predicted: dog,", page)
    assert re.search(r'<td class="text">dog \((1\d|20)\)</td>', page)  # what cats are most often mistaken for
    assert "cifar_resnet20_stodepth_lineardecay on set</title>" in page
    assert report(figures, as_json=False).endswith(f"; classes and worst predictions: {folder / 'index.html'}")


def test_a_report_that_cannot_be_written_is_refused_before_the_evaluation(tmp_path):
    (tmp_path / "file").touch()
    data = DataConfig(name="folder", root=tmp_path / "none")
    for place in (tmp_path / "file", tmp_path / "file" / "folder"):
        config = EvaluateConfig(model=ModelConfig(weights="CIFAR10_JPEG_V1"), data=data, report=place)
        with pytest.raises(SettingsError, match=r"^report must be a folder that can be written, got .*file"):
            evaluate_weights(config)


WORDNET = ["n01440764", "n01443537", "n01484850"]


@pytest.mark.parametrize(
    ("known", "classes", "outputs"),
    [
        (["tench", "goldfish", "shark"], WORDNET, [0, 1, 2]),  # folders of ImageNet, sorted, go by the weights' order
        ([], ["x", "y"], [0, 1]),
        (["cat", "dog", "eel"], ["eel", "cat"], [2, 0]),
    ],
)
def test_outputs_of_classes(known, classes, outputs):
    data = Data(None, None, None, tuple(classes), 8, 8, 0, False, torch.zeros(3), torch.ones(3))
    config = EvaluateConfig(model=ModelConfig(weights="w"))
    assert _outputs_of_classes(known, 3, data, config).tolist() == outputs


@pytest.mark.parametrize("classes", [WORDNET[:2], ["tench.", "goldfish.", "shark."], ["Tench", "Goldfish", "Shark"]])
def test_foreign_names_are_refused(classes):
    data = Data(None, None, None, tuple(classes), 8, 8, 0, False, torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="no class names in common: accuracy is meaningless"):
        _outputs_of_classes(["tench", "goldfish", "shark"], 3, data, EvaluateConfig(model=ModelConfig(weights="w")))
