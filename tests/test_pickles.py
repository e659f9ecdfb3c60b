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
    assert models["cifar"].built_with.builder == "cifar_resnet20_stodepth_lineardecay"  # `recipe` in version 0.1.0
    sdm.remove_stochastic_depth(models["convnext"])


CLASSES = [name for name in sdm.__all__ if isinstance(getattr(sdm, name), type)]


@pytest.mark.parametrize("name", CLASSES)
def test_a_pickle_names_a_public_class_by_the_package_alone(name):
    """So that a module can move without a pickle being lost."""
    content = pickle.dumps(getattr(sdm, name), protocol=2)
    assert f"cstodepth_models\n{name}\n".encode() in content
    assert pickle.loads(content) is getattr(sdm, name)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_members_of_weights_enums_outlive_a_pickle(protocol):
    member = sdm.CifarResNet20_Weights.CIFAR10_IDELBAYEV
    assert pickle.loads(pickle.dumps(member, protocol)) is member


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("cifar_network", "CifarResNet"),
        ("cifar_network", "PadShortcut"),
        ("published", "CifarResNet20_Weights"),
        ("schedules", "SurvivalSchedule"),
        ("schedules", "StochasticDepthProbabilitySchedulerLinear"),
        ("uncertainty", "MCPrediction"),
        ("catalog", "WeightsTable"),
        ("errors", "CheckpointError"),
        ("recipe", "Recipe"),
        ("layers", "DropPath"),
        ("blocks", "StoDepthBottleneck"),
    ],
)
def test_modules_of_version_0_1_0_are_known_to_pickles(module, name):
    assert isinstance(pickle.loads(f"cstodepth_models.{module}\n{name}\n.".encode()), type)
