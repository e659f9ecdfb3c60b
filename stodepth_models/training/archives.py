"""Archives of images: unpacked once into a cache, refused where they would write outside it."""

import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

__all__ = ["ARCHIVES", "unpacked"]

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")


def unpacked(archive: Path, cache: Path) -> Path:
    """Return the folder that holds an archive's files; the first call unpacks it.

    A folder appears in the cache only once it is complete, so that two runs may ask at the same time.

    Args:
        archive: .tar, .tar.gz, .tgz, .tar.xz or .zip.
        cache: folder of unpacked archives.

    Raises:
        ValueError: the archive is damaged, or holds a path that leads out of it.
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
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise ValueError(f"{archive} is refused: {error}; unpack it by hand if you trust it") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{archive} is damaged or cut short ({error}): fetch it again") from None


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
