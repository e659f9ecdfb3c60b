"""Data sets of Hugging Face's library: read from a folder, written once, and a message where the library is missing."""

import io
import sys

import pytest
from PIL import Image

from stodepth_models.training.cli import parse
from stodepth_models.training.config import DataConfig, TrainConfig
from stodepth_models.training.data.datasets import load_data

from .samples import make_folder


def settings(root, tmp_path, **keys):
    return DataConfig(name="hfds", root=root, cache=tmp_path / "cache", **keys)


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The library, without its network and its cache."""
    library = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return library


def picture(shade):
    content = io.BytesIO()
    Image.new("L", (8, 8), shade).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def write_parquet(datasets, root, labels, **splits):
    """A data set as it lies on the Hub: ``labels`` are types of columns, ``splits`` rows of labels in their order."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = datasets.Features({"image": datasets.Image(), **labels})
    root.mkdir()
    for split, rows in splits.items():
        columns = {"image": [picture(20 * number) for number in range(len(rows))]}
        columns.update(zip(labels, zip(*rows, strict=True), strict=True))
        table = pyarrow.Table.from_pydict(columns, schema=features.arrow_schema)
        parquet.write_table(table, root / f"{split}-00000-of-00001.parquet")
    return root


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


ROWS_OF_LABELS = [(0, 0, 7, "b"), (0, 1, 7, "a"), (1, 2, 12, "a"), (1, 0, 12, "b")]


@pytest.fixture
def several_labels(datasets, tmp_path):
    """A data set with a column of labels of each type, of which two are of class labels."""
    kinds = {
        "coarse": datasets.ClassLabel(names=["low", "high"]),
        "fine": datasets.ClassLabel(names=["x", "y", "z"]),
        "number": datasets.Value("int64"),
        "text": datasets.Value("string"),
    }
    return write_parquet(datasets, tmp_path / "set", kinds, train=ROWS_OF_LABELS, test=ROWS_OF_LABELS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("key", "classes", "texts"),
    [
        ("coarse", ("high", "low"), ["low", "low", "high", "high"]),
        ("number", ("7", "12"), ["7", "7", "12", "12"]),
        ("text", ("a", "b"), ["b", "a", "a", "b"]),
    ],
)
def test_the_labels_are_those_of_the_chosen_column(several_labels, tmp_path, key, classes, texts):
    data = load_data(settings(several_labels, tmp_path, target_key=key, valid_size=1))
    assert data.classes == classes
    found = {}
    for image, label in zip(data.test.images, data.test.labels.tolist(), strict=True):
        found[int(image.flatten()[0])] = classes[label]
    assert found == {20 * number: text for number, text in enumerate(texts)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, r"2 columns of type ClassLabel, coarse, fine: choose one with data\.target_key"),
        ({"target_key": "q"}, r"target_key must be of the columns coarse, fine, number, text of .*, got q"),
        ({"target_key": "image"}, r"target_key must be of the columns coarse, .*, got image"),
        ({"input_key": "text"}, r"input_key must be of the columns image of .*, got text"),
    ],
)
def test_a_column_that_nobody_has_chosen_is_not_guessed(several_labels, tmp_path, keys, said):
    with pytest.raises(ValueError, match=said):
        load_data(settings(several_labels, tmp_path, **keys))


@pytest.mark.filterwarnings("ignore")
def test_a_split_without_labels_is_left_out(datasets, tmp_path, caplog):
    kinds = {"label": datasets.ClassLabel(names=["cat", "dog"])}
    rows = [(0,), (1,), (0,), (1,)]
    root = write_parquet(datasets, tmp_path / "set", kinds, train=rows, test=[(-1,), (-1,)])
    data = load_data(settings(root, tmp_path))
    assert data.test is None
    assert "the split test has no labels and is left out" in caplog.text
    some = write_parquet(datasets, tmp_path / "some", kinds, train=rows, test=[(1,), (-1,)])
    with pytest.raises(ValueError, match="row 1 of test has no label: remove it from the data set"):
        load_data(settings(some, tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_every_name_of_a_class_becomes_a_folder_and_a_class_without_images_none(datasets, tmp_path):
    names = ["a/b", "a_b", "A_B", ".hidden", "..", "x y", "unused"]
    kinds = {"label": datasets.ClassLabel(names=names)}
    rows = [(number % 6,) for number in range(12)]
    data = load_data(settings(write_parquet(datasets, tmp_path / "set", kinds, train=rows, test=rows), tmp_path))
    assert len(data.classes) == 6
    assert data.test.labels.bincount().tolist() == [2] * 6


@pytest.mark.filterwarnings("ignore")
def test_a_data_set_saved_without_splits_is_one_to_train_on(datasets, tmp_path):
    kinds = {"label": datasets.ClassLabel(names=["cat", "dog"])}
    root = write_parquet(datasets, tmp_path / "set", kinds, train=[(0,), (1,)] * 4)
    datasets.load_dataset(str(root), split="train").save_to_disk(tmp_path / "saved")
    data = load_data(settings(tmp_path / "saved", tmp_path, valid_size=2))
    assert (len(data.train.labels), len(data.valid.labels), data.test) == (6, 2, None)


@pytest.mark.filterwarnings("ignore")
def test_a_row_without_an_image_and_unknown_splits_are_named(datasets, tmp_path, monkeypatch):
    kinds = {"label": datasets.ClassLabel(names=["cat", "dog"])}
    root = write_parquet(datasets, tmp_path / "set", kinds, train=[(0,), (1,)])
    other = datasets.DatasetDict({"unsupervised": datasets.load_dataset(str(root), split="train")})
    other.save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="has no split train, validation or test, only unsupervised"):
        load_data(settings(tmp_path / "other", tmp_path))
    monkeypatch.setattr(f"{__name__}.picture", lambda shade: None if shade == 20 else {"bytes": b"?", "path": None})
    root = write_parquet(datasets, tmp_path / "missing", kinds, train=[(0,), (1,)])
    with pytest.raises(ValueError, match="row 1 of train has no image: remove it from the data set"):
        load_data(settings(root, tmp_path))
    assert not list((tmp_path / "cache").glob("*"))
