"""Published weights of the CIFAR family, in torchvision's form.

They come from the index ``weights/index.json``.

To add a model, add its file to ``weights/`` and an entry to the index; ``weights/README.md`` describes the fields.
"""

import json
from collections.abc import MutableMapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from torchvision.models import ResNet18_Weights, Weights, WeightsEnum

from .checkpoint import Checkpoint, read_file
from .download import check_sha256, fetch_url
from .scales import with_scales

# Figures of an entry on the test images: accuracy and its 95 % interval in percent, negative log-likelihood in nats,
# and calibration error in [0, 1]. Weights of other projects have the first alone.
FIGURES = ("acc@1", "acc@1_interval", "nll", "ece")

# The class of torchvision's own preprocessing, whose module has a private name.
ImageClassification: Any = ResNet18_Weights.IMAGENET1K_V1.transforms.func


def shipped_folder() -> Path:
    """Return the folder with the index and the shipped files: inside an installed package, or beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_weights"
    if installed.is_dir():
        return installed
    return package.parent / "weights"


@cache
def _index() -> dict[str, Any]:
    return json.loads((shipped_folder() / "index.json").read_text(encoding="utf-8"))


class PublishedWeights(WeightsEnum):
    """Base of the enums below: torchvision's interface, with files that ship with the package found first."""

    def path(self, progress: bool = True) -> Path:
        """Return the local path of the file, checked against its SHA-256 and downloaded where it does not ship."""
        shipped = shipped_folder() / self.meta["file"]
        if not shipped.is_file():
            return fetch_url(self.url, self.meta["sha256"], progress)
        check_sha256(shipped, self.meta["sha256"], str(shipped))
        return shipped

    def read(self, progress: bool = True) -> Checkpoint:
        """Return the weights under this package's names, with their configuration."""
        checkpoint = read_file(self.path(progress), repr(self))
        # Those of other projects are networks of constant depth.
        return replace(checkpoint, categories=self.meta["categories"], saved_scales=checkpoint.saved_scales or {})

    def get_state_dict(self, progress: bool = True, check_hash: bool = True) -> dict[str, Any]:
        """Return the weights under this package's names, with their evaluation scales for :func:`load_pretrained`.

        The hash is checked in any case.
        """
        checkpoint = self.read(progress)
        return with_scales(checkpoint.state_dict, checkpoint.saved_scales or {})


_EXAMPLE = """

    Examples:
        >>> import stodepth_models as sdm
        >>> [weights.name for weights in sdm.{enum}]
        {names}
    """


def _fill(members: MutableMapping[str, Any], builder: str) -> None:
    """Add the index's entries for a builder to the body of its enum; ``DEFAULT`` is the default or else the first."""
    default, names = None, []
    for entry in _index()["weights"]:
        if entry["builder"] == builder:
            names.append(entry["name"])
            members[entry["name"]] = weights = _weights(entry)
            if entry["default"] or default is None:
                default = weights
    if default is not None:
        members["DEFAULT"] = default
    if members.get("__doc__"):  # absent under `python -OO`
        members["__doc__"] += _EXAMPLE.format(enum=members["__qualname__"], names=names)


def _weights(entry: dict[str, Any]) -> Weights:
    meta = {
        "categories": _index()["categories"][entry["dataset"]],
        "num_params": entry["num_params"],
        "min_size": tuple(entry["min_size"]),
        "recipe": entry["recipe"],
        "license": entry["license"],
        "file": entry["file"],
        "sha256": entry["sha256"],
        "measured": entry["measured"],
        "pretrained": entry["default"],  # what pretrained=True loads: weights of stochastic depth
        "_metrics": {entry["dataset"]: {figure: entry[figure] for figure in FIGURES if figure in entry}},
        "_ops": entry["ops"],
        "_file_size": entry["file_size"],
        "_docs": entry["docs"],
    }
    size = entry["size"]
    transforms = partial(
        ImageClassification, crop_size=size, resize_size=size, mean=tuple(entry["mean"]), std=tuple(entry["std"])
    )
    url = entry["url"] or (shipped_folder() / entry["file"]).as_uri()
    return Weights(url=url, transforms=transforms, meta=meta)


class CifarResNet20_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet20``."""

    _fill(vars(), "cifar_resnet20")


class CifarResNet32_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet32``."""

    _fill(vars(), "cifar_resnet32")


class CifarResNet44_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet44``."""

    _fill(vars(), "cifar_resnet44")


class CifarResNet56_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet56``."""

    _fill(vars(), "cifar_resnet56")


class CifarResNet110_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet110``."""

    _fill(vars(), "cifar_resnet110")


class CifarResNet1202_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet1202``."""

    _fill(vars(), "cifar_resnet1202")


class CifarResNet164_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet164``."""

    _fill(vars(), "cifar_resnet164")


class CifarResNet18_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet18``."""

    _fill(vars(), "cifar_resnet18")


class CifarResNet34_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet34``."""

    _fill(vars(), "cifar_resnet34")


class CifarResNet50_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet50``."""

    _fill(vars(), "cifar_resnet50")


class CifarResNet101_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet101``."""

    _fill(vars(), "cifar_resnet101")


class CifarResNet152_Weights(PublishedWeights):
    """Published weights of ``cifar_resnet152``."""

    _fill(vars(), "cifar_resnet152")
