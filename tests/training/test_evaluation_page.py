"""The page of an evaluation: complete in itself, with the figures of the evaluation."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.datasets import Data, load_data
from stodepth_models.training.data.splits import Arrays, Files
from stodepth_models.training.evaluation_page import _draw_matrix, write_page
from stodepth_models.training.predictions import Predictions

RESULT = {
    "model": "m", "weights": "w.safetensors", "split": "test", "count": 6, "top1": 0.5, "top1_interval": (0.188, 0.812),
    "top5": 1.0, "nll": 1.25, "ece": 0.125, "images_per_second": 99.6,
}  # fmt: skip


def predictions(labels, predicted, names):
    count = len(labels)
    nll = np.arange(count, dtype=float)
    return Predictions(np.array(labels), np.array(predicted), np.full(count, 0.75), nll, tuple(names))


def data_of(split, side):
    return Data(None, None, split, ("cat", "dog"), side, side, 0, False, torch.zeros(3), torch.ones(3))


def shades(count, side=8):
    """Images of one shade each, by their number."""
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, side, side, 3).contiguous()


class Page(HTMLParser):
    """Pictures, cells of the tables and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.rows, self.addresses, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[name] for name in ("src", "href") if name in attrs]
        if tag == "img":
            assert attrs["alt"]
            content = base64.b64decode(attrs["src"].partition("base64,")[2])
            self.pictures.append(np.array(Image.open(io.BytesIO(content)).convert("RGB")))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_the_page_holds_figures_classes_and_the_worst_pictures(tmp_path):
    found = predictions([0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 0], ("cat", "dog"))
    split = Arrays(shades(6), torch.tensor(found.labels))
    path = write_page(tmp_path / "new" / "folder", "m on pets", RESULT, found, data_of(split, 8), split)
    assert path == tmp_path / "new" / "folder" / "index.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert all(address.startswith("data:") for address in page.addresses)  # nothing is fetched
    cells = {row[0]: row for row in page.rows if row}
    assert cells["Top-1 accuracy"][1] == "50.00 %"
    assert "18.80 to 81.20 %" in re.sub(r"\s+", " ", cells["Top-1 accuracy"][2].replace("\n", " "))
    assert cells["Negative log-likelihood"][1] == "1.2500"
    assert cells["0"] == ["0", "cat", "3", "1", "33.3", "6.1 to 79.2", "50.0", "dog (2)"]
    assert cells["1"][1:5] == ["dog", "3", "2", "66.7"]
    # The matrix, and then the wrong images, the least likely label first.
    assert [picture[0, 0, 0] for picture in page.pictures[1:]] == [5, 2, 1]
    assert "3 of 6 predictions are wrong" in page.text
    assert "predicted: cat, 75 %" in page.text
    assert "image 5 of the split" in page.text


def test_small_images_are_named_by_their_files(tmp_path):
    for split, name, count in (("train", "cat", 2), ("train", "dog", 2), ("test", "cat", 1), ("test", "dog", 2)):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (10 * number,) * 3).save(tmp_path / split / name / f"{number}.png")
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "cat" / "1.png")
    with pytest.warns(UserWarning, match=r"0\.png cannot be read as an image: skipped"):
        data = load_data(DataConfig(name="folder", root=tmp_path, unreadable="skip"), "test")
    found = predictions([0, 1, 1], [0, 1, 0], ("cat", "dog"))
    page = Page(write_page(tmp_path, "m", RESULT, found, data, data.test).read_text(encoding="utf-8"))
    assert page.pictures[1][0, 0, 0] == 10
    assert "test/dog/1.png" in page.text


def test_large_images_are_read_from_their_files_and_named(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (90, 120), (number,) * 3).save(paths[-1])
    found = predictions([0, 1, 1], [0, 0, 0], ("cat", "dog"))
    split = Files(tuple(paths), torch.tensor(found.labels), tmp_path)
    path = write_page(tmp_path, "m on pets", RESULT, found, data_of(split, 80), split)
    page = Page(path.read_text(encoding="utf-8"))
    assert [picture.shape for picture in page.pictures[1:]] == [(80, 80, 3)] * 2
    assert [picture[0, 0, 0] for picture in page.pictures[1:]] == [2, 1]
    assert "2.png" in page.text
    assert str(tmp_path) not in page.text


def test_a_page_without_mistakes_says_so(tmp_path):
    found = predictions([0, 1], [0, 1], ("cat", "dog"))
    for split in (Arrays(shades(2), torch.tensor(found.labels)),
                  Files((tmp_path, tmp_path), torch.tensor(found.labels), tmp_path)):  # fmt: skip
        page = Page(write_page(tmp_path, "m", RESULT, found, data_of(split, 8), split).read_text(encoding="utf-8"))
        assert "All predictions are right." in page.text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a & b", "$1^$", "猫", "very long name of a class " * 3])
def test_any_name_of_a_class_is_shown_as_it_is(tmp_path, name):
    found = predictions([0, 1], [1, 1], (name, "dog"))
    split = Arrays(shades(2), torch.tensor(found.labels))
    page = Page(write_page(tmp_path, name, RESULT, found, data_of(split, 8), split).read_text(encoding="utf-8"))
    assert any(name.strip() == row[1] for row in page.rows if len(row) > 1)


@pytest.mark.parametrize("classes", [2, 20, 21, 60, 61])
def test_the_matrix_is_that_of_scikit_learn_in_percent_a_row(classes):
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(classes, size=400), generator.integers(classes, size=400)
    found = predictions(labels, predicted, [f"class{number}" for number in range(classes)])
    axes = _draw_matrix(found).axes[0]
    expected = 100 * confusion_matrix(labels, predicted, labels=found.present, normalize="true")
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert len(axes.texts) == (classes**2 if classes <= 20 else 0)
    assert len(axes.get_xticks()) == (classes if classes <= 60 else 0)
