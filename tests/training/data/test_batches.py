"""Batches: order, augmentation, and shares of processes."""

import pytest
import torch
import torchvision

from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.batches import EvaluationBatches, TrainBatches
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.data.decoding import open_image
from stodepth_models.training.data.order import SampleOrder
from stodepth_models.weights.preprocessing import saved_preprocessing

from .samples import folder, make_folder

CPU = torch.device("cpu")


def test_crops_and_flips_are_those_of_a_plain_loop():
    data = load_data(DataConfig(name="fake", fake_images=40, fake_classes=4, image_size=16, padding=4))
    order = SampleOrder(40, 16, seed=1)
    batches = TrainBatches(data, order, CPU, 0)
    drawn = list(batches.epoch(3))
    corner, mirrored, permutation = batches.memory.corner, batches.memory.mirrored, order.permutation(3)
    assert mirrored.float().mean() == pytest.approx(0.5, abs=0.25)
    assert corner.min() == 0
    assert corner.max() == 8
    images = torch.cat([part[0] for batch in drawn for part in batch.parts])
    padded = torch.nn.functional.pad(data.train.images.permute(0, 3, 1, 2), (4, 4, 4, 4))
    for image, index in zip(images, permutation.tolist(), strict=True):
        top, left = corner[:, index].tolist()
        expected = padded[index, :, top : top + 16, left : left + 16] / 255.0
        expected = expected.flip(-1) if mirrored[index] else expected
        expected = (expected - data.mean.view(3, 1, 1)) / data.std.view(3, 1, 1)
        torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


def test_processes_share_each_global_batch_without_overlap():
    data = load_data(DataConfig(name="fake", fake_images=50, fake_classes=4, image_size=8))
    alone = [batch.parts[0] for batch in TrainBatches(data, SampleOrder(50, 16, 0), CPU, 0).epoch(0)]
    parts = [list(TrainBatches(data, SampleOrder(50, 16, 0, rank, 2, 2), CPU, 0).epoch(0)) for rank in (0, 1)]
    # The last two images are left out where four micro-batches would have to share them.
    assert [len(labels) for _, labels in alone] == [16, 16, 16, 2]
    assert len(parts[0]) == len(parts[1]) == 3
    for (images, labels), first, second in zip(alone, *parts, strict=False):
        shared = [part for batch in (first, second) for part in batch.parts]
        assert torch.equal(torch.cat([labels for _, labels in shared]), labels)
        assert torch.equal(torch.cat([images for images, _ in shared]), images)


def test_a_batch_too_small_for_its_processes_is_refused():
    with pytest.raises(ValueError, match="batch_size=16 of 7 training images is too few for 4"):
        SampleOrder(7, 16, 0, 0, 4)


def test_micro_batches_that_are_to_be_even_leave_their_last_image_out():
    order = SampleOrder(50, 17, 0, rank=1, world=2, even=True)
    permutation = order.permutation(0)
    (share,), size = order.step(permutation, 1)
    assert (share.tolist(), size) == (permutation[17 + 9 : 17 + 17].tolist(), 16)


def test_balanced_sampling_draws_each_class_equally_often():
    labels = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    order = SampleOrder(1000, 10, seed=1, weights=1 / labels.bincount()[labels])
    drawn = labels[order.permutation(4)].bincount().tolist()
    assert drawn == pytest.approx([333] * 3, abs=60)  # four standard deviations
    assert torch.equal(order.permutation(4), order.permutation(4))
    assert not torch.equal(order.permutation(4), order.permutation(5))


def test_neither_order_nor_augmentation_touches_the_stream_of_the_gates(tmp_path):
    small = load_data(DataConfig(name="fake", fake_images=40, fake_classes=4, image_size=8))
    large = load_data(folder(make_folder(tmp_path / "set"), image_size=72))
    state = torch.get_rng_state()
    for data in (small, large):
        list(TrainBatches(data, SampleOrder(len(data.train.labels), 4, 0), CPU, 0).epoch(0))
        list(EvaluationBatches(data, data.valid, 3, CPU))
    assert torch.equal(torch.get_rng_state(), state)


def test_large_images_repeat_from_any_step_and_with_any_number_of_workers(tmp_path):
    data = load_data(folder(make_folder(tmp_path / "set"), image_size=72))
    order = SampleOrder(len(data.train.labels), 4, 0)
    whole = [batch.parts[0][0] for batch in TrainBatches(data, order, CPU, 0).epoch(1)]
    rest = [batch.parts[0][0] for batch in TrainBatches(data, order, CPU, 1).epoch(1, first_step=1)]
    assert whole[0].shape == (4, 3, 72, 72)
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))


def test_every_image_is_evaluated_once_over_uneven_processes():
    data = load_data(DataConfig(name="fake", fake_images=35, fake_classes=5, image_size=8))
    shares = [torch.cat([y for _, y in EvaluationBatches(data, data.train, 4, CPU, 0, r, 2)]) for r in (0, 1)]
    assert [len(share) for share in shares] == [18, 17]
    assert torch.equal(torch.cat(shares).sort().values, data.train.labels.sort().values)


def test_a_damaged_large_image_is_named_by_whichever_process_meets_it(tmp_path):
    root = make_folder(tmp_path / "set", side=80)
    data = load_data(folder(root))
    data.train.paths[4].write_bytes(b"no picture")
    for workers in (0, 1):
        batches = TrainBatches(data, SampleOrder(len(data.train.labels), 4, 0), CPU, workers)
        with pytest.raises(ValueError, match=r"^[^\n]*\.png cannot be read as an image [^\n]*$"):
            list(batches.epoch(0))


def test_large_images_are_prepared_as_the_weights_of_torchvision_ask_for(tmp_path):
    root = make_folder(tmp_path / "set", count=1, side=300)
    preset = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    saved = saved_preprocessing(torchvision.models.ResNet50_Weights.IMAGENET1K_V2)
    assert (saved.side, saved.resize) == (224, 232)
    data = load_data(folder(root, image_size=224, resize=saved.resize, mean=saved.mean, std=saved.std), "test")
    ((images, _),) = EvaluationBatches(data, data.test, 2, CPU)
    expected = torch.stack([preset(open_image(path)) for path in data.test.paths])
    torch.testing.assert_close(images, expected, rtol=0, atol=0.02)  # one of 255 levels, rounded otherwise
