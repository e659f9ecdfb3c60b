"""Files that appear whole or not at all, also when the machine stops."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, and move what was written to ``path`` in one step, unless an error is raised.

    The content and the name are on the disk when the context ends.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):  # it would hide the error that ended the writing
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it appears whole or not at all, and is on the disk when this returns.

    Raises:
        OSError: it could not be written; what was there before is intact.
    """
    with whole_file(path) as partial, open(partial, "wb") as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Bring the names of new files to the disk: fsync of a file brings its content alone."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
