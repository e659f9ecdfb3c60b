"""Files that appear whole or not at all, also when the machine stops."""

import os
import uuid
from pathlib import Path


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it appears whole or not at all, and is on the disk when this returns.

    Args:
        path: replaced once the new content is on the disk.
        content: of the file.

    Raises:
        OSError: it could not be written; what was there before is intact.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names of new files to the disk: fsync of a file brings its content alone."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
