"""The comparison of one evaluation pass with many: its figures are those of the logits."""

import argparse
import runpy
from pathlib import Path

import pytest
import torch

import stodepth_models as sdm
from stodepth_models.training.data.datasets import load_data

from .data.samples import folder, make_folder

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "uncertainty.py"))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setitem(SCRIPT["auroc"].__globals__, "_RESAMPLES", 10)


def test_the_figures_of_a_shipped_network_are_those_of_its_logits(tmp_path):
    classes = tuple("abcdefghij")
    own = make_folder(tmp_path / "own", splits=("test",), classes=classes, count=3, side=32)
    foreign = make_folder(tmp_path / "foreign", splits=("test",), classes=("x", "y"), count=4, side=32)
    options = argparse.Namespace(data=own, foreign=foreign, samples=[3], images=None)
    found = SCRIPT["compare"]("cifar_resnet20", options)
    model = sdm.cifar_resnet20_stodepth_lineardecay(pretrained=True, prob_0_L=(1.0, 0.8)).eval()
    preparation = sdm.CifarResNet20_Weights.DEFAULT.transforms()
    test = load_data(folder(own, mean=tuple(preparation.mean), std=tuple(preparation.std)), "test").test
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preparation.mean, preparation.std))
    with torch.inference_mode():
        logits = model((test.images.permute(0, 3, 1, 2) / 255 - mean) / std)
    once = found["stochastic depth, one pass"]
    assert once["nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits, test.labels).item(), rel=1e-4)
    assert once["top1"] == pytest.approx((logits.argmax(1) == test.labels).float().mean().item())
    many = found["stochastic depth, mc_predict(3)"]
    assert many["nll_less_one_pass"] == pytest.approx(many["nll"] - once["nll"], rel=1e-4)


def test_the_area_is_one_where_all_foreign_images_score_higher():
    low, high = torch.rand(20).numpy(), 1 + torch.rand(15).numpy()
    assert SCRIPT["auroc"](low, high)["auroc"] == 1.0
    assert SCRIPT["auroc"](high, low)["interval"] == [0.0, 0.0]
