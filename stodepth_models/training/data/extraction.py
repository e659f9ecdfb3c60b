"""What is inside an archive: written to a folder within limits, refused where it would be written outside of it."""

import errno
import gzip
import lzma
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, lzma.LZMAError, zlib.error, struct.error,
)  # fmt: skip
_MAX_HEADER = 2**20  # bytes of a name or of extended headers, which tarfile reads into memory
_MAX_END_OF_ZIP = 22 + 2**16 + 76  # bytes: the end record and its comment, and the records of large files before it


class Limits(NamedTuple):
    """What an archive may unpack to, files and bytes."""

    gigabytes: float
    files: int


class _RefusedError(ValueError):
    """The archive is whole, and is not unpacked all the same."""


def extract(archive: Path, folder: Path, limits: Limits) -> None:
    """Write what an archive holds into a folder.

    Raises:
        ValueError: the archive is damaged, encrypted or too large, or holds a path that leads out of the folder.
        OSError: the folder cannot be written.
    """
    budget = _Budget(limits, folder)
    refusals = (_RefusedError, getattr(tarfile, "FilterError", _RefusedError))
    try:
        if archive.name.lower().endswith(".zip"):
            _extract_zip(archive, folder, budget)
        else:
            _extract_tar(archive, folder, budget)
    except refusals as error:
        advice = "" if isinstance(error, _RefusedError) else "; unpack it by hand if you trust it"
        raise ValueError(f"{archive} is refused: {error}{advice}") from None
    except _DAMAGED as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        # A damaged offset leads before the beginning of the file; other errors are those of the disk.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise _damaged(archive, error) from None
    except RuntimeError as error:  # zipfile's word for a password, an unknown compression, a damaged flag
        raise ValueError(f"{archive} cannot be unpacked ({error}): unpack it by hand, or fetch it again") from None
    except Exception as error:  # whatever damaged bytes provoke, such as a KeyError for a hard link to nothing
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())  # tarfile writes a line for each format that it tried
    if not isinstance(error, _DAMAGED):
        reason = f"{type(error).__name__}: {reason}"
    return ValueError(f"{archive} is damaged or cut short ({reason}): fetch it again")


class _Budget:
    """Counts what is unpacked, and refuses what exceeds the limits or the room on the disk.

    Args:
        limits: of what is unpacked.
        folder: on the disk that it is unpacked to.
    """

    def __init__(self, limits: Limits, folder: Path) -> None:
        self.limits = limits
        self.free = shutil.disk_usage(folder).free
        self.bytes = self.files = 0

    def add_file(self, size: int) -> None:
        """Count a file before it is written."""
        self.files += 1
        if self.files > self.limits.files:
            raise _RefusedError(
                f"it holds more than data.max_files={self.limits.files} files; raise the limit if you trust it"
            )
        self.add_bytes(size)

    def add_bytes(self, size: int) -> None:
        """Count bytes before they are written or read."""
        self.bytes += size
        if self.bytes > self.limits.gigabytes * 1e9:
            raise _RefusedError(
                f"it unpacks to more than data.max_unpacked_gb={self.limits.gigabytes:g} GB; "
                "raise the limit if you trust it"
            )
        if self.bytes > self.free:
            raise _RefusedError(
                f"it unpacks to more than the {self.free / 1e9:.1f} GB that are free; "
                "make room or give another data.cache"
            )


class _Member(tarfile.TarInfo):
    """A member of an archive that ends with its end marker.

    tarfile takes the end of the file, or a damaged header, for the end of the archive, and members would be missing
    in silence.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]  # the zero block at the end
                raise
            raise tarfile.ReadError(str(error)) from None

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        member = super().frombuf(buf, encoding, errors)
        is_content = member.type in (*tarfile.REGULAR_TYPES, tarfile.GNUTYPE_SPARSE)
        if member.size > _MAX_HEADER and not is_content:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member


def _extract_tar(archive: Path, folder: Path, budget: _Budget) -> None:
    # Python 3.10.12 and 3.11.4 brought filters.
    has_filters = hasattr(tarfile, "data_filter") and hasattr(tarfile, "FilterError")
    options = {"filter": "data"} if has_filters else {}
    with tarfile.open(archive, tarinfo=_Member) as tar:
        for member in tar:
            budget.add_file(member.size)
            if not has_filters:
                _refuse_unless_plain(member)
            tar.extract(member, folder, set_attrs=False, **options)  # type: ignore[arg-type]
        # The checksums of gzip and xz stand at the end, behind the end marker of tar.
        assert tar.fileobj is not None
        while chunk := tar.fileobj.read(2**20):
            budget.add_bytes(len(chunk))


def _refuse_unless_plain(member: tarfile.TarInfo) -> None:
    """Refuse what only the filters of newer Pythons unpack safely."""
    _refuse_outside(member.name)
    if not (member.isfile() or member.isdir()):
        version = ".".join(map(str, sys.version_info[:3]))
        raise _RefusedError(
            f"{member.name!r} is a link or a device, which Python {version} cannot unpack safely; "
            "take Python 3.10.12, 3.11.4 or newer, or unpack it by hand"
        )


def _refuse_outside(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _RefusedError(f"{name!r} would be outside the destination; unpack it by hand if you trust it")


def _extract_zip(archive: Path, folder: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as files:
        members = files.infolist()
        _check_count(archive, len(members))
        for member in members:
            member.filename = member.filename.replace("\\", "/")  # some programs for Windows write backslashes
            _refuse_outside(member.filename)
            budget.add_file(member.file_size)
        # The directory declares all sizes, and zipfile reads no more than it declares: nothing is written in vain.
        for member in members:
            files.extract(member, folder)


def _check_count(archive: Path, found: int) -> None:
    """Compare the entries of a zip's directory with the number in its end record.

    zipfile does not: one damaged length in the directory hides the entries after it.
    """
    with open(archive, "rb") as file:
        file.seek(max(0, archive.stat().st_size - _MAX_END_OF_ZIP))
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    [declared] = struct.unpack_from("<H", tail, end + 10)
    large = tail.rfind(b"PK\6\6", 0, end)
    if declared == 0xFFFF and large >= 0:
        [declared] = struct.unpack_from("<Q", tail, large + 32)
    elif found > 0xFFFF:
        found %= 2**16  # old programs count so
    if found != declared:
        raise zipfile.BadZipFile(f"{found} of {declared} files are listed")
