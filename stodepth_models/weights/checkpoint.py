"""Checkpoint files: read without running what they hold, under this package's names, with their configuration."""

import json
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from .config import check_config
from .errors import CheckpointError
from .files import write_atomically
from .names import CLASSIFIER, canonical_names
from .nesting import unwrap
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
    """

    name: str
    state_dict: dict[str, Tensor]
    config: Mapping[str, Any] | None = None
    categories: Sequence[str] | None = None
    saved_scales: Mapping[str, float] | None = None
    prefix: str | None = None
    found_under: str = ""
    left_out: Sequence[str] = ()

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
    """Read a safetensors file, or a pickle with ``weights_only=True``; what it is, its first bytes tell.

    Args:
        path: an existing file.
        name: what messages call it.

    Raises:
        CheckpointError: damaged, no checkpoint, or a pickle that would run code.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        head = file.read(16)
    if not head:
        raise CheckpointError(f"{name} is empty: download it again")
    has_header = int.from_bytes(head[:8], "little") <= LARGEST_HEADER  # whose length may begin like a page
    if head.lstrip()[:1] == b"<" and not has_header:
        raise CheckpointError(f"{name} is a web page (HTML or XML), not weights: check the address")
    if head[8:9] == b"{" and head[:4] != b"PK\x03\x04":
        content, header = _read_safetensors(path, name)
        return read_mapping(content, name, header or read_config(path))
    return read_mapping(_read_pickle(path, name), name, read_config(path))


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
    state, path = unwrap(content)
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
        scales = read_scales(state)
    elif config["rescale"] == "eval":
        scales = scales_by_gate(config["survival_probs"], names)
    else:
        scales = {}
    return Checkpoint(name, weights, config, categories, scales)


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
    content = _with_sorted_metadata(save(tensors, {"format": "pt", HEADER: json.dumps(config)}))
    write_atomically(path, content)


def _with_sorted_metadata(content: bytes) -> bytes:
    """A safetensors file with its metadata in alphabetical order: the library's order changes from call to call."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    size = -(-len(text) // 8) * 8  # the tensors stay aligned
    return size.to_bytes(8, "little") + text.ljust(size) + content[start:]


def _read_safetensors(path: Path, name: str) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever a damaged header provokes
        raise CheckpointError(f"{name} is a damaged safetensors file: {error}") from error
    return tensors, parse_config(metadata[HEADER], name) if HEADER in metadata else None


def _check_archive(path: Path, name: str) -> None:
    """Compare a file in zip form with the CRC-32 of its entries, which PyTorch does not read.

    Raises:
        CheckpointError: an entry is damaged, or it is compressed: what it unpacks to is bounded by nothing in the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(
                        f"{name} is refused: {entry.filename} is compressed; save its state dict with torch.save"
                    )
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged archive provokes
        raise CheckpointError(f"{name} is a damaged archive: {_first_line(error)}; download it again") from None
    if damaged is not None:
        raise CheckpointError(f"{name} is damaged: the CRC-32 of {damaged} does not hold; download it again")


def _read_pickle(path: Path, name: str) -> Any:
    with open(path, "rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if is_archive:
        _check_archive(path, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on formats of old, which the caller cannot change
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        way_out = "save its state dict alone with torch.save, or as safetensors"
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{name} is refused: it asks to run {refused[1]}, and pickles are read as weights only; {way_out}"
            ) from None
        reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        told = reason[1] if reason else _first_line(error)
        raise CheckpointError(f"{name} is damaged or not a checkpoint of weights only: {told}; {way_out}") from None
    except Exception as error:  # whatever a damaged archive provokes
        raise CheckpointError(f"{name} is damaged or not a checkpoint: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


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
