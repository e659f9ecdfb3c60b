"""Classify images: the five most likely classes of each, as a table or as JSON.

    stodepth predict --weights runs/pets cat.png photos/
    stodepth predict --model cifar_resnet20 --weights CIFAR10_JPEG_V1 cat.png

Folders are searched for images. Images are prepared as for the training of the weights, where that is known, else as is
usual for the family of the model.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights

from ...checks import no_such_path
from ...weights.prefix import under_prefix
from ...weights.preprocessing import saved_preprocessing
from ...weights.published import CifarResNet20_Weights, ImageClassification
from ...weights.rebuild import saved_arguments
from ...weights.sources import Source, read_checkpoint, resolve_source
from ...zoo import full_name
from ..builders import Owner, builder_of, owner_beside
from ..config import ModelConfig
from ..data.folders import images_below
from ..data.images import IMAGES, open_rgb, resized, warn_of_unused_bits
from ..flags import Parser, count
from ..model_config import LIBRARIES
from . import require_extra


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser("predict", __doc__ or "")
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="Image file, or folder of images.")
    parser.add_argument(
        "--weights", metavar="W", required=True, help="Name, path, folder of a run, URL or hf:// address of weights."
    )
    parser.add_argument("--model", metavar="NAME", help="Builder, where the weights do not say it.")
    parser.add_argument(
        "--model.weights_prefix", dest="prefix", metavar="PREFIX",
        help="Beginning of the names of the network in weights of several, such as encoder_q..",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=count, default=64, help="Images a forward pass. Default: %(default)s.")
    parser.add_argument("--top", type=count, default=5, help="Classes an image. Default: %(default)s.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object a line instead of a table.")
    return parser.parse_words(words)


def find_images(paths: list[Path]) -> list[Path]:
    """Files as given, and the images inside folders."""
    found = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(no_such_path(path))
        inside = [path]
        if path.is_dir():
            inside = images_below(path, Counter())
        if not inside:
            raise FileNotFoundError(f"the folder {path} holds no images ({', '.join(IMAGES)})")
        found += inside
    return found


def read(weights: str, model: str | None, prefix: str | None = None) -> tuple[str, Source, dict[str, Any]]:
    """Return the builder, published weights or the content of a file, and the options that the weights need."""
    if model is None:
        owner = builder_of(weights)
    elif model.startswith(LIBRARIES):
        owner = Owner(model)
    else:
        owner = owner_beside(weights, full_name(model))
    name = owner.name
    enum = None if name.startswith(LIBRARIES) else get_model_weights(name)
    source = resolve_source(weights, enum, name)
    if not isinstance(source, WeightsEnum):
        source = read_checkpoint(source)
        if prefix is not None:
            source = under_prefix(source, prefix)
    return name, source, owner.options


def build(name: str, source: Source, options: dict[str, Any]) -> Any:
    """Return the model with its weights, and with the options that their file says it was built with."""
    if name.startswith(LIBRARIES):
        require_extra()
        from ..run.model import build_model

        return build_model(ModelConfig(name=name, options=options), None, source).eval()
    return get_model(name, weights=source, **{**options, **saved_arguments(name, source)}).eval()


def preprocessing(model: str, source: Source) -> Callable[[Image.Image], Tensor]:
    """Return the preprocessing that the weights were trained with, or what is usual for the family."""
    if isinstance(source, WeightsEnum):
        return source.transforms()
    saved = saved_preprocessing(source)
    if saved is not None:
        resize = saved.resize or resized(saved.side)
        return ImageClassification(crop_size=saved.side, resize_size=resize, mean=saved.mean, std=saved.std)
    usual = CifarResNet20_Weights.CIFAR10_IDELBAYEV.transforms
    return (usual if model.startswith("cifar") else partial(ImageClassification, crop_size=224))()


def batches(paths: list[Path], size: int) -> Iterator[list[Path]]:
    remaining = iter(paths)
    while batch := list(islice(remaining, size)):
        yield batch


@torch.inference_mode()
def predict(model: nn.Module, transforms: Callable[..., Tensor], paths: list[Path], top: int) -> list[dict[str, Any]]:
    """Return path, classes and probabilities of each image."""
    probabilities = model(torch.stack([transforms(open_rgb(path)) for path in paths])).softmax(1)
    values, indices = probabilities.topk(min(top, probabilities.size(1)))
    categories: Any = model.categories or [f"class {index}" for index in range(probabilities.size(1))]
    results = []
    for path, row, shares in zip(paths, indices.tolist(), values.tolist(), strict=True):
        classes = [categories[index] for index in row]
        results.append({"image": str(path), "classes": classes, "probabilities": shares})
    return results


def show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    print(result["image"])
    for name, share in zip(result["classes"], result["probabilities"], strict=True):
        print(f"  {100 * share:6.2f} %  {name}")


def main(words: Sequence[str]) -> None:
    """Parse, then classify batch after batch."""
    arguments = parse_arguments(words)
    paths = find_images(arguments.images)
    warn_of_unused_bits(paths)
    name, source, options = read(arguments.weights, arguments.model, arguments.prefix)
    model = build(name, source, options)
    transforms = preprocessing(name, source)
    for batch in batches(paths, arguments.batch_size):
        for result in predict(model, transforms, batch, arguments.top):
            show(result, arguments.json)
