"""What goes wrong with files and servers ends in an error that names file and cause, and the next try succeeds."""

import contextlib
import errno
import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

import stodepth_models as sdm
from stodepth_models.weights import download as fetch

FAST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tiny():
    """A model of one small block."""
    torch.manual_seed(0)
    return sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4]).eval()


WEIGHTS = {key: value.clone() for key, value in tiny().state_dict().items()}
SAFETENSORS = save(WEIGHTS)
DIGEST = hashlib.sha256(SAFETENSORS).hexdigest()


def assert_loaded(model):
    assert all(torch.equal(model.state_dict()[key], value) for key, value in WEIGHTS.items())


class Server(ThreadingHTTPServer):
    """Answers every path with ``content``, after going through ``faults``."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.faults, self.requests = SAFETENSORS, [], 0

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "missing":
            self.send_error(404)
            return
        content = self.server.content
        body = {"page": b"\n<!DOCTYPE html><html>sign in</html>", "other": content + b"!"}.get(fault, content)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        if fault == "slow":
            time.sleep(1)
        if fault != "cut":
            self.wfile.write(body[half:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def files(cache):
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


HASHED = f"tiny-{DIGEST[:8]}.safetensors"


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        ("cut", sdm.DownloadError, r"the transfer ended after \d+ of \d+ bytes"),
        ("other", sdm.CheckpointError, rf"has the SHA-256 [0-9a-f]{{64}}, expected {DIGEST[:8]}"),
        ("page", sdm.CheckpointError, "has the SHA-256"),
        ("missing", sdm.DownloadError, "HTTP Error 404"),
    ],
)
def test_a_download_that_fails_leaves_nothing_and_the_next_one_succeeds(fault, error, match, server, cache):
    server.faults.append(fault)
    model, url = tiny(), server.url(HASHED)
    torch.nn.init.zeros_(model.fc.weight)
    with pytest.raises(error, match=match) as caught:
        sdm.load_pretrained(model, url)
    assert HASHED in str(caught.value)
    assert files(cache) == []
    sdm.load_pretrained(model, url)
    assert_loaded(model)
    assert files(cache) == [HASHED]


def test_a_server_that_says_nothing_is_not_waited_for(cache, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{HASHED}"
        with pytest.raises(sdm.DownloadError, match=f"{HASHED} cannot be fetched to .*: TimeoutError: timed out"):
            sdm.load_pretrained(tiny(), url)
    assert files(cache) == []


@pytest.mark.parametrize("progress", [True, False])
def test_the_progress_bar_can_be_turned_off(progress, server, cache, capsys):
    weights = sdm.cifar_resnet20_stodepth_lineardecay().state_dict()
    server.content = save({key: value.clone() for key, value in weights.items()})
    sdm.cifar_resnet20_stodepth_lineardecay(weights=server.url("resnet20.safetensors"), progress=progress)
    assert ("resnet20.safetensors: 100%" in capsys.readouterr().err) is progress


@pytest.mark.parametrize(("fault", "match"), [("page", r"is a web page"), ("other", "is a damaged safetensors file")])
def test_a_file_without_a_known_hash_that_cannot_be_read_is_not_kept(fault, match, server, cache):
    server.faults.append(fault)
    url = server.url("model.safetensors")
    with pytest.raises(sdm.CheckpointError, match=rf"model\.safetensors {match}"):
        sdm.load_pretrained(tiny(), url)
    assert files(cache) == []
    sdm.load_pretrained(tiny(), url)
    assert len(files(cache)) == 1


def test_a_file_gets_its_name_in_the_cache_only_when_it_is_whole(server, cache, monkeypatch):
    copy, seen = fetch._copy, []

    def watched(url, file, progress):
        copy(url, file, progress)
        file.flush()
        seen.extend(files(cache))

    monkeypatch.setattr(fetch, "_copy", watched)
    sdm.load_pretrained(tiny(), server.url(HASHED))
    [name] = seen
    assert name.startswith(HASHED)
    assert name.endswith(".partial")
    assert files(cache) == [HASHED]


def test_a_full_disk(server, cache, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_copy", full)
        with pytest.raises(sdm.DownloadError, match=rf"{HASHED} cannot be fetched to .*No space left on device"):
            sdm.load_pretrained(tiny(), server.url(HASHED))
    assert files(cache) == []
    sdm.load_pretrained(tiny(), server.url(HASHED))


def test_a_second_load_asks_no_server_but_checks_the_hash(server, cache):
    url = server.url(HASHED)
    for _ in range(2):
        sdm.load_pretrained(tiny(), url)
    assert server.requests == 1
    (cache / HASHED).write_bytes(SAFETENSORS[:-1])
    with pytest.raises(sdm.CheckpointError, match=rf"{HASHED}.* has the SHA-256 .*; it has been removed: try again"):
        sdm.load_pretrained(tiny(), url)
    assert files(cache) == []
    sdm.load_pretrained(tiny(), url)
    assert server.requests == 2


def test_files_of_the_same_name_do_not_meet_in_the_cache(server, cache):
    for folder in ("one", "two"):
        sdm.load_pretrained(tiny(), server.url(f"{folder}/model.safetensors"))
    assert server.requests == len(files(cache)) == 2


def test_check_hash_is_checked_for_urls_and_paths(server, cache, tmp_path):
    sdm.load_pretrained(tiny(), server.url("a.safetensors"), check_hash=DIGEST)
    with pytest.raises(sdm.CheckpointError, match="expected 0123456789"):
        sdm.load_pretrained(tiny(), server.url("b.safetensors"), check_hash="0123456789")
    path = tmp_path / HASHED
    path.write_bytes(SAFETENSORS)
    sdm.load_pretrained(tiny(), path, check_hash=True)
    sdm.load_pretrained(tiny(), path.as_uri(), check_hash=DIGEST.upper())
    with pytest.raises(sdm.CheckpointError, match="expected 0123456789"):
        sdm.load_pretrained(tiny(), path, check_hash="0123456789")
    path = path.rename(tmp_path / "plain-00000000.safetensors")
    sdm.load_pretrained(tiny(), path)
    with pytest.raises(sdm.CheckpointError, match="expected 00000000"):
        sdm.load_pretrained(tiny(), path.as_uri())
    with pytest.raises(ValueError, match=r"check_hash must be 8 to 64 hexadecimal digits.*got 'abc'"):
        sdm.load_pretrained(tiny(), path, check_hash="abc")


def test_check_hash_is_for_files():
    for source in (WEIGHTS, "CifarResNet20_Weights.CIFAR10_IDELBAYEV"):
        with pytest.raises(ValueError, match="check_hash is for files and URLs, got '01234567'"):
            sdm.load_pretrained(tiny(), source, check_hash="01234567")


def test_torchvisions_files_are_checked_in_the_cache_too(cache, monkeypatch):
    member = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    cache.mkdir(parents=True)
    (cache / "resnet18-f37072fd.pth").write_bytes(b"something else")
    with pytest.raises(sdm.CheckpointError, match=r"resnet18-f37072fd\.pth.* has the SHA-256 .*, expected f37072fd"):
        sdm.load_pretrained(tiny(), member)
    assert files(cache) == []

    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(
        sdm.DownloadError, match=r"resnet18-f37072fd\.pth cannot be fetched: URLError.*no route to host"
    ):
        sdm.load_pretrained(tiny(), member)


SECOND_PROCESS = """
import sys, torch, stodepth_models as sdm
model = sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4])
sdm.load_pretrained(model, sys.argv[1])
print(model.fc.weight.sum().item())
"""


def run(code, *arguments, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_ask_for_the_same_file_at_once(server, cache):
    server.faults += ["slow", "slow"]
    processes = [run(SECOND_PROCESS, server.url(HASHED)) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert {float(out) for out, _ in outputs} == {WEIGHTS["fc.weight"].sum().item()}
    assert files(cache) == [HASHED]
    assert (cache / HASHED).read_bytes() == SAFETENSORS


OFFLINE = """
import sys, torch, stodepth_models as sdm
from pathlib import Path
path, hashed = Path(sys.argv[1]), sys.argv[2]
def tiny(): return sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4])
for source in (path, path.as_uri(), torch.load(path, weights_only=True), "hf://org/cached", "hf://org/cached@main",
               f"https://example.org/{hashed}"):
    sdm.load_pretrained(tiny(), source)
for source in ("hf://org/other", "https://example.org/weights.pth"):
    try:
        sdm.load_pretrained(tiny(), source)
    except sdm.DownloadError as error:
        print(error)
"""


def test_offline_local_sources_and_caches_work_and_remote_ones_say_why_not(tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save(WEIGHTS, path)
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / HASHED).write_bytes(SAFETENSORS)
    repo, commit = tmp_path / "hf" / "hub" / "models--org--cached", "0" * 40
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "model.safetensors").write_bytes(SAFETENSORS)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    homes = {"TORCH_HOME": str(tmp_path / "torch"), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    process = run(OFFLINE, str(path), HASHED, **homes)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    hub, web = out.splitlines()
    assert hub.startswith("hf://org/other cannot be fetched")
    assert "HF_HUB_OFFLINE" in hub
    assert web.startswith("https://example.org/weights.pth cannot be fetched: HF_HUB_OFFLINE is set")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_has_not_run(by_torch, protocol, tmp_path):
    path, effect = tmp_path / "evil.pth", tmp_path / "effect"
    content = {"extra": Evil(effect), "state_dict": WEIGHTS}
    if by_torch:
        torch.save(content, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(sdm.CheckpointError, match=r"evil\.pth is .*(posix\.mkdir|it has the opcode)"):
        sdm.load_pretrained(tiny(), path)
    assert not effect.exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", r"is empty"),
        (b"<html></html>", r"is a web page"),
        (b"<script>{}</script>", r"is a web page"),
        (b"not weights at all", r"is text, not weights"),
        (b"\x80\x02not a pickle \x00\x01", r"is damaged or not a checkpoint"),
        (SAFETENSORS[:-10], r"is a damaged safetensors file"),
        (b"\xff" * 7 + b"\x7f" + SAFETENSORS[8:], r"is a damaged safetensors file"),
        (SAFETENSORS.replace(b'"F32"', b'"Q32"', 1), r"is a damaged safetensors file"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(content, match, tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(sdm.CheckpointError, match=rf"broken\.safetensors {match}"):
        sdm.load_pretrained(tiny(), path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "must hold a state dict, got a list"),
        ({"epoch": 3}, r"must hold named tensors, got the keys \['epoch'\]"),
        ({"state_dict": {}}, r"must hold named tensors, got the keys \['state_dict'\]"),
        (
            {"fc.weight": torch.zeros(1), "linear.weight": torch.zeros(1)},
            "the same weight twice, as 'fc.weight' and as",
        ),
    ],
)
def test_checkpoints_without_a_state_dict_are_named(content, match, tmp_path):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(sdm.CheckpointError, match=rf"odd\.pt .*{match}"):
        sdm.load_pretrained(tiny(), tmp_path / "odd.pt")


@pytest.mark.parametrize(
    "config",
    [
        "{",
        '{"builder": "x", "survival_probs": [2], "rescale": "eval"}',
        '{"builder": "x", "survival_probs": [1], "rescale": "sometimes"}',
    ],
)
def test_damaged_configurations_are_named(config, tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors", {"stodepth_models": config})
    with pytest.raises(sdm.CheckpointError, match=r"model\.safetensors.*(configuration|survival_probs|rescale)"):
        sdm.load_pretrained(tiny(), tmp_path)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.zeros(4, dtype=torch.int32), "int32: give the weights in floating point"),
        (torch.zeros(4, dtype=torch.complex64), "complex64: give the weights in floating point"),
        (torch.zeros(4).to_sparse(), r"sparse_coo: call to_dense\(\)"),
        (torch.zeros(4, device="meta"), "one on the meta device"),
    ],
    ids=str,
)
def test_tensors_of_another_kind_are_refused(tensor, match):
    model = tiny()
    with pytest.raises(sdm.CheckpointError, match=rf"bn1\.bias must be a dense tensor of torch\.float32, .*{match}"):
        sdm.load_pretrained(model, {**WEIGHTS, "bn1.bias": tensor, "conv1.weight": torch.ones(4, 3, 3, 3)})
    assert_loaded(model)


def test_values_that_are_not_numbers_are_counted():
    bad = {**WEIGHTS, "fc.bias": torch.full((10,), float("nan")), "bn1.bias": torch.tensor([0, 1, 2, float("inf")])}
    with pytest.warns(UserWarning, match=r"11 values in 2 of \d+ tensors are nan or infinite, first in bn1\.bias"):
        sdm.load_pretrained(tiny(), bad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_other_precisions_load_into_float32(dtype, suffix, tmp_path):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in WEIGHTS.items()}
    (save_file if suffix == "safetensors" else torch.save)(state, tmp_path / f"half.{suffix}")
    model = tiny()
    sdm.load_pretrained(model, tmp_path / f"half.{suffix}")
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, state["fc.weight"].float())


def _saved(**options):
    buffer = io.BytesIO()
    torch.save(WEIGHTS, buffer, **options)
    return buffer.getvalue()


def _damaged(content):
    """Truncated anywhere, or with a few bits flipped; most often in the first kilobyte, which describes the rest."""
    position = st.one_of(st.integers(0, min(1024, len(content) - 1)), st.integers(0, len(content) - 1))
    flips = st.lists(st.tuples(position, st.integers(0, 7)), min_size=1, max_size=4)
    return st.one_of(position.map(lambda end: content[:end]), flips.map(lambda bits: _flip(content, bits)))


def _flip(content, bits):
    damaged = bytearray(content)
    for position, bit in bits:
        damaged[position] ^= 1 << bit
    return bytes(damaged)


FORMATS = {"safetensors": SAFETENSORS, "zip": _saved(), "pickle": _saved(_use_new_zipfile_serialization=False)}


@FAST
@given(data=st.data(), kind=st.sampled_from(list(FORMATS)))
def test_damaged_files_end_in_documented_errors_only(data, kind, tmp_path):
    path = tmp_path / "fuzzed.bin"
    path.write_bytes(data.draw(_damaged(FORMATS[kind])))
    with warnings.catch_warnings(), contextlib.suppress(sdm.CheckpointError):
        warnings.simplefilter("ignore")
        sdm.load_pretrained(tiny(), path)
