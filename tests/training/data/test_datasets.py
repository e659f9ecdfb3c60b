"""Data sets: read, split and measured."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from scipy.io import savemat

from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.datasets import load_data

from .samples import folder, make_folder


def test_a_folder_without_validation_holds_back_a_tenth_by_seed(tmp_path):
    root = make_folder(tmp_path / "set", count=20)
    data = load_data(folder(root))
    assert (len(data.train.labels), len(data.valid.labels), len(data.test.labels)) == (36, 4, 40)
    assert data.classes == ("cat", "dog")
    assert data.image_size == 8
    again, other = load_data(folder(root)), load_data(folder(root, split_seed=1))
    assert torch.equal(data.valid.images, again.valid.images)
    assert not torch.equal(data.valid.images, other.valid.images)
    pixels = data.train.images.double() / 255
    torch.testing.assert_close(data.mean.double(), pixels.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(data.std.double(), pixels.std((0, 1, 2), correction=0), rtol=1e-5, atol=1e-6)


def test_few_images_of_each_class_are_chosen_by_seed(tmp_path):
    root = make_folder(tmp_path / "set", count=20)
    whole = load_data(folder(root))
    few = load_data(folder(root, images_per_class=5))
    assert few.train.labels.bincount().tolist() == [5, 5]
    assert torch.equal(few.valid.images, whole.valid.images)
    known = {image.numpy().tobytes() for image in whole.train.images}
    assert known > {image.numpy().tobytes() for image in few.train.images}
    assert torch.equal(few.train.images, load_data(folder(root, images_per_class=5)).train.images)
    assert not torch.equal(few.train.images, load_data(folder(root, images_per_class=5, split_seed=1)).train.images)
    with pytest.raises(ValueError, match=r"data\.images_per_class must be at most 1\d, .* class cat, got 30"):
        load_data(folder(root, images_per_class=30))


def test_splits_that_exist_are_taken_as_they_are(tmp_path):
    data = load_data(folder(make_folder(tmp_path / "set", splits=("train", "val"))))
    assert (len(data.train.labels), len(data.valid.labels), data.test) == (12, 12, None)


def test_one_thumbnail_does_not_set_the_size_of_all_images(tmp_path):
    root = make_folder(tmp_path / "set", side=80)
    Image.new("RGB", (40, 40)).save(root / "train" / "cat" / "0.png")
    assert load_data(folder(root)).image_size == 224


def test_an_evaluation_reads_what_it_needs(tmp_path):
    root = make_folder(tmp_path / "set")
    (root / "train" / "cat" / "3.png").write_bytes(b"no picture")
    statistics = {"mean": (0.5,) * 3, "std": (0.3,) * 3}
    data = load_data(folder(root, **statistics), "test")
    assert (data.train, data.valid, len(data.test.labels)) == (None, None, 12)
    for wanted, settings in (("test", {}), ("valid", statistics), ("train", statistics)):
        with pytest.raises(ValueError, match=r"train/cat/3\.png cannot be read"):
            load_data(folder(root, **settings), wanted)


def test_nothing_larger_than_the_image_is_cut_out(tmp_path):
    with pytest.raises(ValueError, match=r"data\.resize must be at least the side of 80 pixels .*, got 72"):
        load_data(folder(make_folder(tmp_path / "set"), image_size=80, resize=72))


def test_a_missing_download_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"cifar10 cannot be read from data\.root="):
        load_data(DataConfig(root=tmp_path, download=False))


def test_cifar_is_split_as_in_the_paper(tmp_path, monkeypatch):
    class Cifar:
        classes = tuple("abcdefghij")

        def __init__(self, root, train, download):
            count = 50_000 if train else 10_000
            self.data = np.zeros((count, 1, 1, 3), dtype=np.uint8)
            self.data[:, 0, 0, 0] = np.arange(count) % 256
            self.targets = [number % 10 for number in range(count)]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Cifar)
    data = load_data(DataConfig(root=tmp_path))
    assert (len(data.train.labels), len(data.valid.labels), len(data.test.labels)) == (45_000, 5_000, 10_000)


def test_svhn_is_read_from_its_files_and_trained_on_both_parts(tmp_path, monkeypatch):
    rng, split_list = np.random.default_rng(0), {}
    pictures = {"train": 12, "test": 5, "extra": 20}
    for split, count in pictures.items():
        path = tmp_path / f"{split}_32x32.mat"
        images = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]  # 10 stands for 0
        savemat(path, {"X": images, "y": labels})
        split_list[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
        pictures[split] = images.transpose(3, 0, 1, 2)
    monkeypatch.setattr("torchvision.datasets.SVHN.split_list", split_list)
    data = load_data(DataConfig(name="svhn", root=tmp_path, valid_size=6, download=False))
    assert (len(data.train.labels), len(data.valid.labels), len(data.test.labels)) == (26, 6, 5)
    assert data.classes == tuple("0123456789")
    assert (data.image_size, data.padding, data.flip) == (32, 0, False)
    assert data.test.labels.tolist() == [1, 2, 3, 4, 5]
    assert (data.test.images.numpy() == pictures["test"]).all()
    read = {image.numpy().tobytes() for split in (data.train, data.valid) for image in split.images}
    assert read == {image.tobytes() for part in ("train", "extra") for image in pictures[part]}
    (tmp_path / "extra_32x32.mat").unlink()
    with pytest.raises(ValueError, match=r"svhn cannot be read from data\.root="):
        load_data(DataConfig(name="svhn", root=tmp_path, download=False))


def test_cinic10_is_a_folder_of_32_pixels_with_a_validation_split(tmp_path):
    root = make_folder(tmp_path / "cinic", splits=("train", "valid", "test"), side=40)
    data = load_data(DataConfig(name="cinic10", root=root))
    assert (data.image_size, data.padding, data.flip) == (32, 4, True)
    assert data.train.images.shape == data.valid.images.shape == (12, 32, 32, 3)
    assert load_data(folder(root)).image_size == 40


def test_digits_and_fake_come_with_the_package():
    digits = load_data(DataConfig(name="digits"))
    assert (len(digits.classes), digits.image_size, digits.flip) == (10, 8, False)
    assert len(digits.train.labels) + len(digits.valid.labels) + len(digits.test.labels) == 1797
    fake = load_data(DataConfig(name="fake", fake_images=30, fake_classes=3, image_size=16))
    assert fake.train.images.shape == (30, 16, 16, 3)
    with pytest.raises(ValueError, match=r"data\.padding=4 has no effect on images of 70 pixels, .*: leave it out"):
        load_data(DataConfig(name="fake", fake_images=30, fake_classes=3, image_size=70, padding=4))


@pytest.mark.parametrize("side", [5, 20])
def test_images_of_arrays_are_resized_as_those_of_folders(side):
    native, data = load_data(DataConfig(name="digits")), load_data(DataConfig(name="digits", image_size=side))
    assert data.image_size == side
    assert data.train.images.shape[1:] == data.valid.images.shape[1:] == data.test.images.shape[1:] == (side, side, 3)
    assert torch.equal(data.test.labels, native.test.labels)
    for index in (0, 7, 100):
        image = Image.fromarray(native.test.images[index].numpy())
        expected = np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)).astype(int)
        assert abs(data.test.images[index].numpy() - expected).max() <= 1
