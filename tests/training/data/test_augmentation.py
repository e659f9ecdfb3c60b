"""Augmentation is timm's, with random numbers that depend on seed, epoch and image alone."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.augmentation import make_transform, seeded_streams
from stodepth_models.training.data.batches import TrainBatches
from stodepth_models.training.data.datasets import Data, load_data
from stodepth_models.training.data.order import SampleOrder

from .samples import folder, make_folder

CPU = torch.device("cpu")
MEAN, STD = torch.tensor((0.5, 0.4, 0.3)), torch.tensor((0.2, 0.3, 0.4))


def prepared(config, side, padding, flip):
    return make_transform(config, Data(None, None, None, (), side, side, padding, flip, MEAN, STD))


def picture(side):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))


def drawn():
    return [torch.rand(3).tolist(), random.random(), np.random.rand()]


def test_streams_go_on_as_if_nothing_had_been_drawn():
    def streams():
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)

    streams()
    expected = drawn()
    streams()
    with seeded_streams(4, 5, 6):
        inside = drawn()
    assert drawn() == expected
    with seeded_streams(4, 5, 6):
        assert drawn() == inside
    with seeded_streams(4, 5, 7):
        assert all(a != b for a, b in zip(drawn(), inside, strict=True))


@pytest.mark.parametrize("aa", ["rand-m9-mstd0.5-inc1", "augmix-m5-w2", "original"])
def test_large_images_pass_the_transform_of_timm(aa):
    config = DataConfig(aa=aa, reprob=0.5, color_jitter=0.2, transform_args={"scale": (0.5, 1.0), "vflip": 0.5})
    ours = prepared(config, 72, 0, True)
    timms = create_transform(
        72, is_training=True, auto_augment=aa, re_prob=0.5, re_mode="pixel", color_jitter=0.2, scale=(0.5, 1.0),
        vflip=0.5, mean=MEAN.tolist(), std=STD.tolist(),
    )  # fmt: skip
    results = []
    for transform in (ours, timms):
        with seeded_streams(1):
            results.append(torch.stack([transform(picture(80)) for _ in range(8)]))
    assert torch.equal(*results)
    assert (results[0].shape, results[0].dtype) == ((8, 3, 72, 72), torch.float32)


def test_small_images_are_padded_and_cropped_as_without_timm():
    config = DataConfig(color_jitter=0.0, transform_args={"grayscale_prob": 0.0})
    transform, image = prepared(config, 8, 1, False), picture(8)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1))
    crops = [padded[:, top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
    expected = torch.stack([(crop - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1) for crop in crops])
    found = [int((expected - transform(image)).abs().amax((1, 2, 3)).argmin()) for _ in range(200)]
    assert set(found) == set(range(9))
    assert (expected[found[-1]] - transform(image)).abs().amin() < 1e-5


def test_erasing_fills_with_the_mean():
    config = DataConfig(reprob=1.0, remode="const")
    out = prepared(config, 32, 0, False)(Image.new("RGB", (32, 32), (255, 255, 255)))
    erased = (out == 0).all(0)
    assert 0.02 <= erased.float().mean() <= 0.4


@pytest.mark.parametrize("aa", ["rand-m10-inc1", "v0", "augmix-m10"])
def test_policies_keep_to_what_pillow_allows(aa):
    transform, image = prepared(DataConfig(aa=aa), 16, 0, False), picture(16)
    with seeded_streams(1):
        assert all(transform(image).isfinite().all() for _ in range(150))


def test_trivial_augment_changes_images_by_itself():
    image = picture(32)
    plain = prepared(DataConfig(transform_args={"vflip": 0.0}), 32, 0, False)(image)
    with seeded_streams(1):
        found = [prepared(DataConfig(aa="ta_wide"), 32, 0, False)(image) for _ in range(20)]
    assert sum(not torch.equal(plain, other) for other in found) > 10


@pytest.mark.parametrize("large", [True, False])
def test_augmented_images_repeat_from_any_step_and_with_any_number_of_workers(tmp_path, large):
    config = DataConfig(name="fake", fake_images=12, fake_classes=2, image_size=16)
    if large:
        config = folder(make_folder(tmp_path / "set"), image_size=72)
    data = load_data(config)
    config = DataConfig(aa="rand-m9", reprob=0.5)
    transform = make_transform(config, data)
    order = SampleOrder(len(data.train.labels), 4, 0)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    whole = [batch.parts[0] for batch in TrainBatches(data, order, CPU, 0, transform).epoch(1)]
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(state[0], torch.get_rng_state())
    rest = [batch.parts[0] for batch in TrainBatches(data, order, CPU, 1, transform).epoch(1, first_step=1)]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(whole[1:], rest, strict=True))
    (first, _), *_ = next(TrainBatches(data, order, CPU, 0, transform).epoch(2)).parts
    assert not torch.equal(first, whole[0][0])
