"""Archives of images: unpacked once into a cache, refused where they would write outside it."""

import gzip
import hashlib
import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["ARCHIVES", "unpacked"]

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error, struct.error,
)  # fmt: skip


def unpacked(archive: Path, cache: Path) -> Path:
    """Return the folder that holds an archive's files; the first call unpacks it.

    A folder appears in the cache only once it is complete, so that two runs may ask at the same time.

    Args:
        archive: .tar, .tar.gz, .tgz, .tar.xz or .zip.
        cache: folder of unpacked archives.

    Raises:
        ValueError: the archive is damaged or encrypted, or holds a path that leads out of it.
    """
    stat = archive.stat()
    identity = f"{archive.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()
    stem = archive.name.split(".")[0]
    target = cache.expanduser() / f"{stem}-{hashlib.sha256(identity).hexdigest()[:12]}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{stem}-", dir=target.parent))
    try:
        _extract(archive, partial)
        if not target.is_dir():  # another process may have been faster
            os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _extract(archive: Path, folder: Path) -> None:
    try:
        if archive.name.endswith(".zip"):
            _extract_zip(archive, folder)
        else:
            with tarfile.open(archive, tarinfo=_Member) as tar:
                tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise ValueError(f"{archive} is refused: {error}; unpack it by hand if you trust it") from None
    except _DAMAGED as error:
        raise ValueError(f"{archive} is damaged or cut short ({error}): fetch it again") from None
    except RuntimeError as error:  # zipfile's word for a password, an unknown compression, a damaged flag
        raise ValueError(f"{archive} cannot be unpacked ({error}): unpack it by hand, or fetch it again") from None


class _Member(tarfile.TarInfo):
    """A member of an archive that ends with its end marker.

    tarfile takes the end of the file, or a damaged header, for the end of the archive, so that members would be
    missing without a word.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]  # the zero block at the end
                raise
            raise tarfile.ReadError(str(error)) from None


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(
                    f"{archive} is refused: {name!r} would be outside the destination; "
                    "unpack it by hand if you trust it"
                )
        files.extractall(folder)
