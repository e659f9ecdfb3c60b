"""Files of another kind than weights: what they are, and how to come from them to weights."""

import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from pathlib import Path

ZIP = b"PK\x03\x04"
HEAD = 512  # bytes by which one kind differs from another

_SAVE = "save the weights as a state dict with torch.save"
_JOIN = "write one file with torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, 'weights.pth')"
_UNPACK = "unpack it and give the file that is in it"

# First bytes, what the file is, and the next step.
_STARTS = (
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself with `git lfs pull`"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", f"read it with h5py, and {_SAVE}"),
    (b"GGUF", "a GGUF file of quantised weights", "give the file that it was converted from"),
    (b"TFL3", "a TensorFlow Lite file", "give the file that it was converted from"),
    (b"\x93NUMPY", "a NumPy array (.npy)", f"read it with numpy.load, and {_SAVE}"),
    (b"\x1f\x8b", "compressed by gzip", "unpack it with `gunzip` or `tar -xf`"),
    (b"BZh", "compressed by bzip2", "unpack it with `bunzip2` or `tar -xf`"),
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it with `unxz` or `tar -xf`"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", "unpack it with `unzstd`"),
    (b"\x04\x22\x4d\x18", "compressed by LZ4", "unpack it with `unlz4`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"PK\x05\x06", "an empty zip archive", "download it again"),
    (b"\x89PNG", "an image", "give the file of the weights"),
    (b"\xff\xd8\xff", "an image", "give the file of the weights"),
    (b"%PDF", "a PDF document", "give the file of the weights"),
    (bytes(64), "zeros at its beginning, as a download that was broken off leaves them", "download it again"),
)
# The version of the format, then a text, a number or a message: how protocol buffers of ONNX begin.
_ONNX = re.compile(rb"\x08[\x01-\x20][\x12\x1a\x22\x28\x32\x3a\x42]")


def kind_of_head(head: bytes) -> str | None:
    """Return what a file is and the next step, for a message; None where its first bytes name no other kind.

    Args:
        head: the first ``HEAD`` bytes, or all of a shorter file.
    """
    for start, kind, remedy in _STARTS:
        if head.startswith(start):
            return _sentence(kind, remedy)
    if head[4:8] == b"TFL3":
        return _sentence("a TensorFlow Lite file", "give the file that it was converted from")
    if head[257:262] == b"ustar":
        return _sentence("a tar archive", "unpack it with `tar -xf` and give the file that is in it")
    if _ONNX.match(head):
        return _sentence("an ONNX model, or another protocol buffer", f"in the program that exported it, {_SAVE}")
    start = head.removeprefix(BOM_UTF8).lstrip()
    if start.startswith(b"<"):
        return "is a web page (HTML or XML), not weights: check the address"
    # A pickle of the oldest form begins with a brace, too, but soon has bytes that are no text.
    if start.startswith((b"{", b"[")) and _is_text(head):
        return _sentence("JSON text", "give the file of the weights that belongs to it")
    return None


def kind_of_text(head: bytes) -> str | None:
    """Return what a file that could not be read is and the next step, where its first bytes are text."""
    if not _is_text(head):
        return None
    return _sentence("text", "give the file of the weights, or check the address")


def kind_of_archive(names: Iterable[str]) -> str | None:
    """Return what a file in zip form is and the next step; None for what ``torch.save`` writes.

    Args:
        names: of its entries, without the folder that they all lie in.
    """
    names = set(names)
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return _sentence("a TorchScript archive", "save torch.jit.load(FILE).state_dict() with torch.save")
    if "data.pkl" in names:
        return None
    if "archive_format" in names or any(name.startswith(("models/", "serialized_")) for name in names):
        return _sentence("a program of torch.export", "save torch.export.load(FILE).state_dict with torch.save")
    if names and all(name.endswith(".npy") for name in names):
        return _sentence("an archive of NumPy arrays (.npz)", f"read it with numpy.load, and {_SAVE}")
    if "model.weights.h5" in names:
        return _sentence("a model of Keras", f"read its weights with Keras, and {_SAVE}")
    return _sentence("a zip archive of other files", _UNPACK)


def kind_of_pickle(names: Iterable[str]) -> str | None:
    """Return what a pickle that was refused is and the next step; None where its classes do not show it.

    Args:
        names: of the classes and functions that it asks for.
    """
    names = sorted(names)
    for name in names:
        if name.startswith("torch.distributed.checkpoint."):
            return _sentence("the index of a distributed checkpoint", _JOIN)
    for name in names:
        if name.startswith(("torch.nn.modules.", "torch.fx.", "torch.jit.", "torchvision.models.", "timm.")):
            return (
                f"is a whole pickled model (it asks for {name}), and pickles are read as weights only: in the program "
                "that wrote it, save model.state_dict() with torch.save"
            )
    for name in names:
        if name.startswith("torchao."):
            return _sentence(f"weights that were quantised by torchao ({name})", "give those before quantisation")
    for name in names:
        if name.startswith("numpy."):
            return (
                f"holds NumPy values (it asks for {name}), and pickles are read as weights only: turn them into "
                "tensors with torch.from_numpy, or save the state dict alone with torch.save"
            )
    return None


def kind_of_path(path: Path) -> str | None:
    """Return what a file or folder is and the next step, where it belongs to a distributed checkpoint."""
    if path.is_dir():
        if (path / ".metadata").is_file() or next(path.glob("*.distcp"), None) is not None:
            return _sentence("the folder of a distributed checkpoint", _JOIN)
    elif path.suffix == ".distcp" or path.name == ".metadata":
        return _sentence("a part of a distributed checkpoint", _JOIN)
    return None


def kind_of_shard() -> str:
    """Return what a file of several archives is and the next step."""
    return _sentence("several archives in one, as parts of a distributed checkpoint are", _JOIN)


def _sentence(kind: str, remedy: str) -> str:
    return f"is {kind}, not weights: {remedy}"


def _is_text(head: bytes) -> bool:
    try:
        text = head.removeprefix(BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        # The last character may be cut off.
        if error.start < len(error.object) - 3:
            return False
        text = error.object[: error.start].decode()
    return all(character.isprintable() or character in "\r\n\t\f" for character in text)
