"""Archives of images: unpacked once into a cache."""

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .extraction import Limits, extract

logger = logging.getLogger("stodepth_models")

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")

_PARTIAL = re.compile(r"\..+-[0-9a-f]{12}-[a-z0-9_]{8}\.partial")  # a name that no other program gives
_OLD = 48 * 3600  # seconds after which nobody is unpacking any more
_MAKE_ROOM = "make room, give another data.cache"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.ENAMETOOLONG: "pack it again with shorter names",
}


def unpacked(archive: Path, cache: Path, limits: Limits) -> Path:
    """Return the folder that holds an archive's files; the first call unpacks it.

    A folder appears in the cache only once it is complete. Where several processes want it at the same time one of them
    unpacks, and the others wait for it.

    Args:
        archive: .tar, .tar.gz, .tgz, .tar.xz or .zip.
        cache: folder of unpacked archives.
        limits: of what is unpacked.

    Raises:
        ValueError: the archive is damaged, encrypted or too large, holds a path that leads out of it, or cannot be
            written into the cache.
    """
    target = cache.expanduser() / _unpacked_name(archive)
    try:
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(archive) as is_alone:
            if not target.is_dir():
                _remove_leftovers(target, is_alone)
                _unpack(archive, target, limits)
    except OSError as error:
        reason = error.strerror or error
        remedy = _REMEDIES.get(error.errno or 0, "give another data.cache")
        raise ValueError(
            f"{archive} cannot be unpacked into data.cache={target.parent} ({reason}): {remedy}, or unpack it by hand "
            "and give the folder as data.root"
        ) from None
    return target


def _unpacked_name(archive: Path) -> str:
    """Return a name that another version of the archive does not have."""
    stat = archive.stat()
    identity = f"{archive.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode(errors="surrogateescape")
    stem = archive.name.split(".")[0][:100]
    return f"{stem}-{hashlib.sha256(identity).hexdigest()[:12]}"


@contextmanager
def _locked(archive: Path) -> Iterator[bool]:
    """Let one process at a time unpack an archive; yields whether the file system can.

    The kernel releases the lock of a process that is killed.
    """
    with open(archive, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s is being unpacked by another process: waiting for it", archive)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks, or one that locks files opened for writing only
            yield False
            return
        yield True


def _remove_leftovers(target: Path, is_alone: bool) -> None:
    """Remove what killed processes had begun to unpack.

    Folders of this archive are nobody's where this process alone unpacks it; others are once they are old.
    """
    for path in target.parent.glob(".*.partial"):
        if not _PARTIAL.fullmatch(path.name):
            continue
        is_own = path.name.startswith(f".{target.name}-")
        if (is_own and is_alone) or _is_old(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _OLD
    except OSError:  # another process has just finished with it
        return False


def _unpack(archive: Path, target: Path, limits: Limits) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".partial", dir=target.parent))
    try:
        extract(archive, partial, limits)
        try:
            os.replace(partial, target)
        except OSError:
            # Without locks another process may have been faster.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
