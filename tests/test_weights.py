"""Loading keeps the evaluation function: published files, other people's names, errors."""

import io
import itertools
import tarfile

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import get_model

import stodepth_models as sdm
from stodepth_models.published import CifarResNet20_Weights

PUBLISHED = {20: ("resnet20-12fca82f.th", 81.03), 32: ("resnet32-d509ac18.th", 82.56)}
CLASSES = CifarResNet20_Weights.CIFAR10_IDELBAYEV.meta["categories"]


def cifar20(**kwargs):
    return sdm.cifar_resnet20_stodepth_lineardecay(**kwargs).eval()


def trained_looking(model):
    """Batch norms as after training: no scale is 1, no shift 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.2)
    return model


@pytest.fixture
def small_images():
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def test_images(shared_data):
    """The 10,000 JPEG test images of CIFAR-10 and their labels."""
    transforms = CifarResNet20_Weights.CIFAR10_IDELBAYEV.transforms()
    images, labels = [], []
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz") as archive:
        for member in archive:
            parts = member.name.split("/")
            if member.isfile() and "test" in parts:
                images.append(transforms(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")))
                labels.append(CLASSES.index(parts[-2]))
    return torch.stack(images), torch.tensor(labels)


@torch.no_grad()
def logits(model, images):
    return torch.cat([model(batch) for batch in images.split(250)])


@pytest.mark.parametrize("depth", [20, 32])
def test_published_files_keep_their_accuracy_with_and_without_scaling(depth, shared_data, test_images):
    file, accuracy = PUBLISHED[depth]
    images, labels = test_images
    name = f"cifar_resnet{depth}_stodepth_lineardecay"
    plain = get_model(name, weights=shared_data / file, mult_flag=False).eval()
    scaled = get_model(name, mult_flag=True).eval()
    sdm.load_pretrained(scaled, shared_data / file, check_hash=True)
    outputs = logits(plain, images)
    torch.testing.assert_close(logits(scaled, images[::10]), outputs[::10], rtol=0, atol=1e-4)
    assert len(labels) == 10_000
    assert round(100 * (outputs.argmax(1) == labels).double().mean().item(), 2) == accuracy


CONFIGURATIONS = [
    {"prob_0_L": probs, "mode": mode, **scaling}
    for probs, mode, scaling in itertools.product(
        [(1.0, 0.5), (0.9, 0.2), (1.0, 1.0)],
        ["batch", "row", "subset"],
        [{"mult_flag": True}, {"mult_flag": False}, {"rescale": "train"}, {"rescale": "none"}],
    )
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_loading_keeps_the_function_of_a_constant_depth_network(configuration, small_images):
    torch.manual_seed(0)
    source = trained_looking(cifar20(prob_0_L=(1.0, 1.0)))
    target = cifar20(weights=source.state_dict(), **configuration)
    torch.testing.assert_close(target(small_images), source(small_images), rtol=0, atol=1e-4)
