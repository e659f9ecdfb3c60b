"""The benchmark of the libraries' models: its arithmetic on numbers made by hand, and one small run."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import stodepth_models as sdm

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
benchmark = importlib.import_module("benchmark_libraries")
libraries = importlib.import_module("benchmarking.libraries")

NAMES = ("timm/vit_tiny_patch16_224", "torchvision/efficientnet_b0")


def test_each_number_is_a_ratio_to_the_model_without_drop_path():
    times = {"without": [9.0, 10.0, 11.0], "masks": [20.0] * 3, "batch": [8.0, 5.0, 8.0], "row": [7.0, 8.0, 9.0]}
    shares = {"batch": [0.8, 0.4, 0.4], "row": [0.5, 0.8, 0.5]}
    saved = {"without": 100, "masks": 110, "batch": 80, "row": 90}
    assert benchmark.row_of("x", 0.2, times, shares, saved) == {
        "model": "x",
        "rate": "0.2",
        "masks": 2.0,
        "batch": 0.8,
        "batch / share": 1.25,  # of 1, 1.25 and 2: each step over the share of its own gates
        "row": 0.8,
        "share": 0.5,
        "row / share": 1.4,  # of 1.4, 1 and 1.8
        "saved, masks": 1.1,
        "saved, batch": 0.8,
        "saved, row": 0.9,
    }


@pytest.mark.parametrize("name", [*NAMES, "torchvision/swin_t", "torchvision/convnext_tiny"])
def test_a_model_has_the_rate_that_it_is_built_with(name):
    rates = [1 - p for p in sdm.survival_probs(libraries.converted(name, 0.3, "row"))]
    assert max(rates) == pytest.approx(0.3, abs=0.03)  # the last block of some has no shortcut, and no gate
    assert min(rates) < 0.05
    assert set(sdm.survival_probs(libraries.converted(name, 0.0, "row"))) == {1.0}
    assert not any("DropPath" in type(module).__name__ for module in libraries.build(name, 0.0).modules())


def test_a_model_without_masks_is_refused():
    with pytest.raises(ValueError, match="ResNet of torchvision has no masks"):
        libraries.build("torchvision/resnet18", 0.1)


def test_the_share_is_what_the_gates_of_the_last_step_left():
    model = torchvision.models.resnet18()
    sdm.apply_stochastic_depth(model, drop_rate=0.5, stochastic_method="sample")
    x = torch.randn(4, 3, 32, 32)
    share = libraries.Share(model, x)
    libraries.training_step(model, x)()
    gates = [gate for gate in model.modules() if isinstance(gate, sdm.StochasticResidual)]
    drawn = [gate.last_share for gate in gates]
    assert 0 < min(drawn) < 1
    sdm.set_survival_probs(model, drawn)
    assert share() == pytest.approx(sdm.expected_flops(model, (4, 3, 32, 32)).share)


def test_models_that_are_equal_bit_by_bit_and_models_that_are_not():
    x = torch.randn(2, 3, 32, 32)
    one, other = torchvision.models.resnet18(), torchvision.models.resnet18()
    other.load_state_dict(one.state_dict())
    assert libraries.is_bit_equal(one, other, x)
    with torch.no_grad():
        other.layer1[0].bn1.weight[0] += 1e-3
    assert not libraries.is_bit_equal(one, other, x)


def test_a_small_run_from_end_to_end(tmp_path, capsys):
    file = tmp_path / "report.json"
    small = ["--batch-size", "2", "--image-size", "32", "--repeats", "1", "--rates", "0", "0.5"]
    benchmark.main(["torchvision/efficientnet_b0", *small, "--json", str(file)])
    still, gated = json.loads(file.read_text())["results"]
    assert (still["rate"], gated["rate"]) == ("0", "0.5")
    assert [still[f"saved, {kind}"] for kind in ("masks", "batch", "row")] == [1.0, 1.0, 1.0]
    assert still["share"] == 1.0
    assert gated["share"] < 1.0
    assert gated["saved, masks"] > 1.0 > gated["saved, batch"]
    assert capsys.readouterr().out.count("| torchvision/efficientnet_b0 | 0.5 |") == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["resnet18"], "models are named torchvision/NAME or timm/NAME, got 'resnet18'"),
        (["--rates", "1"], "--rates must be in [0, 1), got 1.0"),
        (["--batch-size", "1"], "--batch-size must be at least 2"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(wrong, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark.parse(wrong)
    assert message in capsys.readouterr().err
