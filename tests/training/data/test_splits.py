"""Splits: what is held back, and what tells two data sets apart."""

import logging
from dataclasses import replace

import pytest
import torch

from stodepth_models.training.data.splits import (
    Arrays,
    Files,
    changed_images,
    fingerprint,
    hold_back,
    take_per_class,
)


def arrays(*counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = torch.arange(len(labels) * 12).remainder(251).to(torch.uint8).view(len(labels), 2, 2, 3)
    return Arrays(images, labels)


def names(counts):
    return tuple(f"class{number}" for number in range(len(counts)))


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ((12, 2), 4, [3, 1]),
        ((12, 2), 12, [11, 1]),
        ((100, 2), 10, [9, 1]),  # in proportion the second class would have none
        ((50, 50), 10, [5, 5]),
        ((60, 30, 10), 10, [6, 3, 1]),
        ((6, 1), 2, [2, 0]),
        ((1, 5, 1, 5), 4, [0, 2, 0, 2]),
        ((20, 10, 10), 1, [1, 0, 0]),
        ((7, 0, 7), 4, [2, 0, 2]),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_images_are_held_back_by_class(counts, size, expected, seed):
    train, valid = hold_back(arrays(*counts), size, seed, names(counts))
    assert torch.bincount(valid.labels, minlength=len(counts)).tolist() == expected
    left = [count - quota for count, quota in zip(counts, expected, strict=True)]
    assert torch.bincount(train.labels, minlength=len(counts)).tolist() == left
    together = torch.cat([train.images, valid.images]).flatten(1)
    assert torch.equal(together.unique(dim=0), arrays(*counts).images.flatten(1).unique(dim=0))


def test_the_seed_chooses_the_images_of_each_class():
    split = arrays(30, 30)
    first, again, other = (hold_back(split, 10, seed, ("a", "b"))[1] for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_classes_without_validation_images_are_named_in_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        hold_back(arrays(1, 9, 1), 2, 0, ("ant", "bee", "cow"))
    assert [record.getMessage() for record in caplog.records] == [
        "data.valid_size=2: no validation image of 2 classes, which are too small or too many (ant, cow)"
    ]


@pytest.mark.parametrize("size", [0, 13, 14, 100])
def test_each_class_keeps_a_training_image(size):
    with pytest.raises(ValueError, match=rf"data\.valid_size must be from 1 to 12, .* got {size}: add images"):
        hold_back(arrays(12, 2), size, 0, ("cat", "dog"))


def test_so_many_images_are_taken_of_each_class():
    taken = take_per_class(arrays(6, 4), ("cat", "dog"), 3, 0)
    assert taken.labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"data\.images_per_class must be at most 4, .* class dog, got 5"):
        take_per_class(arrays(6, 4), ("cat", "dog"), 5, 0)


@pytest.fixture
def files(tmp_path):
    """A function that returns the files of a small folder below ``place``."""

    def make(place="set"):
        paths = [tmp_path / place / "train" / name for name in ("cat/0.png", "cat/1.png", "dog/0.png")]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"of a picture")
        return Files(tuple(paths), torch.tensor([0, 0, 1]), tmp_path / place)

    return make


def test_files_and_arrays_are_selected_and_relabelled_alike(files):
    for split in (files(), arrays(2, 1)):
        for chosen in (torch.tensor([0, 2]), torch.tensor([True, False, True])):
            assert split.select(chosen).labels.tolist() == [0, 1]
        assert split.relabel(torch.tensor([5, 3])).labels.tolist() == [5, 5, 3]
    assert [path.name for path in files().select(torch.tensor([True, False, False])).paths] == ["0.png"]


def test_the_fingerprint_of_files_is_that_of_a_copy_elsewhere(files):
    before, after = (fingerprint({"train": files(place)}, ("cat", "dog")) for place in ("set", "moved"))
    assert before == after
    assert set(before) == {"train", "classes"}
    assert changed_images(before, after) == []


def overwritten(split):
    split.paths[1].write_bytes(b"another picture")
    return split


def renamed(split):
    path = split.paths[0].rename(split.paths[0].with_name("9.png"))
    return replace(split, paths=(split.paths[1], path, split.paths[2]))


def swapped(split):
    return split.relabel(torch.tensor([1, 0]))


def fewer(split):
    return split.select(torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (overwritten, "train: other sizes"),
        (renamed, "train: other names"),
        (swapped, "train: other labels"),
        (fewer, "train: other names, sizes, labels"),
    ],
)
def test_another_file_is_another_fingerprint(files, change, phrase):
    before = fingerprint({"train": files()}, ("cat", "dog"))
    assert changed_images(before, fingerprint({"train": change(files())}, ("cat", "dog"))) == [phrase]


def test_images_in_memory_count_by_their_pixels():
    split = arrays(2, 2)
    before = fingerprint({"train": split, "valid": None}, ("cat", "dog"))
    assert (
        changed_images(before, fingerprint({"train": Arrays(split.images.clone(), split.labels)}, ("cat", "dog"))) == []
    )
    pixel = split.images.clone()
    pixel[3, 1, 1, 2] += 1
    cases = {
        "train: other pixels": ({"train": Arrays(pixel, split.labels)}, ("cat", "dog")),
        "train: other labels": ({"train": swapped(split)}, ("cat", "dog")),
        "classes: other names": ({"train": split}, ("cat", "fox")),
        "train: is missing now": ({"train": None}, ("cat", "dog")),
        "valid: was not there before": ({"train": split, "valid": split}, ("cat", "dog")),
    }
    for phrase, (splits, classes) in cases.items():
        assert changed_images(before, fingerprint(splits, classes)) == [phrase]
