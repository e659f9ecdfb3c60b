"""Pickled models of version 0.1.0, whose modules have moved since."""

import lzma
import pickle
from pathlib import Path

import pytest
import timm  # noqa: F401  # a pickle names its classes
import torch

import stodepth_models as sdm

# Written by version 0.1.0: {name: model}, each with all weights zero.
PICKLE = Path(__file__).with_name("data") / "models-0.1.0.pickle.xz"


@pytest.fixture(scope="module")
def models():
    return pickle.loads(lzma.decompress(PICKLE.read_bytes()))


@pytest.mark.parametrize(
    ("name", "probs", "shape"),
    [
        ("cifar", sdm.linear_decay(9, 1.0, 0.6), (2, 3, 32, 32)),
        ("imagenet", sdm.linear_decay(8, 1.0, 0.5), (2, 3, 64, 64)),
        ("convnext", [0.8, 0.6], (2, 3, 32, 32)),
        ("timm", [0.9, 0.8, 0.7, 0.6], (2, 3, 64, 64)),
        ("whole", [0.7, 1.0], (2, 4, 8, 8)),
        ("layers", [0.3], None),
    ],
)
def test_a_pickle_of_version_0_1_0_is_the_model_of_today(models, name, probs, shape):
    model = models[name]
    assert sdm.survival_probs(model) == pytest.approx(probs)
    if shape is not None:
        assert model(torch.ones(shape)).isfinite().all()
        model.train()(torch.ones(shape, requires_grad=True)).sum().backward()
    assert pickle.loads(pickle.dumps(type(model))) is type(model)


def test_settings_outlive_the_pickle(models):
    assert "mode='row', rescale='train'" in repr(models["cifar"])
    assert models["imagenet"].layer1.checkpoint
    sdm.remove_stochastic_depth(models["convnext"])
