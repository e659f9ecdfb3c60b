"""How the tensors of a file fit a model: what is loaded, what is refused, and what the log says."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Size, Tensor

from .checkpoint import Checkpoint
from .errors import CheckpointError
from .guess import guess_builder
from .names import CLASSIFIER, OPTIONAL_BUFFERS, other_project
from .network import BIAS, WEIGHT
from .prefix import MAX_KEYS_SHOWN

MAX_NAMES_LOGGED = 3  # of what is left out

logger = logging.getLogger("stodepth_models")


@dataclass(frozen=True)
class Fit:
    """What a file has of the weights of a model, under the model's names.

    Attributes:
        weights: tensors that both have, of the same shape.
        missing: weights that the file lacks.
        unexpected: names that the model lacks.
        other_shapes: names and both shapes, where they differ.
        has_body: whether a weight beside the classifier is among them.
        remark: why the classifier is left as it is; None where it is loaded.
    """

    weights: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    other_shapes: list[str]
    has_body: bool
    remark: str | None


def compare(network: Checkpoint, names: Mapping[str, str], shapes: Mapping[str, Size]) -> Fit:
    """Compare a network with a model.

    Args:
        network: what :func:`find_network` found in a file.
        names: the model's names of its weights, by this package's names.
        shapes: of the model's weights, by this package's names.
    """
    state = network.state_dict
    remark = _remark_on_classifier(shapes, state)
    weights: dict[str, Tensor] = {}
    unexpected: list[str] = []
    other_shapes: list[str] = []
    has_body = False
    for name, tensor in state.items():
        # A classifier that is left as it is counts neither as unexpected nor as of another shape.
        if remark is not None and name in (WEIGHT, BIAS):
            continue
        if name not in names:
            if not name.endswith(OPTIONAL_BUFFERS):
                unexpected.append(name)
        elif tensor.shape != shapes[name]:
            other_shapes.append(f"{names[name]} {tuple(tensor.shape)}, the model has {tuple(shapes[name])}")
        else:
            weights[names[name]] = tensor
            has_body = has_body or not name.startswith(CLASSIFIER)
    missing: list[str] = []
    for name, key in names.items():
        is_left_out = remark is not None and name in (WEIGHT, BIAS)
        if name not in state and not is_left_out and not name.endswith(OPTIONAL_BUFFERS):
            missing.append(key)
    return Fit(weights, missing, unexpected, other_shapes, has_body, remark)


def check_fit(fit: Fit, network: Checkpoint, count: int, strict: bool) -> None:
    """Refuse a network that does not fit, or log what is not loaded of it.

    Args:
        fit: what :func:`compare` returned.
        network: what was compared.
        count: weights of the model.
        strict: False: names that are missing or unexpected are logged, unless nothing of the body fits.

    Raises:
        CheckpointError: it does not fit.
    """
    found = {"missing": fit.missing, "unexpected": fit.unexpected, "of another shape": fit.other_shapes}
    report = ""
    for kind, keys in found.items():
        if keys:
            report += f"\n  {len(keys)} {kind}: {_first_of(keys, MAX_KEYS_SHOWN)}"
    # A weight of another shape is never passed over: it would stay as it was initialised, beside trained ones.
    if fit.other_shapes or (report and strict) or not fit.has_body:
        raise CheckpointError(f"{network.name} does not fit the model{_hint(network)}{report}")
    if report:
        loaded = [key for key in fit.weights if not key.endswith(OPTIONAL_BUFFERS)]
        logger.warning("%s: %d of %d tensors are loaded%s", network.name, len(loaded), count, report)


def log_what_is_left_out(network: Checkpoint, remark: str | None) -> None:
    """Say in one line what of a file is not loaded: its classifier, and what lies beside the network."""
    parts: list[str] = []
    if network.left_out and network.found_under:
        parts.append(f"the network is under {network.found_under!r}")
    if remark is not None:
        parts.append(f"all but the classifier is loaded, {remark}")
    if network.left_out:
        shown = _first_of(network.left_out, MAX_NAMES_LOGGED)
        parts.append(f"{len(network.left_out)} other tensors are left out: {shown}")
    if parts:
        logger.warning("%s: %s", network.name, "; ".join(parts))


def _remark_on_classifier(shapes: Mapping[str, Size], state: Mapping[str, Tensor]) -> str | None:
    """Why the classifier is left as it is; None where that of the file fits, or neither has one."""
    if WEIGHT not in shapes and WEIGHT not in state:
        return None
    if WEIGHT not in shapes:
        return "the model has no classifier"
    # The shape of a linear layer is (classes, inputs).
    ours = shapes[WEIGHT]
    if WEIGHT not in state:
        return f"the file has none of {ours[-1]} inputs that is clearly one"
    given = state[WEIGHT].shape
    if given == ours:
        return None
    if given[1:] == ours[1:]:
        return "the number of classes differs"
    return f"that of the file is of another shape: {tuple(given)}, the model has {tuple(ours)}"


def _hint(network: Checkpoint) -> str:
    guess = guess_builder(network.state_dict)
    if guess is None:
        project = other_project(network.state_dict)
        return f"; {project}" if project else ""
    builder, options = guess
    hint = f": its keys match {builder}"
    for key, value in options.items():
        hint += f" with {key}={value!r}"
    return hint


def _first_of(names: Sequence[str], count: int) -> str:
    more = ", ..." if len(names) > count else ""
    return ", ".join(names[:count]) + more
