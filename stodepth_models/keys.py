"""Names of weights: how other people's files call them, and how this package does."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import CheckpointError

__all__ = [
    "CLASSIFIER",
    "EVAL_SCALE",
    "OPTIONAL",
    "canonical",
    "canonical_names",
    "noted_scales",
    "unwrap",
    "with_notes",
]

# Keys under which training scripts nest the weights. Averages come first: they are what such scripts evaluate.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "shadow"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights", "params"),
)

# Applied in this order to every name, of the file and of the model alike.
RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.", ""),
        (r"^(?:(?:model|network|net|backbone)\.)+", ""),  # attributes that hold a model: Lightning and others
        (r"\.shortcut\.", ".downsample."),
        (r"^(?:linear|classifier)\.", "fc."),
    )
)

COUNTERS = re.compile(r"(?:^|\.)(?:n_averaged|total_ops|total_params)$")  # of averaging and profiling tools

CLASSIFIER = "fc."
EVAL_SCALE = "eval_scale"  # of a gate, in the metadata of a state dict

OPTIONAL = "num_batches_tracked"  # files from before PyTorch 0.4.1 have none


def unwrap(content: Any) -> tuple[Any, list[str]]:
    """Return the innermost mapping of weights and the wrapper keys that led there."""
    path: list[str] = []
    while isinstance(content, Mapping):
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
        path.append(inner)
    return content, path


def noted_scales(state: Mapping[str, Any]) -> list[float] | None:
    """Return the evaluation scale of each gate, in forward order, that PyTorch's state dict notes; None without notes.

    A network of constant depth has no gates. Notes are lost where a script copies the weights to a plain dict.
    """
    metadata = getattr(state, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return None
    notes = [note[EVAL_SCALE] for note in metadata.values() if isinstance(note, Mapping) and EVAL_SCALE in note]
    return notes if all(isinstance(note, float) and 0.0 <= note <= 1.0 for note in notes) else None


def with_notes(weights: Mapping[str, Any], scales: Iterable[float]) -> OrderedDict[str, Any]:
    """Return the weights as a state dict that notes the evaluation scale of each gate, in forward order."""
    state = OrderedDict(weights)
    metadata = {f"gate {number}": {EVAL_SCALE: scale} for number, scale in enumerate(scales)}
    state._metadata = metadata  # type: ignore[attr-defined]
    return state


def canonical(name: str) -> str:
    """Return this package's name of a weight: torchvision's, such as ``layer1.0.downsample.0.weight``."""
    for pattern, replacement in RULES:
        name = pattern.sub(replacement, name)
    return name


def canonical_names(names: Iterable[str], owner: str) -> dict[str, str]:
    """Map canonical names to the names they come from; counters that are no weights are left out.

    Raises:
        CheckpointError: two names are the same weight.
    """
    originals: dict[str, str] = {}
    for name in names:
        if COUNTERS.search(name):
            continue
        known = originals.setdefault(canonical(name), name)
        if known != name:
            raise CheckpointError(f"{owner} holds the same weight twice, as {known!r} and as {name!r}")
    return originals
