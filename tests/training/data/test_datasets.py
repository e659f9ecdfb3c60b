"""Data sets: read from folders and archives, split, augmented, and refused where they are damaged."""

import hashlib
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from scipy.io import savemat

from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.batches import EvaluationBatches, SampleOrder, TrainBatches
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.data.decoding import open_image
from stodepth_models.weights.sources import saved_preprocessing

CPU = torch.device("cpu")


def make_folder(root, splits=("train", "test"), classes=("cat", "dog"), count=6, side=8):
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def folder(root, **settings):
    return DataConfig(name="folder", root=root, cache=root.parent / "cache", **settings)


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
    with pytest.raises(ValueError, match=r"data\.images_per_class=30: cat has 1\d training images"):
        load_data(folder(root, images_per_class=30))


def test_splits_that_exist_are_taken_as_they_are(tmp_path):
    data = load_data(folder(make_folder(tmp_path / "set", splits=("train", "val"))))
    assert (len(data.train.labels), len(data.valid.labels), data.test) == (12, 12, None)


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".zip"])
def test_an_archive_is_unpacked_once(tmp_path, suffix):
    root, archive = make_folder(tmp_path / "set"), tmp_path / f"images{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in root.rglob("*.png"):
                file.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(archive, "w:xz" if suffix == ".tar.xz" else "w") as file:
            file.add(root, "set")
    first = load_data(folder(archive))
    [unpacked] = (tmp_path / "cache").iterdir()
    stamp = unpacked.stat().st_mtime_ns
    assert torch.equal(first.train.images, load_data(folder(root)).train.images)
    load_data(folder(archive))
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()] == [stamp]


def test_what_a_mac_packs_beside_the_images_is_left_alone(tmp_path):
    root = make_folder(tmp_path / "outer" / "set")
    (tmp_path / "outer" / "__MACOSX" / "set").mkdir(parents=True)
    (root / "train" / "cat" / "._0.png").write_bytes(b"a resource fork")
    data = load_data(folder(tmp_path / "outer"))
    assert len(data.train.labels) + len(data.valid.labels) == 12


def test_an_archive_that_is_cut_short_is_named(tmp_path):
    archive = tmp_path / "images.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        file.add(make_folder(tmp_path / "set"), "set")
    archive.write_bytes(archive.read_bytes()[:-600])
    with pytest.raises(ValueError, match=r"images\.tar\.xz is damaged or cut short"):
        load_data(folder(archive))
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "images.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(ValueError, match=r"images\.zip is damaged"):
        load_data(folder(tmp_path / "images.zip"))


def test_a_plain_archive_has_to_end_with_its_end_marker(tmp_path):
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as file:
        file.add(make_folder(tmp_path / "set"), "set")
    whole = archive.read_bytes()
    with tarfile.open(archive) as file:
        members = file.getmembers()
        boundaries = [member.offset for member in members[-6:]] + [file.offset]
    for cut in [size + past for size in boundaries for past in (0, 1, 200, 511)]:
        archive.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"images\.tar is damaged or cut short"):
            load_data(folder(archive))
    damaged = bytearray(whole)
    damaged[boundaries[2] : boundaries[2] + 512] = b"x" * 512
    archive.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"images\.tar is damaged or cut short"):
        load_data(folder(archive))
    archive.write_bytes(whole)
    assert len(load_data(folder(archive)).test.labels) == 12


def test_a_zip_that_cannot_be_unpacked_is_one_line(tmp_path):
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("train/cat/0.png", b"x")
    whole = archive.read_bytes()
    central = whole.index(b"PK\1\2")
    for flag, reason in ((0x01, "encrypted"), (0x20, "patched data")):
        changed = bytearray(whole)
        changed[6] |= flag
        changed[central + 8] |= flag
        archive.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"^[^\n]*images\.zip cannot be unpacked \([^\n]*{reason}[^\n]*$"):
            load_data(folder(archive))


def test_an_archive_that_leads_outside_is_refused(tmp_path):
    (tmp_path / "x").write_text("x")
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(tmp_path / "x", "../../outside")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.write(tmp_path / "x", "../outside")
    for name in ("a.tar", "b.zip"):
        with pytest.raises(ValueError, match=r"is refused: .*outside"):
            load_data(folder(tmp_path / name))
    assert not (tmp_path / "outside").exists()
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreadable_image_is_named_and_stops_or_is_skipped(tmp_path):
    root = make_folder(tmp_path / "set")
    (root / "train" / "cat" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cat/3\.png cannot be read as an image .*data\.unreadable=skip"):
        load_data(folder(root))
    with pytest.warns(UserWarning, match=r"cat/3\.png .*skipped"):
        data = load_data(folder(root, unreadable="skip"))
    assert len(data.train.labels) + len(data.valid.labels) == 11
    with pytest.warns(UserWarning, match="skipped"):
        large = load_data(folder(root, unreadable="skip", image_size=80))
    assert len(large.train.labels) + len(large.valid.labels) == 11


def test_sixteen_bits_of_grey_are_scaled_and_other_ranges_refused(tmp_path):
    root = make_folder(tmp_path / "set")
    ramp = (np.arange(64) * 1040).reshape(8, 8)
    for name, dtype in (("0.png", "<u2"), ("1.tif", ">u2")):
        Image.fromarray(ramp.astype(dtype)).save(root / "test" / "cat" / name)
        read = np.asarray(open_image(root / "test" / "cat" / name))
        assert (read == (ramp // 256)[..., None]).all()
    pixels = {"4.pgm": b"P5 8 8 65535\n" + ramp.astype(">u2").tobytes(),
              "5.pgm": b"P2 8 8 65535\n" + " ".join(map(str, ramp.flat)).encode()}  # fmt: skip
    for name, content in pixels.items():
        (root / "test" / "cat" / name).write_bytes(content)
        assert (np.asarray(open_image(root / "test" / "cat" / name)) == (ramp // 256)[..., None]).all()
    for name, dtype, mode in (("2.tif", np.int32, "I"), ("3.tif", np.float32, "F")):
        Image.fromarray(ramp.astype(dtype)).save(root / "test" / "cat" / name)
        with pytest.raises(ValueError, match=rf"cat/{name} cannot .*mode {mode} .*: remove it or use data\.unreadable"):
            open_image(root / "test" / "cat" / name)


@pytest.mark.parametrize("error", [TypeError("a\nb"), struct.error("short"), KeyError(), RecursionError()])
def test_whatever_a_decoder_raises_becomes_one_line(tmp_path, monkeypatch, error):
    def fail(image, mode):
        raise error

    make_folder(tmp_path / "set")
    monkeypatch.setattr("PIL.Image.Image.convert", fail)
    with pytest.raises(ValueError, match=r"^[^\n]*0\.png cannot be read as an image \(\w+\): remove it[^\n]*$"):
        open_image(tmp_path / "set" / "train" / "cat" / "0.png")


@pytest.mark.parametrize("side", [8, 80])
def test_skipping_may_not_empty_a_class(tmp_path, side):
    root = make_folder(tmp_path / "set", count=2)
    for number in range(2):
        (root / "test" / "dog" / f"{number}.png").write_bytes(b"no picture")
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(ValueError, match="test/dog holds no image that can be read: remove the class or fill"),
    ):
        load_data(folder(root, unreadable="skip", image_size=side))


def test_a_damaged_large_image_is_named_by_whichever_process_meets_it(tmp_path):
    root = make_folder(tmp_path / "set", side=80)
    data = load_data(folder(root))
    data.train.paths[4].write_bytes(b"no picture")
    for workers in (0, 1):
        batches = TrainBatches(data, SampleOrder(len(data.train.labels), 4, 0), CPU, workers)
        with pytest.raises(ValueError, match=r"^[^\n]*\.png cannot be read as an image [^\n]*$"):
            list(batches.epoch(0))


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path):
    empty = make_folder(tmp_path / "empty")
    (empty / "train" / "bird").mkdir()
    with pytest.raises(ValueError, match="train/bird holds no image"):
        load_data(folder(empty))
    with pytest.raises(ValueError, match=r"two or more classes, got \['cat'\]"):
        load_data(folder(make_folder(tmp_path / "one", classes=("cat",))))
    with pytest.raises(ValueError, match="has no train/, valid/ or test/ folder, but cat, dog: put"):
        load_data(folder(make_folder(tmp_path / "flat", splits=("",))))
    with pytest.raises(ValueError, match="has no train/ folder, only test"):
        load_data(folder(make_folder(tmp_path / "test_only", splits=("test",))))
    with pytest.raises(ValueError, match="nowhere does not exist"):
        load_data(folder(tmp_path / "nowhere"))
    for split in ("valid", "test"):
        hollow = make_folder(tmp_path / f"no_{split}")
        shutil.rmtree(hollow / "test")
        (hollow / split).mkdir()
        with pytest.raises(ValueError, match=rf"no_{split}/{split} holds no image: remove it or fill it"):
            load_data(folder(hollow))
    strange = make_folder(tmp_path / "strange")
    (strange / "test" / "bird").mkdir()
    with pytest.raises(ValueError, match=r"has classes that .*train has not: bird"):
        load_data(folder(strange))


def test_hidden_files_and_folders_with_the_names_of_images_are_none(tmp_path):
    root = make_folder(tmp_path / "set")
    (root / "test" / "cat" / "._0.png").write_bytes(b"of a Mac")
    (root / "test" / "cat" / "more.png").mkdir()
    Image.new("RGB", (8, 8)).save(root / "test" / "cat" / "more.png" / "6.png")
    assert len(load_data(folder(root)).test.labels) == 13


@pytest.mark.parametrize("side", [8, 80])
def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path, side):
    root = make_folder(tmp_path / "set")
    (root / "test" / "cat" / "gone.png").symlink_to(tmp_path / "moved" / "gone.png")
    (root / "test" / "dog" / "round.png").symlink_to("round.png")
    (root / "test" / "dog" / "more.png").symlink_to(root / "test" / "dog" / "0.png")
    with pytest.warns(UserWarning, match=r"test/(cat/gone|dog/round)\.png .*: skipped") as warned:
        data = load_data(folder(root, image_size=side, unreadable="skip"))
    assert len(warned) == 2
    assert len(data.test.labels) == 13
    with pytest.raises(ValueError, match=r"test/cat/gone\.png cannot be read as an image \(.*No such file"):
        open_image(root / "test" / "cat" / "gone.png")


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


def test_large_images_are_prepared_as_the_weights_of_torchvision_ask_for(tmp_path):
    root = make_folder(tmp_path / "set", count=1, side=300)
    preset = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    saved = saved_preprocessing(torchvision.models.ResNet50_Weights.IMAGENET1K_V2)
    assert (saved.side, saved.resize) == (224, 232)
    data = load_data(folder(root, image_size=224, resize=saved.resize, mean=saved.mean, std=saved.std), "test")
    ((images, _),) = EvaluationBatches(data, data.test, 2, CPU)
    expected = torch.stack([preset(open_image(path)) for path in data.test.paths])
    torch.testing.assert_close(images, expected, rtol=0, atol=0.02)  # one of 255 levels, rounded otherwise


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
