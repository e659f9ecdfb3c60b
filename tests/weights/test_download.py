"""Downloads end: slow servers, named pipes, names and folders that no file system takes, and what a kill leaves."""

import os
import socket
import threading
import time
from contextlib import suppress

import pytest
import torch

import stodepth_models as sdm
from stodepth_models.weights import download


@pytest.fixture
def model():
    return sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def drip():
    """A server that sends what it is given, one byte every 20 ms."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(content):
            def answer():
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.sendall(content[0])
                    while not stop.wait(0.02):
                        connection.sendall(content[1])

            threading.Thread(target=answer, daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}/weights.safetensors"

        yield serve
        stop.set()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"), "the server is too slow: "),
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"x"), "the server is too slow: "),
        ((b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"), "the server did not answer within 0.3 s"),
        ((b"", b"H"), "the server did not answer within 0.3 s"),
    ],
    ids=["content", "length unknown", "header", "status"],
)
def test_a_server_that_drips_is_not_waited_for(content, match, drip, model, cache, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    start = time.monotonic()
    with pytest.raises(sdm.DownloadError, match=match):
        sdm.load_pretrained(model, drip(content))
    assert time.monotonic() - start < 5
    assert not cache.exists() or list(cache.iterdir()) == []


@pytest.mark.parametrize("form", ["file://{}", "{}", "folder"])
def test_a_named_pipe_is_no_file(form, model, tmp_path):
    pipe = tmp_path / "model.safetensors"
    os.mkfifo(pipe)
    source = tmp_path if form == "folder" else form.format(pipe)
    with pytest.raises(FileNotFoundError, match=r"is no file|neither a file nor a folder|holds no weights"):
        sdm.load_pretrained(model, source)


@pytest.mark.parametrize("source", ["x" * 5000 + ".pth", "x" * 300 + "/a.pth", "file:///" + "x" * 300 + ".pth"])
def test_names_that_the_file_system_does_not_take_are_no_files(source, model):
    with pytest.raises(FileNotFoundError, match="no file"):
        sdm.load_pretrained(model, source)


def test_a_url_with_a_long_name_has_a_short_one_in_the_cache(cache):
    urls = [f"https://example.org/{letter * 400}.safetensors" for letter in "ab"]
    names = {download.cached_path(url).name for url in urls}
    assert len(names) == 2
    assert all(len(name) < 60 and name.endswith(".safetensors") for name in names)


def test_a_cache_below_a_file_is_a_download_error(model, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(sdm.DownloadError, match=r"NotADirectoryError|FileExistsError"):
        sdm.load_pretrained(model, "http://127.0.0.1:9/weights.safetensors")


def test_leftovers_of_killed_downloads_are_removed_by_age(model, cache):
    cache.mkdir(parents=True)
    old, new, foreign = [cache / f"a.{digits}.partial" for digits in ("0" * 32, "1" * 32, "mine")]
    for path in (old, new, foreign):
        path.write_bytes(b"")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    with pytest.raises(sdm.DownloadError):
        sdm.load_pretrained(model, "http://127.0.0.1:9/weights.safetensors")
    assert sorted(cache.iterdir()) == sorted([new, foreign])


def test_a_file_url_is_read_where_it_lies(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "a.pth")
    sdm.load_pretrained(model, (tmp_path / "a.pth").as_uri())
