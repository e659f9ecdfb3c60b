"""Remote files: fetched once into the usual caches, and checked whenever they are used.

``torch.hub`` accepts truncated files, has no time-out, and checks no hash of a file that it has already. This module
uses the same cache and the same names.

A server has 10 s for its next byte and 60 s for its answer. The content may take 60 s, and 1 s more for each KiB.
"""

import hashlib
import queue
import re
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, url2pathname, urlopen

import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import tqdm

from .errors import CheckpointError, DownloadError
from .files import whole_file

TIMEOUT = 10.0  # seconds without a byte
PATIENCE = 60.0  # seconds until the answer of a server begins, and for the content of a slow one
SLOWEST = 1024  # bytes a second of the content beyond that
LEFTOVER_AGE = 24 * 3600.0  # seconds since the last write, after which no process writes a partial file any more
LONGEST_NAME = 200  # bytes: file systems take 255, and a partial file has a longer name
CHUNK = 1 << 20
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HUB_FILES: tuple[str, ...] = (
    "model.safetensors",
    "pytorch_model.safetensors",
    "pytorch_model.bin",
)  # in order of preference


def is_remote(source: str) -> bool:
    """Whether a source is a URL: ``http://``, ``https://``, ``file://`` or ``hf://``."""
    return re.match(r"(?:https?|file|hf)://", source) is not None


def digest_in_name(name: str) -> str | None:
    """Return the leading digits of a file's SHA-256 that end its name, as in ``resnet20-12fca82f.th``; else None."""
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if not found:
        return None
    return found[1]


def check_sha256(path: Path, expected: str, name: str) -> None:
    """Check a file against a SHA-256 or its leading digits.

    Raises:
        CheckpointError: they differ.
    """
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if not digest.hexdigest().startswith(expected.lower()):
        raise CheckpointError(f"{name} has the SHA-256 {digest.hexdigest()}, expected {expected}")


def cached_path(url: str) -> Path:
    """Return where the file of a URL is kept, in ``torch.hub``'s cache (``TORCH_HOME``).

    A name that carries its hash is unique and kept as it is, which is ``torch.hub``'s place for it. Any other one is
    preceded by a hash of its URL: every second file is called ``model.safetensors``.
    """
    name = Path(urlsplit(url).path).name or "weights"
    is_long = len(name.encode()) > LONGEST_NAME
    if is_long:
        name = f"weights{Path(name).suffix[:20]}"
    if is_long or digest_in_name(name) is None:
        name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def fetch_url(url: str, sha256: str | None = None, progress: bool = True, check: bool = True) -> Path:
    """Return the local path of a URL's file, after downloading it where the cache lacks it.

    Args:
        url: ``http://``, ``https://``, or ``file://``, which is read where it is.
        sha256: digest or its leading digits; None: those at the end of the file's name, if any.
        progress: show a progress bar.
        check: False: check no digest.

    Raises:
        CheckpointError: the SHA-256 is another one; a cached file that fails is removed.
        DownloadError: network, server or disk.
    """
    parts = urlsplit(url)
    if check:
        sha256 = sha256 or digest_in_name(parts.path)
    if parts.scheme == "file":
        path = Path(url2pathname(parts.path))
        if not is_file(path):
            raise FileNotFoundError(f"{url} is no file")  # to open a named pipe would wait for ever
        if sha256:
            check_sha256(path, sha256, url)
        return path
    path = cached_path(url)
    if not is_file(path):
        return _download(url, path, sha256, progress)
    try:
        if sha256:
            check_sha256(path, sha256, f"{path}, the copy of {url},")
    except CheckpointError as error:
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{error}; it has been removed: try again") from None
    return path


def fetch_hub(source: str) -> Path:
    """Return the local path of a file on the Hugging Face Hub, in its own cache (``HF_HOME``).

    Args:
        source: ``hf://org/repo[/file][@revision]``; without a file, the first that exists of ``model.safetensors`` and
            its older names.

    Raises:
        DownloadError: no such file, no network, or ``HF_HUB_OFFLINE`` without a cached copy.
        ValueError: not of that form.
    """
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@(.+))?", source)
    if found is None:
        raise ValueError(f"source must look like hf://org/repo[/file][@revision], got {source!r}")
    repo, file, revision = found.groups()
    names = HUB_FILES
    if file:
        names = (file,)
    reason, unreachable = None, False
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, local_files_only=unreachable))
        except EntryNotFoundError as error:
            unreachable = unreachable or isinstance(error, LocalEntryNotFoundError)  # then the cache is all there is
            reason = reason or error
        except (OSError, HFValidationError) as error:
            raise DownloadError(f"{source} cannot be fetched: {_reason(error)}") from error
    why = _reason(reason)
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set, and the cache lacks it"
    raise DownloadError(f"{source} cannot be fetched, looked for {', '.join(names)}: {why}") from reason


def _download(url: str, path: Path, sha256: str | None, progress: bool) -> Path:
    """Download into a file of its own, which takes its place in the cache in one step, and only when it is whole."""
    if constants.HF_HUB_OFFLINE and urlsplit(url).hostname not in LOOPBACK:
        raise DownloadError(f"{url} cannot be fetched: HF_HUB_OFFLINE is set, and {path} is not there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        with whole_file(path) as partial:
            with open(partial, "wb") as file:
                _copy(url, file, progress)
            if sha256:
                check_sha256(partial, sha256, url)
    except CheckpointError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection open
        raise DownloadError(f"{url} cannot be fetched to {path}: {_reason(error)}") from error
    return path


def is_file(path: Path) -> bool:
    """Return whether a regular file is there; False also for a name that the file system does not take."""
    try:
        return path.is_file()
    except OSError:
        return False


def _remove_leftovers(folder: Path) -> None:
    """Remove partial files of downloads that were killed."""
    for path in folder.glob("*.partial"):
        is_ours = re.search(r"\.[0-9a-f]{32}\.partial$", path.name) is not None
        with suppress(OSError):  # another process has removed it
            if is_ours and time.time() - path.stat().st_mtime > LEFTOVER_AGE:
                path.unlink()


def _copy(url: str, file: IO[bytes], progress: bool) -> None:
    with _open(url) as response:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        with tqdm(total=total, disable=not progress, unit="B", unit_scale=True, desc=Path(url).name) as bar:
            start = time.monotonic()
            # `read1` returns what has arrived: `read` would wait for a whole chunk of a server that sends single bytes.
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if time.monotonic() - start > PATIENCE + file.tell() / SLOWEST:
                    raise TimeoutError(f"the server is too slow: {file.tell()} bytes in more than {PATIENCE:g} s")
        if total is not None and file.tell() != total:
            raise ConnectionError(f"the transfer ended after {file.tell()} of {total} bytes")


def _open(url: str) -> Any:
    """Open a URL. A socket's time-out counts from byte to byte; the thread bounds the time until the answer begins."""
    answers: queue.Queue[Any] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urlopen(Request(url, headers={"User-Agent": "stodepth_models"}), timeout=TIMEOUT))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError(f"the server did not answer within {PATIENCE:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _reason(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"
