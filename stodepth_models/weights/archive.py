"""Files in zip form, as ``torch.save`` writes them: whole, and what their directory says they are."""

import zipfile
from pathlib import Path

from .errors import CheckpointError, first_line
from .kinds import kind_of_archive, kind_of_shard

IS_FOLDER = 0x10  # bit of the attributes of an entry, of which PyTorch then reads nothing
DATA = "data/"  # folder of the storages


def records_of(path: Path, name: str) -> dict[str, int]:
    """Check an archive of ``torch.save``, and return the bytes of each storage in it, by its key.

    PyTorch reads neither the CRC-32 of the entries nor the names in front of them: it believes the directory.

    Raises:
        CheckpointError: an entry is damaged, or it is compressed: what it unpacks to is bounded by nothing in the file.
            Or the archive is of another kind.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(path, name, entries)
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged archive provokes
        raise CheckpointError(f"{name} is a damaged archive: {first_line(error)}; download it again") from None
    if damaged is not None:
        raise CheckpointError(f"{name} is damaged: the CRC-32 of {damaged} does not hold; download it again")
    records: dict[str, int] = {}
    for entry in entries:
        inside = _inside(entry)
        if inside.startswith(DATA):
            records[inside.removeprefix(DATA)] = entry.file_size
    return records


def _inside(entry: zipfile.ZipInfo) -> str:
    """The name of an entry without the folder that all of a checkpoint lies in."""
    return entry.filename.partition("/")[2] or entry.filename


def _check_entries(path: Path, name: str, entries: list[zipfile.ZipInfo]) -> None:
    """Compare the directory with itself and with the size of the file; ``zipfile`` compares it with the entries."""
    kind = kind_of_archive(map(_inside, entries))
    if kind is None and min(entry.header_offset for entry in entries) > 0:
        kind = kind_of_shard()
    if kind is not None:
        raise CheckpointError(f"{name} {kind}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise CheckpointError(f"{name} is a damaged archive: its directory has a name twice; download it again")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{name} is refused: {entry.filename} is compressed; save its state dict with torch.save"
            )
        is_folder = entry.is_dir() or entry.external_attr & IS_FOLDER
        if entry.file_size != entry.compress_size or (is_folder and entry.file_size):
            raise CheckpointError(
                f"{name} is a damaged archive: its directory contradicts itself about {entry.filename}; "
                "download it again"
            )
    # Entries that overlap would be read many times.
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(f"{name} is a damaged archive: its entries are longer than the file; download it again")
