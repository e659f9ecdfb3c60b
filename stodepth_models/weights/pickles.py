"""Pickles of ``torch.save``, read without running what they hold and without the memory that they ask for."""

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from .archive import records_of
from .errors import CheckpointError, first_line
from .kinds import HEAD, ZIP, kind_of_pickle, kind_of_text
from .opcodes import Opcodes, RefusedError

WAY_OUT = "save its state dict alone with torch.save, or as safetensors"

# Modules whose functions PyTorch lets a pickle of weights call.
OWN_MODULES = ("torch.", "collections.", "builtins.", "__builtin__.", "_codecs.", "copyreg.", "copy_reg.")

PICKLED_STORAGE = "torch.storage._load_from_bytes"  # what tensors ask for in a pickle of the module of that name

OLD_FORM = 0x1950A86A20F9469CFC6C  # the first pickle of a file of `torch.save` before PyTorch 1.6
PICKLES_OF_OLD_FORM = 5  # that number, a version, sizes of types, the object, and the order of its storages


def read_pickle(path: Path, name: str) -> Any:
    """Read a pickle with ``weights_only=True``.

    Args:
        path: an existing file.
        name: what messages call it.

    Raises:
        CheckpointError: damaged, a file of another kind, a pickle that would run code, or one that asks for more memory
            than the file has.
    """
    records = _records(path, name)
    try:
        with _first_pickle(path) as stream:
            opcodes = Opcodes(path.stat().st_size, records)
            if opcodes.follow(stream) == OLD_FORM:
                for _ in range(PICKLES_OF_OLD_FORM - 1):
                    opcodes.follow(stream)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on formats of old, which the caller cannot change
            # An open file is what its bytes say, whatever its name ends in.
            with open(path, "rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file provokes
        reason = _reason(path, error)
    raise CheckpointError(f"{name} {reason}")


def _records(path: Path, name: str) -> dict[str, int] | None:
    with open(path, "rb") as file:
        is_archive = file.read(len(ZIP)) == ZIP
    if not is_archive:
        return None
    return records_of(path, name)


@contextmanager
def _first_pickle(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "rb") as file:
        if file.read(len(ZIP)) != ZIP:
            file.seek(0)
            yield file
            return
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        yield io.BytesIO(archive.read(name))


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a file that could not be read, and the next step."""
    names = _names_of_classes(path)
    kind = kind_of_pickle(names)
    if kind is None:
        with open(path, "rb") as file:
            kind = kind_of_text(file.read(HEAD))
    if kind is not None:
        return kind
    message = first_line(error)
    foreign = sorted(name for name in names if not name.startswith(OWN_MODULES))
    if foreign:
        return f"is refused: it asks to run {foreign[0]}, and pickles are read as weights only; {WAY_OUT}"
    if PICKLED_STORAGE in names:
        return f"was written by pickle.dump, not by torch.save: {WAY_OUT}"
    if isinstance(error, RefusedError):
        return f"is refused: {message}; {WAY_OUT}"
    detail = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    if detail:
        message = detail[1]
    # PyTorch advises to read the file without its protection, which no caller of this package can.
    if "weights_only" in message:
        message = "PyTorch does not read it as weights only"
    return f"is damaged or not a checkpoint of weights only: {message}; {WAY_OUT}"


def _names_of_classes(path: Path) -> set[str]:
    """Names of classes and functions that a pickle of any protocol asks for, as far as it can be read."""
    names: set[str] = set()
    texts: list[Any] = [None, None]  # the last two that were put on the stack
    memo: list[Any] = []
    with suppress(Exception), _first_pickle(path) as stream:  # damaged: what was read so far is enough
        while True:
            memo.clear()  # each pickle of a file has its own
            argument: Any
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    names.add(argument.replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.add(f"{texts[-2]}.{texts[-1]}")
                    texts.append(None)
                elif opcode.name == "MEMOIZE":
                    memo.append(texts[-1])
                elif opcode.name in ("BINGET", "LONG_BINGET") and argument < len(memo):
                    texts.append(memo[argument])
                elif opcode.name != "FRAME":
                    texts.append(argument)
    return names
