"""Pickles ask for no memory that their file does not hold, and damage to archives is noticed."""

import io
import random
import struct
import zipfile

import pytest
import torch

import stodepth_models as sdm
from stodepth_models.weights.checkpoint import read_file


def tiny():
    """A model of one small block."""
    torch.manual_seed(0)
    return sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4]).eval()


WEIGHTS = {
    key: torch.randn_like(value) if value.is_floating_point() else value for key, value in tiny().state_dict().items()
}


def saved(content=WEIGHTS, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def with_pickle(content, whole=None):
    """An archive of ``torch.save`` with another pickle in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole or saved())) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            is_pickle = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, content if is_pickle else source.read(entry))
    return buffer.getvalue()


def old_form(content):
    """A file of the form before PyTorch 1.6 with another pickle of the object."""
    whole = saved({}, _use_new_zipfile_serialization=False)
    start = whole.rindex(b"\x80\x02}q\x00.")
    return whole[:start] + content + b"\x80\x02]q\x00."


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def call(module, name, *arguments, opcode=b"R"):
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"t" + opcode


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(numel, key="0", kind="FloatStorage"):
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(numel) + b"tQ"


def sizes(*lengths):
    return b"(" + b"".join(map(number, lengths)) + b"t"


def tensor(held, shape, strides, function="_rebuild_tensor_v2"):
    arguments = (held, number(0), sizes(*shape), sizes(*strides), b"\x89", call("collections", "OrderedDict"))
    return call("torch._utils", function, *arguments)


def as_weight(value):
    return b"\x80\x02}" + text("fc.weight") + value + b"s."


ORDERED = call("collections", "OrderedDict")
GIB = 2**30
HELD = WEIGHTS["conv1.weight"].numel()  # values in the first record
ASKING = {
    "bytearray": call("builtins", "bytearray", number(GIB)),
    "bytearray of Python 2": call("__builtin__", "bytearray", number(GIB)),
    "new bytearray": call("builtins", "bytearray", number(GIB), opcode=b"\x81"),
    "tensor": call("torch", "Tensor", number(GIB)),
    "float tensor": call("torch", "FloatTensor", number(GIB)),
    "new float tensor": call("torch", "FloatTensor", number(GIB), opcode=b"\x81"),
    "storage": call("torch.storage", "UntypedStorage", number(GIB)),
    "storage by size": call("torch", "FloatTensor", call("torch", "Size", sizes(GIB))),
    "through another function": call(
        "torch._tensor", "_rebuild_from_type_v2", b"cbuiltins\nbytearray\n", b"ctorch\nTensor\n", sizes(GIB), b"}"
    ),
    "bytes of bytes": call("_codecs", "encode", call("_codecs", "encode", text("a" * 50), text("latin1")), text("hex")),
    "bytes by an array": call("builtins", "bytearray", tensor(storage(HELD), (1,), (1,))),
    "expanded classifier": tensor(storage(HELD), (10**7, 64), (0, 0)),
    "expanded parameter": call(
        "torch._utils", "_rebuild_parameter", tensor(storage(HELD), (10**7, 64), (0, 0)), b"\x89", b"}"
    ),
    "expanded and copied": call(
        "torch._utils", "_rebuild_device_tensor_from_cpu_tensor", tensor(storage(HELD), (GIB,), (0,)),
        b"ctorch\nfloat64\n", text("cpu"), b"\x89",
    ),
    "quantised": tensor(storage(HELD), (GIB,), (0,), "_rebuild_qtensor"),
    "size in a list": call(
        "torch._utils", "_rebuild_tensor_v2", storage(HELD), number(0), b"](" + number(GIB) + b"e",
        b"](" + number(0) + b"e", b"\x89", call("collections", "OrderedDict"),
    ),
    "storage without a record": tensor(storage(GIB, "missing"), (GIB,), (1,)),
    "storage larger than its record": tensor(storage(GIB), (GIB,), (1,)),
    "negative storage": tensor(storage(-1), (1,), (1,)),
    "unknown storage": tensor(storage(4, kind="HugeStorage"), (1,), (1,)),
    "many sets": b"(" + b"(" + b"N" * 20000 + b"tq\x00" + call("builtins", "set", b"h\x00") * 600 + b"t",
    "many texts": b"(" + text("x" * 10**5) + b"q\x00"
    + call("_codecs", "encode", b"h\x00", text("latin1")) * 200 + b"t",
}  # fmt: skip


@pytest.mark.parametrize("form", ["archive", "old"])
@pytest.mark.parametrize("name", ASKING)
def test_a_pickle_that_asks_for_memory_is_refused_before_pytorch_reads_it(name, form, tmp_path, monkeypatch):
    content = as_weight(ASKING[name])
    path = tmp_path / "net.pth"
    path.write_bytes(with_pickle(content) if form == "archive" else old_form(content))
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("PyTorch reads it"))
    with pytest.raises(sdm.CheckpointError, match=r"net\.pth is (refused|damaged).*torch\.save"):
        sdm.load_pretrained(tiny(), path)


def test_the_pickles_above_are_otherwise_read(tmp_path):
    """The same bytes with what the file holds: the refusals are for what they ask."""
    path = tmp_path / "net.pth"
    held = len(WEIGHTS["conv1.weight"].flatten())
    first = next(iter(WEIGHTS))
    assert first == "conv1.weight"
    for value in (
        tensor(storage(held), (held,), (1,)),
        tensor(storage(held), (2, held // 2), (held // 2, 1)),
        call("torch._utils", "_rebuild_parameter", tensor(storage(held), (held,), (1,)), b"\x89", ORDERED),
    ):
        path.write_bytes(with_pickle(as_weight(value)))
        found = read_file(path, "net.pth").state_dict["fc.weight"]
        assert torch.equal(found.flatten(), WEIGHTS["conv1.weight"].flatten())


TYPES = (
    *(torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.complex64, torch.complex128),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64),
)
BESIDE = {
    "optimizer": lambda: {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}, "groups": [{"lr": 0.1}]},
    "numbers": lambda: [1, 2.5, 10**30, -7, True, None, 1 + 2j],
    "texts": lambda: ("a", "é" * 300, b"bytes", bytearray(b"array"), {"set", "of", "texts"}),
    "sizes": lambda: torch.Size([2, 3]),
    "types": lambda: (torch.float32, torch.device("cpu")),
    "random": lambda: torch.get_rng_state(),
    "views": lambda: (torch.arange(10.0)[::2], torch.ones(1).expand(1000), torch.ones(3, 4).t(), torch.empty(0)),
    "types of tensors": lambda: [torch.ones(2, dtype=kind) for kind in TYPES],
    "sparse": lambda: torch.eye(3).to_sparse(),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "meta": lambda: torch.ones(5, device="meta"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("form", [{}, {"_use_new_zipfile_serialization": False}], ids=["archive", "old"])
@pytest.mark.parametrize("name", BESIDE)
def test_what_training_scripts_keep_beside_weights_is_read(name, form, tmp_path):
    if form and name == "types of tensors":
        pytest.skip("the old form holds no such storages")
    path = tmp_path / "net.pth"
    path.write_bytes(saved({"state_dict": WEIGHTS, "beside": BESIDE[name](), "epoch": 3}, **form))
    model = sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4])
    sdm.load_pretrained(model, path)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in WEIGHTS.items())


EXPANDED = {"fc.weight": torch.zeros(1).expand(10**7, 64), "fc.bias": torch.zeros(1).expand(10**7)}


def test_a_classifier_without_memory_of_its_own_is_refused_before_a_network_is_built(monkeypatch, tmp_path):
    state = {**sdm.cifar_resnet20_stodepth_lineardecay().state_dict(), **EXPANDED}
    path = tmp_path / "net.pth"
    path.write_bytes(saved(state))
    assert path.stat().st_size < 2**21
    built = []
    original = torch.nn.Linear.__init__

    def watched(self, inputs, outputs, *args, **kwargs):
        built.append(outputs)
        original(self, inputs, outputs, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Linear, "__init__", watched)
    for source in (path, state):
        with pytest.raises(sdm.CheckpointError, match=r"is declared over the 1 values that"):
            sdm.cifar_resnet20_stodepth_lineardecay(weights=source)
    assert max(built) == 10


def flipped(whole, position, bit):
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def test_a_flipped_bit_in_the_directory_of_an_archive_changes_no_weight(tmp_path):
    whole = saved()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        directory = archive.start_dir
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith("data/3"))
    record = whole.index(entry.filename.encode(), directory) - 46
    # The record of one entry and the end of the directory. Bit 4 of its attributes makes an entry a folder.
    places = [*range(record, record + 46 + len(entry.filename)), *range(len(whole) - 22, len(whole))]
    path, outcomes = tmp_path / "net.pth", []
    for position in places:
        for bit in (0, 4, 7):
            path.write_bytes(flipped(whole, position, bit))
            try:
                state = read_file(path, "net.pth").state_dict
            except sdm.CheckpointError:
                outcomes.append("refused")
                continue
            assert all(torch.equal(state[key], value) for key, value in WEIGHTS.items()), (position, bit)
            outcomes.append("the same")
    assert outcomes.count("refused") > outcomes.count("the same")


def test_flipped_bits_anywhere_in_an_archive_change_no_weight(tmp_path):
    whole, path, rng = saved(), tmp_path / "net.pth", random.Random(0)
    for _ in range(150):
        path.write_bytes(flipped(whole, rng.randrange(len(whole)), rng.randrange(8)))
        try:
            state = read_file(path, "net.pth").state_dict
        except sdm.CheckpointError:
            continue
        assert all(torch.equal(state[key], value) for key, value in WEIGHTS.items())


def test_entries_that_overlap_are_refused(tmp_path):
    """A directory that names the same bytes many times makes a small file large."""
    whole = saved()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        directory = archive.start_dir
    size = whole.index(b"archive/data/0", directory) - 46 + 20
    damaged = bytearray(whole)
    for offset in (size, size + 4):
        damaged[offset : offset + 4] = struct.pack("<I", len(whole) * 2)
    path = tmp_path / "net.pth"
    path.write_bytes(damaged)
    with pytest.raises(sdm.CheckpointError, match="is a damaged archive: its entries are longer than the file"):
        read_file(path, "net.pth")


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_newer_protocol_is_named_with_a_way_out(tmp_path, is_archive):
    path = tmp_path / "a.pth"
    path.write_bytes(saved(pickle_protocol=4, _use_new_zipfile_serialization=is_archive))
    expected = (
        r"a\.pth is refused: it has the opcode \w+ of pickle protocol 4, and PyTorch reads weights in protocol 2, its "
        r"default; save its state dict alone with torch\.save"
    )
    with pytest.raises(sdm.CheckpointError, match=expected):
        read_file(path, "a.pth")
