"""Folders: which files are images of which class."""

import shutil

import pytest
from PIL import Image

from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.data.decoding import open_image

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
