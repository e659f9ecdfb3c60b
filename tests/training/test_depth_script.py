"""The frontier of FLOPs and accuracy: its figures are those of the pruned networks."""

import argparse
import runpy
from pathlib import Path

import pytest
import torch

import stodepth_models as sdm
from stodepth_models.training.data.batches import augmented_images
from stodepth_models.training.data.datasets import load_data

from .data.samples import folder, make_folder

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "depth_on_demand.py"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("images"), classes=tuple("abcdefghij"), count=3, side=32)
    return load_data(folder(root))


def test_the_figures_are_those_of_the_pruned_networks(data, tmp_path):
    model = sdm.cifar_resnet20_stodepth_lineardecay(pretrained=True, prob_0_L=(1.0, 1.0), rescale="none").eval()
    options = argparse.Namespace(images=20, shares=[0.7, 0.9])
    whole, most, less = SCRIPT["frontier"](model, data, options)
    assert whole["flops_share"] == 1.0
    assert whole["left_out"] == []
    assert [len(found["left_out"]) for found in (most, less)] == [1, 3]  # a block has 11.6 % of the FLOPs
    assert set(most["left_out"]) < set(less["left_out"])
    images = list(augmented_images(data, 20, seed=0))
    pruned = sdm.prune_depth(model, 0.7, images)
    assert set(less["left_out"]) == set(pruned.pruned_depth.left_out)
    x = SCRIPT["EvaluationBatches"](data, data.test, len(data.test.labels), torch.device("cpu"))
    ((x, labels),) = x
    with torch.inference_mode():
        logits = pruned(x)
    assert less["top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert less["nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)


def test_the_picture_shows_each_network(tmp_path):
    points = [{"flops_share": 1.0, "top1": 0.9}, {"flops_share": 0.7, "top1": 0.8}]
    SCRIPT["draw"]({"constant depth": points, "p = 0.7": points}, tmp_path / "frontier.svg")
    drawn = (tmp_path / "frontier.svg").read_text(encoding="utf-8")
    assert "constant depth" in drawn
    assert "p = 0.7" in drawn


def test_augmented_images_are_as_many_as_asked_for(data):
    count = len(data.train.labels)
    images = list(augmented_images(data, 2 * count + 1, seed=0, batch_size=8))
    assert 2 * count < sum(map(len, images)) <= 2 * count + 8
    first = torch.cat(images)[:count]
    assert not torch.equal(first, torch.cat(images)[count : 2 * count])  # other crops in the next epoch
    again = torch.cat(list(augmented_images(data, count, seed=0, batch_size=8)))
    assert torch.equal(first, again[:count])
    assert not torch.equal(first, torch.cat(list(augmented_images(data, count, seed=1, batch_size=8)))[:count])
