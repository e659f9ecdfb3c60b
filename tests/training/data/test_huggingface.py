"""Data sets of Hugging Face's library: read from a folder, written once, and a message where the library is missing."""

import sys

import pytest

from stodepth_models.training.cli import parse
from stodepth_models.training.config import DataConfig, TrainConfig
from stodepth_models.training.data.datasets import load_data

from .samples import make_folder


def settings(root, tmp_path):
    return DataConfig(name="hfds", root=root, cache=tmp_path / "cache")


def test_the_command_line_takes_its_names_as_timm_does():
    data = parse(TrainConfig, ["--data", "hfds/ylecun/mnist"]).data
    assert (data.name, str(data.root)) == ("hfds", "ylecun/mnist")


def test_the_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"data\.name=hfds needs Hugging Face's library: pip install datasets"):
        load_data(settings(tmp_path, tmp_path))


@pytest.mark.filterwarnings("ignore")  # of the library and its own dependencies
@pytest.mark.parametrize("form", ["folder", "parquet", "saved"])
def test_splits_classes_and_pixels_are_those_of_the_data_set(tmp_path, monkeypatch, form):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    root = make_folder(tmp_path / "set", splits=("train", "valid", "test"), classes=("dog", "cat"))
    expected = load_data(DataConfig(name="folder", root=root))
    rows = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "hf"))
    if form == "parquet":
        for split in rows:
            rows[split].to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    if form == "saved":
        rows.save_to_disk(tmp_path / "saved")
    config = settings({"folder": root}.get(form, tmp_path / form), tmp_path)
    found = load_data(config)
    assert found.classes == expected.classes == ("cat", "dog")
    for split in ("train", "valid", "test"):
        ours, plain = getattr(found, split), getattr(expected, split)
        assert ours.labels.tolist() == plain.labels.tolist()
        assert sorted(ours.images.flatten(1).tolist()) == sorted(plain.images.flatten(1).tolist())
    (folder,) = config.cache.iterdir()
    written = folder.stat().st_mtime_ns
    load_data(config)
    assert [folder.stat().st_mtime_ns] == [path.stat().st_mtime_ns for path in config.cache.iterdir()] == [written]


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_data_set_of_images_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="is no data set that Hugging Face reads"):
        load_data(settings(tmp_path / "nothing", tmp_path))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.csv").write_text("text,number\na,1\nb,2\n")
    with pytest.raises(ValueError, match="has no column of type Image, only text, number"):
        load_data(settings(tmp_path / "texts", tmp_path))
