"""The network in a file that holds more, under this package's names."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Size, Tensor

from .checkpoint import Checkpoint
from .classifier import find_classifier
from .names import CLASSIFIER, HOLDERS, OPTIONAL_BUFFERS, canonical_names, names_of_model
from .prefix import find_prefix
from .tensors import check_dense

logger = logging.getLogger("stodepth_models")

WEIGHT, BIAS = f"{CLASSIFIER}weight", f"{CLASSIFIER}bias"


def match_names(held: Mapping[str, Tensor], checkpoint: Checkpoint) -> dict[str, str]:
    """Map this package's names of a model's weights to its own names.

    Args:
        held: the state dict of the model.
        checkpoint: what it shall load.
    """
    names = names_of_model(held)
    if any(HOLDERS[0].match(name) for name in names):
        # The model has `backbone.fc` beside `fc`: a file that was saved from such a model names them alike.
        own = canonical_names(held, "the model")
        if all(name in checkpoint.state_dict for name in own if not _is_optional(name)):
            return own
    if WEIGHT not in names:
        shapes = {name: held[original].shape for name, original in names.items()}
        layer = find_classifier(shapes, "")
        if layer is not None:
            names[WEIGHT] = names.pop(f"{layer}weight")
        if layer is not None and f"{layer}bias" in names:
            names[BIAS] = names.pop(f"{layer}bias")
    return names


def find_network(checkpoint: Checkpoint, shapes: Mapping[str, Size]) -> Checkpoint:
    """Return the checkpoint with the weights of the network alone, where all of its body is there.

    The body stands under one prefix. The classifier may stand elsewhere, under a name of its own. What lies beside the
    two (losses, metrics, queues) is left out, but for a file of bare names with a classifier: there it is unexpected.

    Args:
        checkpoint: weights as they were read.
        shapes: of the network's weights, under this package's names.

    Raises:
        CheckpointError: the names fit under several prefixes.
    """
    body = {name: shape for name, shape in shapes.items() if not _is_optional(name)}
    prefix = find_prefix(checkpoint, body)
    names = _names_under(checkpoint, prefix)
    # A bare state dict has nothing beside its network: what does not fit there is an error of the user's.
    is_bare = prefix == "" and checkpoint.prefix is None and WEIGHT in names
    if WEIGHT in shapes and WEIGHT not in names:
        names |= _classifier_elsewhere(checkpoint, prefix, shapes, names)
    if not is_bare and body.keys() <= names.keys():
        names = _without_others(names, shapes)
    state = {short: checkpoint.state_dict[name] for short, name in names.items()}
    if WEIGHT in state:
        # Builders follow its number of classes, and allocate as many rows.
        check_dense(WEIGHT, state[WEIGHT], checkpoint.name, torch.float32)
    return replace(
        checkpoint,
        state_dict=state,
        saved_scales=_scales_under(checkpoint, prefix),
        prefix=None,
        found_under=prefix or checkpoint.found_under,
        left_out=[*checkpoint.left_out, *_beside(checkpoint, names)],
    )


def _names_under(checkpoint: Checkpoint, prefix: str) -> dict[str, str]:
    """Names in the file of what stands under a prefix, by this package's names."""
    inside: dict[str, str] = {}
    for name in checkpoint.state_dict:
        if name.startswith(prefix):
            inside[name.removeprefix(prefix)] = name
    names: dict[str, str] = {}
    for short, name in canonical_names(inside, checkpoint.name).items():
        names[short] = inside[name]
    return names


def _classifier_elsewhere(
    checkpoint: Checkpoint, prefix: str, shapes: Mapping[str, Size], names: Mapping[str, str]
) -> dict[str, str]:
    """Names in the file of a classifier that fits the model and stands beside the body."""
    others = {name: tensor.shape for name, tensor in checkpoint.state_dict.items()}
    for short, name in names.items():
        if short in shapes or short.endswith(OPTIONAL_BUFFERS):
            others.pop(name, None)
    layer = find_classifier(others, prefix, shapes[WEIGHT][1:])
    if layer is None or (BIAS in shapes) != (f"{layer}bias" in others):
        return {}
    logger.info("%s: the classifier is taken from %s", checkpoint.name, layer.rstrip("."))
    found = {WEIGHT: f"{layer}weight"}
    if BIAS in shapes:
        found[BIAS] = f"{layer}bias"
    return found


def _without_others(names: Mapping[str, str], shapes: Mapping[str, Size]) -> dict[str, str]:
    """The names of a network whose body is complete. A classifier of another shape stays: it says how many classes."""
    kept: dict[str, str] = {}
    for short, name in names.items():
        if short in shapes or short in (WEIGHT, BIAS) or short.endswith(OPTIONAL_BUFFERS):
            kept[short] = name
    return kept


def _scales_under(checkpoint: Checkpoint, prefix: str) -> dict[str, float] | None:
    if checkpoint.saved_scales is None:
        return None
    scales: dict[str, float] = {}
    for gate, scale in checkpoint.saved_scales.items():
        if gate.startswith(prefix):
            scales[gate.removeprefix(prefix)] = scale
    return scales


def _beside(checkpoint: Checkpoint, names: Mapping[str, str]) -> list[str]:
    """What is in the file and not of the network."""
    taken = set(names.values())
    return [name for name in checkpoint.state_dict if name not in taken and not name.endswith(OPTIONAL_BUFFERS)]


def _is_optional(name: str) -> bool:
    """Whether a network is found without this weight: a counter, or one of the classifier."""
    return name.endswith(OPTIONAL_BUFFERS) or name.startswith(CLASSIFIER)
