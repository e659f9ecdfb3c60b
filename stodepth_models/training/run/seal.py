"""The final figures of a run with a SHA-256 over them and over the records beside them."""

import hashlib
import json
from pathlib import Path
from typing import Any

CHECKSUM = "sha256"  # entry of the figures; copies that `collect_runs` has rounded, and older runs, have none


def sealed(result: dict[str, Any], records: list[Path]) -> dict[str, Any]:
    """Return figures with the checksum.

    Args:
        result: figures, of plain data.
        records: files that belong to them.
    """
    return result | {CHECKSUM: _digest(result, records)}


def read_sealed(path: Path, records: list[Path]) -> dict[str, Any]:
    """Read figures, and compare them and the files that belong to them with the checksum, where there is one.

    Raises:
        ValueError: they are damaged.
    """
    try:
        result = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or move its run away") from None
    if not isinstance(result, dict):
        raise ValueError(f"{path} is damaged (it holds a {type(result).__name__}): restore it, or move its run away")
    expected = result.pop(CHECKSUM, None)
    if expected is not None and expected != _digest(result, records):
        names = ", ".join(record.name for record in records)
        raise ValueError(
            f"{path} or a file beside it ({names}) is damaged: they have another SHA-256 than it says; restore them, "
            f"move the run away, or remove {CHECKSUM} from {path.name} where they were changed on purpose"
        )
    return result


def _digest(result: dict[str, Any], records: list[Path]) -> str:
    digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode())
    for record in records:
        if record.exists():
            digest.update(record.read_bytes())
    return digest.hexdigest()
