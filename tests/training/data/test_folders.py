"""Folders: which files are images of which class."""

import logging
import os
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.data.decoding import open_image
from stodepth_models.training.data.folders import images_below, scan

from .samples import folder, make_folder


def test_what_a_mac_packs_beside_the_images_is_left_alone(tmp_path):
    root = make_folder(tmp_path / "outer" / "set")
    (tmp_path / "outer" / "__MACOSX" / "set").mkdir(parents=True)
    (root / "train" / "cat" / "._0.png").write_bytes(b"a resource fork")
    data = load_data(folder(tmp_path / "outer"))
    assert len(data.train.labels) + len(data.valid.labels) == 12


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path):
    empty = make_folder(tmp_path / "empty")
    (empty / "train" / "bird").mkdir()
    with pytest.raises(ValueError, match="train/bird holds no image"):
        load_data(folder(empty))
    with pytest.raises(ValueError, match=r"two or more classes, got \['cat'\]"):
        load_data(folder(make_folder(tmp_path / "one", classes=("cat",))))
    for part in ("a", "b"):
        make_folder(tmp_path / "two" / part)
    with pytest.raises(ValueError, match=r"has no train/, valid/ or test/ folder and no .*, it holds a, b: put"):
        load_data(folder(tmp_path / "two"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"no folders of images, it is empty: put a folder of images for each class"):
        load_data(folder(tmp_path / "nothing"))
    (tmp_path / "nothing" / "a.png").touch()
    with pytest.raises(ValueError, match=r"no folders of images, it holds files and no folders: put"):
        load_data(folder(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="has no train/ folder, only test"):
        load_data(folder(make_folder(tmp_path / "test_only", splits=("test",))))
    with pytest.raises(ValueError, match=r"there is no file or folder .*nowhere: give"):
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


def test_folders_of_classes_alone_are_a_training_split_as_in_torchvision(tmp_path):
    root = make_folder(tmp_path / "flat", splits=("",))
    data = load_data(folder(root))
    assert data.classes == tuple(torchvision.datasets.ImageFolder(str(root)).classes) == ("cat", "dog")
    assert len(data.train.labels) + len(data.valid.labels) == 12
    assert data.test is None


def test_the_names_of_splits_are_known_in_any_case_of_letters(tmp_path):
    root = make_folder(tmp_path / "set", splits=("Train", "VAL", "Testing"))
    data = load_data(folder(root))
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [12, 12, 12]


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


def save(path, kind="png"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (10, 20, 30)).save(path, kind)


def relative(files):
    return [path.relative_to(files.root / "train").as_posix() for path in files.paths]


HIDDEN = [".ipynb_checkpoints", ".thumbnails", ".git", "@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found"]


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("place", ["", "train", "train/cat", "train/cat/deeper"])
def test_hidden_folders_are_passed_over_wherever_they_are(tmp_path, name, place):
    root = make_folder(tmp_path / "set", splits=("train",))
    save(root / "train" / "cat" / "deeper" / "6.png")
    save(root / place / name / "cat" / "0-copy.png")
    splits, classes = scan(root)
    assert classes == ("cat", "dog")
    assert torch.bincount(splits["train"].labels).tolist() == [7, 6]


def test_files_and_classes_are_those_of_torchvision(tmp_path):
    root = make_folder(tmp_path / "set", splits=("train",), classes=("dog", "Zebra", "ant 2", "ant 10"))
    for name in ("dog/b/1.png", "dog/a.png", "dog/b.png", "dog/B/1.png", "ant 2/10.png"):
        save(root / "train" / name)
    (root / "train" / "dog" / "notes.txt").write_text("none")
    reference = torchvision.datasets.ImageFolder(root / "train")
    splits, classes = scan(root)
    assert list(classes) == reference.classes
    ours = set(zip(map(str, splits["train"].paths), splits["train"].labels.tolist(), strict=True))
    assert ours == set(reference.samples)


def test_linked_folders_are_followed_once(tmp_path):
    root = make_folder(tmp_path / "set", splits=("train",))
    make_folder(tmp_path / "more", splits=("",), classes=("x",), count=4)
    (root / "train" / "cat" / "linked").symlink_to(tmp_path / "more" / "x")
    reference = torchvision.datasets.ImageFolder(root / "train")
    counts = torch.bincount(scan(root)[0]["train"].labels).tolist()
    assert counts == np.bincount(reference.targets).tolist() == [10, 6]
    (root / "train" / "cat" / "twice").symlink_to(tmp_path / "more" / "x")
    (root / "train" / "cat" / "file.png").symlink_to(tmp_path / "more" / "x" / "0.png")
    (root / "train" / "fox").symlink_to(tmp_path / "more" / "x")
    splits, classes = scan(root)
    assert classes == ("cat", "dog", "fox")
    assert torch.bincount(splits["train"].labels).tolist() == [11, 6, 4]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "deeper", "../cat"])
def test_links_in_a_circle_end(tmp_path, target):
    root = make_folder(tmp_path / "set", splits=("train",))
    save(root / "train" / "cat" / "deeper" / "6.png")
    (root / "train" / "cat" / "circle").symlink_to(target)
    (root / "train" / "cat" / "deeper" / "circle").symlink_to("..")
    (root / "train" / "cat" / "itself").symlink_to("itself")
    splits, _ = scan(root)
    assert torch.bincount(splits["train"].labels).tolist() == [7, 6]
    assert "cat/deeper/6.png" in relative(splits["train"])


def test_what_is_passed_over_is_counted_in_one_line(tmp_path, caplog):
    root = make_folder(tmp_path / "set", splits=("train",))
    for name in ("cat/a.txt", "cat/b.TXT", "dog/labels", "dog/drawing.svg", "stray.png"):
        (root / "train" / name).write_text("no picture")
    save(root / "train" / "dog" / "@eaDir" / "0.png")
    (root / "train" / "dog" / ".DS_Store").write_text("of a Mac")
    os.mkfifo(root / "train" / "dog" / "pipe.png")
    (root / "train" / "dog" / "up").symlink_to("..")
    save(root / "train" / "cat" / "whole.JFIF", "jpeg")
    save(root / "train" / "cat" / "no suffix", "webp")
    with caplog.at_level(logging.WARNING):
        splits, _ = scan(root)
    assert torch.bincount(splits["train"].labels).tolist() == [8, 6]
    [message] = [record.getMessage() for record in caplog.records]
    counted = message.removeprefix(f"data.root: {root}: passed over what is no image of a class: ").split(", ")
    assert sorted(counted) == sorted(
        ["2 *.txt", "1 files without suffix", "1 *.svg", "1 files in train/ itself", "1 @eaDir/", "1 *.png",
         "1 links to a folder above"]
    )  # fmt: skip


def test_a_class_of_other_files_names_them(tmp_path):
    root = make_folder(tmp_path / "set", splits=("train",))
    for number in range(3):
        save(root / "train" / "fox" / f"{number}.png")
        (root / "train" / "fox" / f"{number}.png").rename(root / "train" / "fox" / f"{number}.heic")
        (root / "train" / "fox" / f"{number}.heic").write_bytes(b"ftypheic")
    with pytest.raises(ValueError, match=r"train/fox holds no image, only 3 \*\.heic: remove the class or fill"):
        scan(root)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "set", splits=("train",))
    (root / "train" / "cat" / "secret").mkdir()
    plain = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ValueError, match=r"cat/secret cannot be read \(Permission denied\): change its rights"):
        scan(root)


@pytest.mark.parametrize(
    ("train", "test", "classes"),
    [
        (range(12), range(12), [str(number) for number in range(12)]),
        (["007", "010", "2"], ["7", "10", "02"], ["2", "007", "010"]),
        (["00", "01", "10"], ["0", "1", "10"], ["00", "01", "10"]),
        (["1", "10", "2", "x"], ["1", "10", "2", "x"], ["1", "10", "2", "x"]),
        (["1", "01", "10"], ["1", "01", "10"], ["01", "1", "10"]),
    ],
)
def test_whole_numbers_are_classes_in_the_order_of_numbers(tmp_path, train, test, classes):
    for split, names in (("train", train), ("test", test)):
        for name in names:
            save(tmp_path / "set" / split / str(name) / "0.png")
    splits, found = scan(tmp_path / "set")
    assert list(found) == classes
    numbers = [int(path.parent.name) for path in splits["test"].paths if path.parent.name != "x"]
    expected = [int(name) for name in classes if name != "x"]
    assert numbers == expected
    assert splits["test"].labels.tolist() == list(range(len(classes)))


def test_a_number_that_train_does_not_have_is_refused(tmp_path):
    for name in ("train/1", "train/01", "test/001"):
        save(tmp_path / "set" / name / "0.png")
    with pytest.raises(ValueError, match="has not: 001"):
        scan(tmp_path / "set")


@pytest.mark.parametrize(("train", "test"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_a_class_name_in_two_unicode_forms_is_one_class(tmp_path, train, test):
    for split, form in (("train", train), ("test", test)):
        for name in ("caf\u00e9", "\u0413\u0439", "plain"):
            save(tmp_path / "set" / split / unicodedata.normalize(form, name) / "0.png")
    save(tmp_path / "set" / "train" / unicodedata.normalize(test, "caf\u00e9") / "1.png")
    splits, classes = scan(tmp_path / "set")
    assert classes == ("caf\u00e9", "plain", "\u0413\u0439")
    assert splits["train"].labels.tolist() == [0, 0, 1, 2]
    assert splits["test"].labels.tolist() == [0, 1, 2]


def test_images_below_a_folder_are_sorted_by_their_parts(tmp_path):
    for name in ("b.png", "a/z.png", "a b/1.png", "a.png"):
        save(tmp_path / name)
    assert images_below(tmp_path, Counter()) == sorted(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("empty", ["emu", "masks"])
def test_a_folder_without_images_beside_those_of_classes_is_named(tmp_path, empty):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    (tmp_path / empty).mkdir()
    with pytest.raises(ValueError, match=f"has folders of images, but none lie in {empty} itself: remove"):
        load_data(folder(tmp_path))


def test_a_named_pipe_is_no_data_set(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"pipe is neither a file nor a folder"):
        load_data(folder(tmp_path / "pipe"))
