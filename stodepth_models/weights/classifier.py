"""The classifier in a file or a model that names it in its own way."""

import re
from collections.abc import Mapping

from torch import Size

# Parts of the names that libraries give to a classifier; a number is its place in a sequence.
_IS_CLASSIFIER = re.compile(r"fc|linear|head|classif|cls|logit|output|probe|^\d+$", re.IGNORECASE)
# Parts of the names of other linear layers, and of classifiers of another network than the one that is trained.
_IS_OTHER = re.compile(r"proj|predict|proto|aux|moment|neck|decoder|mlp|teacher|target|ema", re.IGNORECASE)


def find_classifier(shapes: Mapping[str, Size], prefix: str, inputs: Size | None = None) -> str | None:
    """Return the beginning of the names of the classifier beside a network's body; None where it is not clear.

    It is the one linear layer under an attribute whose name is one of a classifier. Of several, the one whose attribute
    stands nearest to the network is taken: ``student.head`` for the network under ``student.backbone``.

    Args:
        shapes: of all tensors, by name; those of the body are left out.
        prefix: beginning of the names of the network.
        inputs: shape of the classifier's weight without its first dimension; None: any number of inputs.
    """
    nearest: dict[int, list[str]] = {}
    for name, shape in shapes.items():
        if not name.endswith("weight") or len(shape) != 2 or inputs not in (None, shape[1:]):
            continue
        layer = name.removesuffix("weight")
        shared = _shared_parts(layer, prefix)
        below = layer.removeprefix(shared)
        if not _IS_CLASSIFIER.search(below.rstrip(".")) or _IS_OTHER.search(below):
            continue
        attribute = f"{shared}{below.split('.')[0]}."
        parts = {other for other in shapes if other.startswith(attribute)}
        bias = shapes.get(f"{layer}bias", shape[:1])
        # More weights under the attribute are those of a perceptron or of another norm, which no linear layer replaces.
        if parts <= {f"{layer}weight", f"{layer}bias"} and bias == shape[:1]:
            nearest.setdefault(shared.count("."), []).append(layer)
    if not nearest:
        return None
    candidates = nearest[max(nearest)]
    if len(candidates) > 1:
        return None
    return candidates[0]


def _shared_parts(name: str, prefix: str) -> str:
    """The attributes with which a name and a prefix begin, such as ``"model."`` of ``model.fc.`` and ``model.net.``."""
    shared = ""
    for part in prefix.split(".")[:-1]:
        if not name.startswith(f"{shared}{part}."):
            break
        shared += f"{part}."
    return shared
