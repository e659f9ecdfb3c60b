"""Data sets that torchvision fetches: its own downloading and reading, from a server on this machine."""

import hashlib
import io
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import torchvision.datasets as tv

from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.datasets import load_data

IMAGES = 12  # a file; CIFAR-10 has five of training images and one of test images


@pytest.fixture
def address(tmp_path):
    """Serve ``tmp_path / "served"`` and yield its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def cifar(tmp_path, address, monkeypatch):
    """Serve a small archive in the layout of CIFAR-10 under the address and digests that torchvision knows."""
    rng = np.random.default_rng(0)
    content = {"batches.meta": pickle.dumps({"label_names": [f"class{number}" for number in range(10)]})}
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        data = rng.integers(0, 256, (IMAGES, 3072), dtype=np.uint8)
        content[name] = pickle.dumps({"data": data, "labels": [number % 10 for number in range(IMAGES)]})
    archive = tmp_path / "served" / tv.CIFAR10.filename
    with tarfile.open(archive, "w:gz") as file:
        for name, data in content.items():
            info = tarfile.TarInfo(f"{tv.CIFAR10.base_folder}/{name}")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    digests = {name: hashlib.md5(data).hexdigest() for name, data in content.items()}
    monkeypatch.setattr(tv.CIFAR10, "url", f"{address}/{archive.name}")
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(tv.CIFAR10, "train_list", [[name, d] for name, d in digests.items() if "data" in name])
    monkeypatch.setattr(tv.CIFAR10, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(tv.CIFAR10, "meta", {**tv.CIFAR10.meta, "md5": digests["batches.meta"]})
    return {name: pickle.loads(data) for name, data in content.items() if "batch_" in name or name == "test_batch"}


def test_cifar10_is_downloaded_read_and_split(tmp_path, cifar):
    config = DataConfig(root=tmp_path / "data", valid_size=10)
    data = load_data(config)
    assert (len(data.train.labels), len(data.valid.labels), len(data.test.labels)) == (50, 10, IMAGES)
    assert data.classes[3] == "class3"
    planes = torch.from_numpy(cifar["test_batch"]["data"]).view(IMAGES, 3, 32, 32)
    assert torch.equal(data.test.images, planes.permute(0, 2, 3, 1))
    (tmp_path / "served" / tv.CIFAR10.filename).unlink()
    assert torch.equal(load_data(config).train.images, data.train.images)  # without a second download


def test_a_download_of_other_bytes_is_refused_in_one_line(tmp_path, cifar):
    archive = tmp_path / "served" / tv.CIFAR10.filename
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"^cifar10 cannot be read from data\.root=[^\n]*corrupted[^\n]*$"):
        load_data(DataConfig(root=tmp_path / "data", valid_size=10))
