"""The folder of a run: its metrics survive damage, and other images are refused."""

import dataclasses
import json
import os

import pytest
import torch

from stodepth_models.training.config import DataConfig, TrainConfig
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.data.splits import Arrays
from stodepth_models.training.errors import SettingsError
from stodepth_models.training.run.folder import RunFolder
from stodepth_models.training.run.state import save_checkpoint
from stodepth_models.training.run.train import train
from stodepth_models.weights.checkpoint import write_file

ROWS = [{"epoch": epoch, "loss": 0.5} for epoch in (1, 2, 3)]
LINES = [json.dumps(row) for row in ROWS]


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        ("\n".join(LINES), ""),
        ("\n".join([*LINES, '{"epoch": 4, "tr']), ""),  # of an epoch that is computed again
        ("\n".join([*LINES, '{"epoch": 4}']), ""),
        (None, "is missing"),
        ("", "ends early"),
        (LINES[0], "ends early"),
        ("\n".join([LINES[0][:-4], *LINES[1:]]), "is damaged in line 1"),
        ("\n".join([LINES[0], "\udcff\udcfe", LINES[2]]), "is damaged in line 2"),
        ("\n".join([LINES[0], '{"epoch": "2"}', LINES[2]]), "holds no metrics of an epoch in line 2"),
        ("\n".join([LINES[0], '{"epoch": true}', LINES[2]]), "holds no metrics of an epoch in line 2"),
        ("\n".join([LINES[0], "3"]), "holds no metrics of an epoch in line 2"),
        ("\n".join([LINES[0], "{}"]), "holds no metrics of an epoch in line 2"),
        ("\n".join([LINES[0], "[]"]), "holds no metrics of an epoch in line 2"),
    ],
)
def test_metrics_are_restored_from_the_checkpoint_and_damage_is_said(tmp_path, content, damage):
    folder, said = RunFolder(tmp_path), []
    if content is not None:
        folder.metrics.write_text(content, errors="surrogateescape")
    folder.restore_rows(ROWS, 3, said.append)
    assert folder.rows() == ROWS
    expected = f"{folder.metrics} {damage}: its metrics are restored from the checkpoint"
    assert said == ([expected] if damage else [])


def test_metrics_that_the_checkpoint_lacks_are_lost_and_that_is_said(tmp_path):
    folder, said = RunFolder(tmp_path), []
    folder.metrics.write_text("\n".join([LINES[0], LINES[1][:5], LINES[2]]))
    folder.restore_rows([], 3, said.append)  # a checkpoint of version 0.1.0 holds none
    assert folder.rows() == ROWS[:1]
    assert said == [f"{folder.metrics} is damaged in line 2: its metrics are of 2 of 3 epochs lost"]


def test_metrics_are_on_the_disk_with_their_epoch(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    folder = RunFolder(tmp_path)
    folder.restore_rows([], 0, pytest.fail)
    assert synced[-1] == str(tmp_path)  # the name of the file, which was just made
    folder.add_row(ROWS[0])
    assert synced[-1] == str(folder.metrics)
    save_checkpoint(folder.checkpoints, 1, {})
    assert str(tmp_path) in synced[3:]  # the name of the folder of checkpoints
    assert synced[-1] == str(folder.checkpoints)
    del synced[:]
    write_file(folder.best, {"weight": torch.ones(1)}, {})
    assert len(synced) == 2  # the weights and their name
    assert synced[-1] == str(tmp_path)


def begun(tmp_path, data, has_checkpoint=True):
    """A folder and settings of a run that goes on."""
    folder = RunFolder(tmp_path)
    config = TrainConfig(data=DataConfig(name="fake", fake_images=20, fake_classes=4, image_size=8), resume=True)
    folder.path.mkdir(exist_ok=True)
    folder.claim(config, 1, data, "name")
    if has_checkpoint:
        save_checkpoint(folder.checkpoints, 1, {})
    return folder, config


def changed(split, images=None, labels=None):
    return Arrays(split.images if images is None else images, split.labels if labels is None else labels)


CHANGES = {
    "one image overwritten": (lambda d: {"train": changed(d.train, images=d.train.images.clone().fill_(3))}, "train"),
    "two images in another order": (lambda d: {"train": changed(d.train, images=d.train.images.flip(0))}, "train"),
    "an image in another class": (lambda d: {"train": changed(d.train, labels=d.train.labels.roll(1))}, "train"),
    "validation labels swapped": (lambda d: {"valid": changed(d.valid, labels=d.valid.labels.flip(0))}, "valid"),
    "test labels swapped": (lambda d: {"test": changed(d.test, labels=d.test.labels.roll(1))}, "test"),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
def test_as_many_other_images_are_refused_and_may_be_accepted(tmp_path, change, named):
    data = load_data(DataConfig(name="fake", fake_images=20, fake_classes=4, image_size=8))
    folder, config = begun(tmp_path, data)
    folder.check_data(config, data)
    other = dataclasses.replace(data, **change(data))
    with pytest.raises(SettingsError, match=rf"run on other images: {named}: other .*--data\.changed accept"):
        folder.check_data(config, other)
    accepting = dataclasses.replace(config, data=dataclasses.replace(config.data, changed="accept"))
    folder.check(accepting, 1)
    with pytest.warns(UserWarning, match=rf"run on other images: {named}: other"):
        folder.check_data(accepting, other)
    begun(tmp_path / "new", data, has_checkpoint=False)[0].check_data(config, other)  # nothing was computed yet


def test_another_number_of_images_is_refused_whatever_is_accepted(tmp_path):
    data = load_data(DataConfig(name="fake", fake_images=20, fake_classes=4, image_size=8))
    folder, config = begun(tmp_path, data)
    accepting = dataclasses.replace(config, data=dataclasses.replace(config.data, changed="accept"))
    fewer = dataclasses.replace(data, train=data.train.select(torch.arange(19)))
    with pytest.raises(SettingsError, match=r"other images: the number of train images was 20, is 19; put them back"):
        folder.check_data(accepting, fewer)
    folder.check_data(config, dataclasses.replace(data, test=data.test.select(torch.arange(3))))


def test_a_run_of_version_0_1_0_that_held_images_back_is_refused(tmp_path):
    data = load_data(DataConfig(name="digits"))
    folder, config = begun(tmp_path, data)
    saved = json.loads(folder.config.read_text())
    folder.check_data(config, data)
    del saved["run"], saved["data"]["fingerprint"]
    folder.config.write_text(json.dumps(saved))
    with pytest.raises(SettingsError, match=r"0\.1\.0 held other images back for validation; .*--data\.changed accept"):
        folder.check_data(config, data)


def test_a_run_of_version_0_1_0_goes_on_without_a_fingerprint(tmp_path):
    data = load_data(DataConfig(name="fake", fake_images=20, fake_classes=4, image_size=8))
    folder, config = begun(tmp_path, data)
    saved = json.loads(folder.config.read_text())
    del saved["run"], saved["data"]["fingerprint"]
    folder.config.write_text(json.dumps(saved))
    folder.check_data(config, data)
    assert folder.run_name() is None


@pytest.mark.parametrize("existing", ["", "runs", "runs/new"])
def test_a_run_that_could_not_begin_leaves_no_folder(tmp_path, existing):
    (tmp_path / existing).mkdir(parents=True, exist_ok=True)
    config = TrainConfig(data=DataConfig(name="folder", root=tmp_path / "pets"), output=tmp_path / "runs" / "new")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="pets"):
        train(config)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".lock"] == before


def test_a_run_with_other_settings_names_both_ways_on(tmp_path):
    config = TrainConfig(data=DataConfig(name="fake", fake_images=20, fake_classes=4, image_size=8), output=tmp_path)
    folder = RunFolder(tmp_path)
    folder.claim(config, 1, load_data(config.data), "run")
    with pytest.raises(SettingsError, match=r"holds a run: add --resume, or give another folder$"):
        folder.check(config, 1)
    folder.check(dataclasses.replace(config, resume=True), 1)
    expected = (
        r"was run with other settings: epochs was 30, is 31; the number of processes was 1, is 2; give them as they "
        rf"were to go on, or give another --output to start afresh \(--weights {tmp_path} begins with its weights\)$"
    )
    with pytest.raises(SettingsError, match=expected):
        folder.check(dataclasses.replace(config, resume=True, epochs=31), 2)
