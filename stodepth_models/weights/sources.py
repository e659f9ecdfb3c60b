"""Sources of weights: what a user may name, found and read."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from torch import Tensor
from torchvision.models import WeightsEnum, get_weight

from ..checks import did_you_mean, no_such_path
from .checkpoint import Checkpoint, read_file, read_mapping
from .download import HUB_FILES, cached_path, check_sha256, digest_in_name, fetch_hub, fetch_url, is_remote
from .errors import CheckpointError, DownloadError
from .kinds import kind_of_path
from .published import PublishedWeights

Source: TypeAlias = WeightsEnum | str | Path | Mapping[str, Tensor] | Checkpoint

SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".bin")
RUN_FILES = ("best.safetensors", "last.safetensors")  # what a training run leaves in its folder
FILES_OF_WEIGHTS = (*HUB_FILES, *RUN_FILES)


def resolve_source(source: Any, enum: type[WeightsEnum] | None, owner: str, argument: str = "weights") -> Source:
    """Tell what a source is, without reading it.

    Args:
        source: what the user gave.
        enum: weights that are published for the model; None: not known.
        owner: what messages call the model.
        argument: what messages call the source.

    Raises:
        FileNotFoundError: a path without a file.
        TypeError: no kind of source, or a member of another model's enum.
        ValueError: no weights have that name.
    """
    if isinstance(source, WeightsEnum):
        # A member of an enum that somebody else wrote is a source like any other: its tensors decide what fits.
        if enum is not None and _belongs_elsewhere(source, enum):
            raise TypeError(f"weights of {owner} must come from {enum.__name__}, got {source!r}")
        return source
    if isinstance(source, (Mapping, Checkpoint)):
        return source
    if isinstance(source, PathLike):
        return _existing(Path(source))
    if not isinstance(source, str):
        raise TypeError(
            f"{argument} must be a member of a weights enum or its name, a path, a URL (http, https, file or hf) or a "
            f"state dict, got {source!r} of type {type(source).__name__}"
        )
    if is_remote(source):
        _check_address(source, argument)
        return source
    if re.match(r"[a-z][a-z0-9+.-]+://", source):
        raise ValueError(f"{argument} must be a URL that begins with http, https, file or hf, got {source!r}: fetch it")
    return _named(source, enum, owner)


def _check_address(url: str, argument: str) -> None:
    try:
        urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{argument} must be a URL, got {url!r}: {error}; check the address") from None


def _belongs_elsewhere(member: WeightsEnum, enum: type[WeightsEnum]) -> bool:
    """Whether a member is published, and for another model."""
    is_published = isinstance(member, PublishedWeights) or type(member).__module__.startswith("torchvision.")
    return is_published and not isinstance(member, enum)


def _named(source: str, enum: type[WeightsEnum] | None, owner: str) -> Source:
    """The weights of that name, else the file at that path."""
    enum_name, _, name = source.rpartition(".")
    enums: list[type[WeightsEnum]] = [*PublishedWeights.__subclasses__()]
    if enum is not None:
        enums.append(enum)
    for known in enums:
        if name in known.__members__ and enum_name == known.__name__:
            return resolve_source(known[name], enum, owner)
    if enum is not None and source in enum.__members__:
        return enum[source]
    if enum is None and re.fullmatch(r"\w+_Weights\.\w+", source):
        return _from_torchvision(source)
    if os.sep in source or source.endswith(SUFFIXES) or (source and _exists(Path(source))):
        return _existing(Path(source))
    if enum is None:
        raise ValueError(
            f"no weights {source!r} for {owner}, of which no builder is known: give the whole name, such as "
            f"'ResNet18_Weights.IMAGENET1K_V1'; a file's name ends in {', '.join(SUFFIXES)}"
        )
    members = [*enum.__members__]
    parts = [f"no weights {source!r} for {owner}", "none are published yet"]
    if members:
        parts[1] = f"known: {', '.join(members)}"
    hint = did_you_mean(repr(source.upper().rpartition(".")[2]), map(repr, members))
    if hint:
        parts.append(hint)
    parts.append(f"a file's name ends in {', '.join(SUFFIXES)}")
    raise ValueError("; ".join(parts))


def _from_torchvision(source: str) -> WeightsEnum:
    try:
        return get_weight(source)
    except (ValueError, KeyError):
        raise ValueError(f"no weights {source!r} in torchvision or in this package") from None


def _existing(path: Path) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError:  # `~name` of nobody
        raise FileNotFoundError(f"there is no file {path}: no home folder is known for {path.parts[0]}") from None
    if not _exists(path):
        raise FileNotFoundError(no_such_path(path))
    if path.is_dir():
        return _weights_in(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is neither a file nor a folder")  # to open a named pipe would wait for ever
    return path


def _weights_in(folder: Path) -> Path:
    inside = _first_file(folder)
    if inside is not None:
        return inside
    kind = kind_of_path(folder)
    if kind is not None:
        raise CheckpointError(f"{folder} {kind}")
    message = f"the folder {folder} holds no weights, looked for {', '.join(FILES_OF_WEIGHTS)}"
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and _first_file(path) is not None]
    if below:
        message += f"; did you mean {' or '.join(map(str, below[:3]))}?"
    raise FileNotFoundError(message)


def _first_file(folder: Path) -> Path | None:
    for name in FILES_OF_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that the file system does not take
        return False


def read_checkpoint(source: Source, progress: bool = True, check_hash: str | bool | None = None) -> Checkpoint:
    """Read the weights of a source that :func:`resolve_source` returned.

    Args:
        source: the source.
        progress: show a progress bar while downloading.
        check_hash: SHA-256 of the file, or at least its first 8 digits; True: those in its name must hold. None: those
            in the name of a URL; False: none. The hash of weights that ship with this package is checked in any case.

    Raises:
        CheckpointError: damaged, another hash, or no checkpoint. What a download left of it is removed.
        DownloadError: network, server or disk.
    """
    if isinstance(check_hash, str) and isinstance(source, (WeightsEnum, Mapping)):
        raise ValueError(f"check_hash is for files and URLs, got {check_hash!r} for {type(source).__name__}")
    if isinstance(source, Checkpoint):  # read before
        return source
    if isinstance(source, PublishedWeights):
        return source.read(progress)
    if isinstance(source, WeightsEnum):
        return _read_torchvision(source, progress)
    if isinstance(source, Mapping):
        return read_mapping(source, "the state dict")
    name = str(source)
    expected = _expected(check_hash, name)
    if isinstance(source, Path):
        if expected:
            check_sha256(source, expected, name)
        return read_file(source, name)
    if name.startswith("hf://"):
        return _read_checked(fetch_hub(name), expected, name)
    return _read_url(name, expected, progress, check_hash is not False)


def _read_checked(path: Path, expected: str | None, name: str) -> Checkpoint:
    if expected:
        check_sha256(path, expected, name)
    return read_file(path, name)


def _read_url(url: str, expected: str | None, progress: bool, check: bool) -> Checkpoint:
    path = fetch_url(url, expected, progress, check)
    try:
        return read_file(path, url)
    except CheckpointError:
        if path == cached_path(url):  # a page or half a file, of which no hash is known
            path.unlink(missing_ok=True)
        raise


def _read_torchvision(member: WeightsEnum, progress: bool) -> Checkpoint:
    """Read through torchvision, which checks the hash of what it downloads but not of what it has."""
    url = member.url
    if cached_path(url).is_file():
        fetch_url(url)
    try:
        state = member.get_state_dict(progress=progress, check_hash=True, weights_only=True)
    except (OSError, HTTPException) as error:
        raise DownloadError(f"{url} cannot be fetched: {type(error).__name__}: {error}") from error
    except RuntimeError as error:
        raise CheckpointError(f"{url} cannot be read: {error}") from error
    checkpoint = read_mapping(state, repr(member), categories=member.meta.get("categories"))
    return replace(checkpoint, saved_scales={})  # torchvision's networks have no gates


def _expected(check_hash: str | bool | None, name: str) -> str | None:
    if check_hash is None or check_hash is False:
        return None
    digest: Any = check_hash
    if check_hash is True:
        # A URL may go on behind the name of its file, as in `?download=true`.
        digest = digest_in_name(urlsplit(name).path) if is_remote(name) else digest_in_name(name)
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-fA-F]{8,64}", digest):
        raise ValueError(
            f"check_hash must be 8 to 64 hexadecimal digits, or True where {name} ends in them, got {check_hash!r}"
        )
    return digest
