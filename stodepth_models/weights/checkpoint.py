"""Checkpoint files: read without running what they hold, under this package's names, with their configuration."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .checksum import check_checksum, with_checksum
from .config import check_config
from .errors import CheckpointError
from .files import write_atomically
from .kinds import HEAD, ZIP, kind_of_head, kind_of_path
from .names import CLASSIFIER, canonical_names
from .nesting import unwrap
from .pickles import read_pickle
from .scales import read_scales, scales_by_gate

HEADER = "stodepth_models"  # entry of a safetensors header that holds our configuration, as JSON

LARGEST_HEADER = 100_000_000  # bytes, of the safetensors format

logger = logging.getLogger("stodepth_models")


@dataclass(frozen=True)
class Checkpoint:
    """Weights under this package's names.

    Attributes:
        name: where they come from, for messages.
        state_dict: tensors by name.
        config: configuration of the model that they were saved from; None where the file has none.
        categories: names of the classes, where known.
        saved_scales: evaluation scale of each gate, by its name, where it is not 1; None where it is not known.
        prefix: beginning of the names of the network that was chosen; None: it is found by its names.
        found_under: the prefix that was taken off the names of the network.
        left_out: names of what stands beside the network in the file.
        mappings: all mappings of tensors in the file, by their keys: ``model`` and a teacher beside it.
    """

    name: str
    state_dict: dict[str, Tensor]
    config: Mapping[str, Any] | None = None
    categories: Sequence[str] | None = None
    saved_scales: Mapping[str, float] | None = None
    prefix: str | None = None
    found_under: str = ""
    left_out: Sequence[str] = ()
    mappings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int | None:
        """Rows of the classifier; None where there is none."""
        weight = self.state_dict.get(f"{CLASSIFIER}weight")
        if weight is None or weight.dim() != 2:
            return None
        return len(weight)

    @property
    def scales_known(self) -> bool:
        """Whether it is known how the network scaled its branches in evaluation."""
        return self.saved_scales is not None


def read_file(path: Path, name: str) -> Checkpoint:
    """Read a safetensors file, or a pickle with ``weights_only=True``; its first bytes say which.

    Args:
        path: an existing file.
        name: what messages call it.

    Raises:
        CheckpointError: damaged, no checkpoint, or a pickle that would run code.
        OSError: the file cannot be opened.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        # An error of the disk names no file.
        raise type(error)(error.errno, error.strerror, str(path)) from None
    if not head:
        raise CheckpointError(f"{name} is empty: download it again")
    is_safetensors = head[8:9] == b"{" and not head.startswith(ZIP)
    header = int.from_bytes(head[:8], "little")
    # The length of a header may begin as other files do, and a damaged one may be any number.
    kind = kind_of_path(path)
    if kind is None and not (is_safetensors and header <= LARGEST_HEADER):
        kind = kind_of_head(head)
    if kind is not None:
        raise CheckpointError(f"{name} {kind}")
    if is_safetensors:
        content, config = _read_safetensors(path, name)
        return read_mapping(content, name, config or read_config(path))
    return read_mapping(read_pickle(path, name), name, read_config(path))


def read_mapping(
    content: Any, name: str, config: Mapping[str, Any] | None = None, categories: Sequence[str] | None = None
) -> Checkpoint:
    """Give the weights in ``content`` this package's names.

    Args:
        content: a state dict, or a training script's nest around one.
        name: what messages call it.
        config: configuration of the model that was saved.
        categories: names of the classes; None: those of the configuration.

    Raises:
        CheckpointError: there are no weights in it.
    """
    state, path, mappings = unwrap(content)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{name} must hold a state dict, got a {type(state).__name__}")
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{name} must hold named tensors, got the keys {[*state][:10]}")
    if path:
        logger.info("%s: weights taken from %r", name, ".".join(path))
    names = canonical_names(tensors, name)
    categories = categories or (config or {}).get("categories")
    weights = {key: tensors[original] for key, original in names.items()}
    if config is None:
        scales = read_scales(state, name)
    elif config["rescale"] == "eval":
        scales = scales_by_gate(config["survival_probs"], names, name)
    else:
        scales = {}
    return Checkpoint(name, weights, config, categories, scales, mappings=mappings)


def read_config(path: Path) -> Mapping[str, Any] | None:
    """Return the configuration beside a file that ``save_pretrained`` wrote; None where there is none of ours."""
    beside = path.with_name("config.json")
    if path.stem not in ("model", "pytorch_model") or not beside.is_file():
        return None
    return parse_config(beside.read_bytes(), str(beside))


def write_file(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write weights as safetensors with their configuration in the header; the file appears whole or not at all.

    The same weights and configuration give the same bytes.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    content = with_checksum(save(tensors, {"format": "pt", HEADER: json.dumps(config)}))
    write_atomically(path, content)


def _read_safetensors(path: Path, name: str) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        check_checksum(path, name)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged header provokes
        raise CheckpointError(f"{name} is a damaged safetensors file: {error}") from error
    return tensors, parse_config(metadata[HEADER], name) if HEADER in metadata else None


def parse_config(text: str | bytes, name: str) -> Mapping[str, Any] | None:
    """Parse a configuration; None for one of another library.

    Raises:
        CheckpointError: no JSON, or values that are not allowed.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} holds a damaged configuration: {error}") from error
    if not isinstance(config, dict) or "builder" not in config:
        return None
    check_config(config, name)
    return config
