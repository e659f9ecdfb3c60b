"""Weights in the mappings that training scripts put around them."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import CheckpointError

# Keys under which training scripts nest the weights. Averages come first: they are what such scripts evaluate.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "shadow"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights", "params"),
)

MAX_WRAPPERS = 20  # mappings within one another; a mapping that holds itself has no end
MAX_MAPPINGS = 10_000  # looked at in one file: mappings that share their parts multiply at each level


def unwrap(content: Any) -> tuple[Any, list[str], dict[str, Any]]:
    """Return the innermost mapping of weights, the wrapper keys that led there, and all mappings of tensors passed.

    The last ones are by their keys: those of the wrappers, and those beside them, such as a teacher beside ``model``.

    Where several networks lie side by side, as student and teacher do, the mapping is flat: their keys begin the names.

    Raises:
        CheckpointError: mappings lie deeper than ``MAX_WRAPPERS``, or one holds itself.
    """
    path: list[str] = []
    mappings: dict[str, Any] = {}
    while isinstance(content, Mapping):
        inner = _key_of_weights(content)
        if inner is None:
            break
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, Mapping) and _holds_tensors(value):
                mappings.setdefault(key, value)
        content = content[inner]
        path.append(inner)
        if len(path) > MAX_WRAPPERS:
            raise CheckpointError(f"weights lie in more than {MAX_WRAPPERS} mappings, or in one that holds itself")
    if isinstance(content, Mapping) and not _has_tensors(content) and _holds_tensors(content):
        content = _flat(content)
    return content, path, mappings


def _key_of_weights(content: Mapping[Any, Any]) -> str | None:
    for key in WRAPPERS:
        inner = content.get(key)
        # An average that was switched off leaves an empty mapping.
        if isinstance(inner, Mapping) and _holds_tensors(inner):
            return key
    return None


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in content.values())


def _holds_tensors(content: Mapping[Any, Any]) -> bool:
    """Whether tensors lie in a mapping or in those within it."""
    seen = {id(content)}
    level: list[Mapping[Any, Any]] = [content]
    for _ in range(MAX_WRAPPERS + 1):
        below: list[Mapping[Any, Any]] = []
        for mapping in level:
            if _has_tensors(mapping):
                return True
            for value in mapping.values():
                if isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    below.append(value)
        level = below
    return False


def _flat(content: Mapping[Any, Any]) -> OrderedDict[str, Tensor]:
    """All tensors, under names that begin with the keys of the mappings they lie in.

    PyTorch keeps versions and evaluation scales in an attribute of a state dict, which is made flat as well.
    """
    state: OrderedDict[str, Tensor] = OrderedDict()
    metadata: dict[str, Any] = {}
    waiting: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    # The list grows while it is gone through.
    for start, mapping in waiting:
        for module, entry in dict(getattr(mapping, "_metadata", None) or {}).items():
            metadata[f"{start}{module}"] = entry
        for key, value in mapping.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                state[f"{start}{key}"] = value
            elif isinstance(key, str) and isinstance(value, Mapping):
                waiting.append((f"{start}{key}.", value))
        if len(waiting) > MAX_MAPPINGS:
            raise CheckpointError(f"weights lie in more than {MAX_MAPPINGS} mappings, or in one that holds itself")
    state._metadata = metadata  # type: ignore[attr-defined]
    return state
