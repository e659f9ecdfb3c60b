"""The state of a run, and the checkpoints that keep it: written atomically, the last two kept, damage noticed."""

import hashlib
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ...weights.archive import records_of
from ...weights.errors import CheckpointError
from ...weights.files import sync_folder, write_atomically
from ..errors import first_line

_KEPT = 2

_SEAL = b"sha256:"  # begins the comment of a checkpoint's zip archive; the digest of all bytes before it follows
_SEAL_SIZE = len(_SEAL) + 64
_END_OF_ARCHIVE = b"PK\x05\x06"  # 22 bytes before the end of a zip archive that has no comment


def save_parts(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of each part by name; None for a part that the run does without."""
    return {name: None if part is None else part.state_dict() for name, part in parts.items()}


def load_parts(parts: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Give each part its state back."""
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(saved[name])


def seed_gates(seed: int, rank: int) -> None:
    """Start this process's stream of gates: each process draws its own."""
    torch.manual_seed((seed * 1_048_583 + rank + 1) * 7919)


def get_rng(accelerator: Accelerator) -> list[dict[str, Any]]:
    """Return the states of the random-number generators of every process; all of them must call."""
    mine: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        mine["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    return gather_object([mine])


def set_rng(states: list[dict[str, Any]], accelerator: Accelerator) -> None:
    """Continue the streams of this process."""
    mine = states[accelerator.process_index]
    torch.set_rng_state(mine["cpu"])
    if "cuda" in mine:
        torch.cuda.set_rng_state(mine["cuda"], accelerator.device)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    return sorted((path for path in folder.glob("*.pt") if _step(path) >= 0), key=_step, reverse=True)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step, then remove all but the last two.

    Args:
        folder: made where it does not exist.
        step: optimizer steps done.
        state: tensors and plain data.

    Raises:
        OSError: it could not be written; what was there before is intact.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    path = folder / f"step_{step:09d}.pt"
    content = _sealed(state)
    try:
        write_atomically(path, content.getbuffer())
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror}); the checkpoint before is intact") from None
    # A later one can be damaged or foreign, for it was not resumed from: it must not take the place of a good one.
    done = [old for old in checkpoints(folder) if _step(old) <= step]
    for old in done[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_last_checkpoint(
    folder: Path, load: Callable[[Any], None], say: Callable[[str], None]
) -> Path | None:  # fmt: skip
    """Load the newest checkpoint that can be used, and return its path; None where there is none.

    Args:
        folder: of the checkpoints.
        load: called with what a checkpoint holds; an exception means that it belongs to another run.
        say: called with one line for each checkpoint that is passed over.

    Raises:
        ValueError: there are checkpoints, and none of them can be used.
    """
    found = checkpoints(folder)
    for path in found:
        what = "is damaged"
        try:
            state = _read(path)
            what = "does not belong to this run"
            load(state)
            return path
        except Exception as error:  # whatever a damaged archive or foreign contents provoke
            say(f"checkpoint {path} {what} ({first_line(error)}): trying the one before")
    if found:
        raise ValueError(f"no checkpoint in {folder} can be used: remove the folder to start afresh")
    return None


def _sealed(state: dict[str, Any]) -> io.BytesIO:
    """The state as ``torch.save`` writes it, with a SHA-256 in the comment of the zip archive.

    ``torch.load`` reads the archive as before: it checks neither a digest nor the CRC-32 that the archive holds.
    """
    content = io.BytesIO()  # not into the file: a full disk would surface as an internal error of torch.save
    torch.save(state, content)
    content.seek(-2, io.SEEK_END)  # the length of the comment ends the archive
    content.write(_SEAL_SIZE.to_bytes(2, "little"))
    seal = _seal(content.getvalue())
    content.write(seal)
    return content


def _seal(content: bytes) -> bytes:
    return _SEAL + hashlib.sha256(content).hexdigest().encode()


def _read(path: Path) -> Any:
    """Return what a checkpoint holds.

    Raises:
        ValueError: a byte of it has changed since it was written.
        Exception: whatever ``torch.load`` raises.
    """
    content = path.read_bytes()
    if content[-_SEAL_SIZE:] != _seal(content[:-_SEAL_SIZE]) and not _is_intact_without_seal(path, content):
        raise ValueError("its SHA-256 is another one")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _is_intact_without_seal(path: Path, content: bytes) -> bool:
    """Whether these bytes are a checkpoint of version 0.1.0, which has no seal, and hold their CRC-32."""
    if content[-22:-18] != _END_OF_ARCHIVE or content[-2:] != b"\0\0":  # the length of its comment
        return False
    try:
        records_of(path, str(path))
    except CheckpointError:
        return False
    return True


def _step(path: Path) -> int:
    """The step in the name of a checkpoint; -1 for a file of another name."""
    match = re.fullmatch(r"step_(\d+)\.pt", path.name)
    return int(match[1]) if match else -1
