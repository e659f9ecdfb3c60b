"""The state of a run, and the checkpoints that keep it: written atomically, the last two kept."""

import io
import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

_KEPT = 2


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
    found = [(int(m[1]), path) for path in folder.glob("*.pt") if (m := re.fullmatch(r"step_(\d+)\.pt", path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step, then remove all but the last two.

    Args:
        folder: made where it does not exist.
        step: optimizer steps done.
        state: tensors and plain data.

    Raises:
        OSError: it could not be written; what was there before is intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:09d}.pt"
    content = io.BytesIO()  # not into the file: a full disk would surface as an internal error of torch.save
    torch.save(state, content)
    try:
        write_atomically(path, lambda file: file.write(content.getbuffer()))
    except OSError as error:
        raise OSError(f"{path} could not be written ({error.strerror}); the checkpoint before is intact") from None
    for old in checkpoints(folder)[_KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_last_checkpoint(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the newest checkpoint that can be read, None where there is none.

    Args:
        folder: of the checkpoints.
        say: told of each checkpoint that is damaged.

    Raises:
        ValueError: there are checkpoints, and none of them can be read.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged archive provokes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            say(f"checkpoint {path} is damaged ({reason}): trying the one before")
    if found:
        raise ValueError(f"no checkpoint in {folder} can be read: remove the folder to start afresh")
    return None


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Write a file so that it appears whole or not at all, also when the machine stops.

    Args:
        path: replaced once the new content is on the disk.
        write: given an open binary file.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)  # the new name has to reach the disk too
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
