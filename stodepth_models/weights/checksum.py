"""A SHA-256 in the header of the safetensors files that this package writes: the format itself has no checksum."""

import hashlib
import json
from pathlib import Path
from typing import Any

from .errors import CheckpointError

CHECKSUM = "stodepth_models_sha256"  # entry of the header: SHA-256 of the header without it, and of the tensors

CHUNK = 1 << 20
ALIGNMENT = 8  # bytes, of the tensors


def with_checksum(content: bytes) -> bytes:
    """Return a safetensors file with the checksum, and with its metadata in alphabetical order.

    The order that the library gives them changes from call to call.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = dict(sorted(header["__metadata__"].items()))
    digest = hashlib.sha256(_text({**header, "__metadata__": metadata}))
    digest.update(content[start:])
    header["__metadata__"] = metadata | {CHECKSUM: digest.hexdigest()}
    text = _text(header)
    size = -(-len(text) // ALIGNMENT) * ALIGNMENT
    return size.to_bytes(8, "little") + text.ljust(size) + content[start:]


def check_checksum(path: Path, name: str) -> None:
    """Compare a safetensors file with its checksum, where it has one.

    Raises:
        CheckpointError: it differs.
        ValueError: the header is damaged.
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        metadata = header.get("__metadata__") or {}
        expected = metadata.pop(CHECKSUM, None)
        if expected is None:
            return
        digest = hashlib.sha256(_text(header))
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise CheckpointError(
            f"{name} is damaged: it has another SHA-256 than its header says; copy it again, or leave {CHECKSUM} out "
            "of the metadata where it was changed on purpose"
        )


def _text(header: dict[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":")).encode()
