"""An evaluation as one HTML page, pictures included."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from .data.datasets import Data
from .data.images import LARGEST_UNCUT
from .data.loading import evaluation_images
from .data.splits import Arrays, Split
from .predictions import Predictions, class_figures

_WORST = 40  # predictions of the contact sheet
_MOST_NUMBERED, _MOST_NAMED = 20, 60  # classes of a confusion matrix whose cells carry numbers, and whose axes names
_LONGEST = 24  # characters of a name beside an axis


def write_page(
    folder: Path, title: str, result: Mapping[str, Any], predictions: Predictions, data: Data, split: Split
) -> Path:  # fmt: skip
    """Write ``index.html``, which is complete in itself, and return its path.

    Args:
        folder: of the page, made where there is none.
        title: says what was evaluated on what.
        result: figures of the evaluation.
        predictions: for each image of ``split``.
        data: says how images are prepared.
        split: images that were evaluated.
    """
    templates = Environment(loader=PackageLoader(__package__), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = templates.get_template("evaluation.html").render(
        title=title, result=result, classes=class_figures(predictions), matrix=_png(_draw_matrix(predictions)),
        worst=_worst(predictions, data, split), wrong=predictions.wrong, is_small=data.image_size <= LARGEST_UNCUT,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _draw_matrix(predictions: Predictions) -> Figure:
    """Draw the confusion matrix; a row adds up to 100 %, so that a class of few images is seen as well."""
    present = predictions.present
    shares = 100 * confusion_matrix(predictions.labels, predictions.predicted, labels=present, normalize="true")
    inches = min(12.0, 3.5 + 0.45 * len(present))
    figure = Figure(figsize=(inches + 1, inches), layout="constrained")
    axes = figure.add_subplot()
    display = ConfusionMatrixDisplay(shares, display_labels=[_tick(predictions, output) for output in present])
    display.plot(
        ax=axes, cmap="Blues", include_values=len(present) <= _MOST_NUMBERED, values_format=".0f",
        xticks_rotation="vertical", im_kw={"vmin": 0, "vmax": 100},
    )  # fmt: skip
    axes.set(xlabel="Predicted class", ylabel="Class of the image", title="Images of each class (%)")
    if len(present) > _MOST_NAMED:
        axes.set(xticks=[], yticks=[])
    return figure


def _tick(predictions: Predictions, output: int) -> str:
    """Return the name of an output, or its number where the font has no glyphs for the name."""
    name = predictions.names[output]
    glyphs = get_font(findfont("DejaVu Sans")).get_charmap()
    if any(ord(character) not in glyphs for character in name):
        return str(output)
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 1]}…"
    return name.replace("$", r"\$")  # matplotlib reads formulas between dollars


def _worst(predictions: Predictions, data: Data, split: Split) -> list[dict[str, Any]]:
    """Return the entries of the contact sheet."""
    images = predictions.worst(_WORST)
    entries = []
    for image, picture in zip(images, _pictures(data, split, images), strict=True):
        entries.append({
            "picture": _png(Image.fromarray(picture)),
            "place": _place(split, image),
            "label": predictions.names[predictions.labels[image]],
            "predicted": predictions.names[predictions.predicted[image]],
            "confidence": predictions.confidence[image],
        })  # fmt: skip
    return entries


def _place(split: Split, image: int) -> str:
    """Return where to find an image."""
    files = split.files if isinstance(split, Arrays) else split
    if files is None:
        return f"image {image} of the split"
    return files.paths[image].relative_to(files.root).as_posix()


def _pictures(data: Data, split: Split, images: list[int]) -> NDArray[np.uint8]:
    """Return images as the model saw them, before they were standardised, ``(N, H, W, 3)``."""
    chosen = split.select(torch.tensor(images, dtype=torch.int64))
    if isinstance(chosen, Arrays):
        return chosen.images.numpy()
    if not images:
        return np.empty((0, data.image_size, data.image_size, 3), np.uint8)
    ((pictures, _),) = evaluation_images(data, chosen, [list(range(len(images)))], workers=0)
    return pictures.permute(0, 2, 3, 1).numpy()


def _png(picture: Figure | Image.Image) -> str:
    """Return a picture as an address that holds it."""
    content = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(content, format="png", dpi=130)
    else:
        picture.save(content, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
