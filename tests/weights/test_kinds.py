"""Files of another kind are named by their content, with a next step that exists."""

import argparse
import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
import torch
import torch.distributed.checkpoint as dcp
import torchvision
from onnx import helper
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import stodepth_models as sdm


def tiny():
    """A model of one small block."""
    torch.manual_seed(0)
    return sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4]).eval()


WEIGHTS = {key: value.clone() for key, value in tiny().state_dict().items()}


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def scripted():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def exported():
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), buffer)
    return buffer.getvalue()


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


def arrays():
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value.numpy() for name, value in WEIGHTS.items()})
    return buffer.getvalue()


def array():
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def taped():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO(b""))
    return buffer.getvalue()


def exchanged():
    node = helper.make_node("Relu", ["x"], ["y"])
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    return helper.make_model(helper.make_graph([node], "g", value[:1], value[1:])).SerializeToString()


NUMPY = {name: value.numpy() for name, value in WEIGHTS.items()}
KINDS = {
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        r"pointer of Git LFS.*git lfs pull",
    ),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), r"HDF5 file.*h5py.*torch\.save"),
    "ONNX": (exchanged, r"ONNX model.*torch\.save"),
    "TorchScript": (scripted, r"TorchScript archive.*torch\.jit\.load\(FILE\)\.state_dict\(\)"),
    "torch.export": (exported, r"program of torch\.export.*torch\.export\.load\(FILE\)\.state_dict"),
    "tar": (taped, r"tar archive.*tar -xf"),
    "gzip": (lambda: gzip.compress(saved(WEIGHTS)), r"compressed by gzip.*gunzip"),
    "bzip2": (lambda: bz2.compress(saved(WEIGHTS)), r"compressed by bzip2.*bunzip2"),
    "xz": (lambda: lzma.compress(saved(WEIGHTS)), r"compressed by xz.*unxz"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00" + bytes(range(40, 90)), r"compressed by Zstandard.*unzstd"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(range(40, 90)), r"compressed by LZ4.*unlz4"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(range(40, 90)), "7-Zip archive.*unpack it"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(range(40, 90)), "RAR archive.*unpack it"),
    "zip": (lambda: archive(weights_pth=saved(WEIGHTS)), "zip archive of other files.*unpack it"),
    "empty zip": (archive, "empty zip archive.*download it again"),
    "keras": (lambda: archive(model_weights_h5=b"", config_json=b"{}"), "model of Keras"),
    "npy": (array, r"NumPy array \(\.npy\).*numpy\.load"),
    "npz": (arrays, r"archive of NumPy arrays \(\.npz\).*numpy\.load"),
    "pickled arrays": (lambda: pickle.dumps(NUMPY), r"holds NumPy values.*torch\.from_numpy"),
    "old pickled arrays": (lambda: pickle.dumps(NUMPY, 2), r"holds NumPy values.*torch\.from_numpy"),
    "saved arrays": (lambda: saved(NUMPY), r"holds NumPy values.*torch\.from_numpy"),
    "NumPy beside": (
        lambda: saved({"model": WEIGHTS, "best": np.float64(3.5)}),
        r"holds NumPy values.*state dict alone",
    ),
    "whole model": (lambda: saved(torchvision.models.resnet18()), r"whole pickled model.*model\.state_dict\(\)"),
    "own model": (lambda: saved(tiny()), r"whole pickled model.*model\.state_dict\(\)"),
    "old whole model": (
        lambda: saved(tiny(), _use_new_zipfile_serialization=False),
        r"whole pickled model.*model\.state_dict\(\)",
    ),
    "pickled model": (lambda: pickle.dumps(torch.nn.Linear(2, 2)), r"whole pickled model.*model\.state_dict\(\)"),
    "pickled tensors": (lambda: pickle.dumps(WEIGHTS, 2), r"was written by pickle\.dump, not by torch\.save"),
    "pickled state dict": (
        lambda: pickle.dumps(tiny().state_dict()),
        r"was written by pickle\.dump, not by torch\.save",
    ),
    "settings beside": (
        lambda: saved({"model": WEIGHTS, "args": argparse.Namespace(lr=0.1)}),
        r"asks to run argparse\.Namespace.*state dict alone",
    ),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(range(40, 90)), "GGUF file"),
    "TFLite": (b"\x1c\x00\x00\x00TFL3" + bytes(range(40, 90)), "TensorFlow Lite"),
    "JSON": (json.dumps({"metadata": {}, "weight_map": {"a": "b"}}, indent=2).encode(), "JSON text"),
    "JSON whose ninth byte is a brace": (b'{"abcde":{"b": 1}}' + b" " * 40, "JSON text"),
    "JSON list": (b"[1, 2, 3]", "JSON text"),
    "HTML": (b"<!DOCTYPE html><html>sign in</html>", "web page"),
    "HTML behind a mark": ("\ufeff<!DOCTYPE html><html></html>".encode(), "web page|text"),
    "XML": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
    "text": (b"404: Not Found", "text, not weights.*check the address"),
    "text of another alphabet": ("не найдено\n".encode() * 60, "text, not weights"),
    "YAML": (b"model:\n  depth: 20\n", "text, not weights"),
    "CSV": (b"epoch,loss\n1,2.5\n" * 100, "text, not weights"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(50), "an image"),
    "zeros": (bytes(1000), "zeros at its beginning.*download it again"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named_with_the_next_step(kind, suffix, tmp_path):
    content, match = KINDS[kind]
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content())
    with pytest.raises(sdm.CheckpointError, match=rf"net\.{suffix} .*({match})") as caught:
        sdm.load_pretrained(tiny(), path)
    assert "weights_only=False" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_distributed_checkpoints_are_named_and_the_way_out_works(tmp_path):
    folder = tmp_path / "sharded"
    dcp.save({"model": WEIGHTS}, checkpoint_id=folder, no_dist=True)
    shard = next(folder.glob("*.distcp"))
    copy = tmp_path / "copy.pth"
    copy.write_bytes(shard.read_bytes())
    for path in (folder, shard, folder / ".metadata", copy):
        with pytest.raises(sdm.CheckpointError, match=r"distributed checkpoint.*format_utils\.dcp_to_torch_save"):
            sdm.load_pretrained(tiny(), path)
    (folder / ".metadata").rename(tmp_path / "index.pth")
    with pytest.raises(sdm.CheckpointError, match=r"index of a distributed checkpoint"):
        sdm.load_pretrained(tiny(), tmp_path / "index.pth")
    (tmp_path / "index.pth").rename(folder / ".metadata")
    dcp_to_torch_save(folder, tmp_path / "weights.pth")
    model = sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4])
    sdm.load_pretrained(model, tmp_path / "weights.pth")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in WEIGHTS.items())


class Quantised(torch.Tensor):
    """A tensor whose values lie in another one, as torchao makes them."""

    @staticmethod
    def __new__(cls, values):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype)

    def __init__(self, values):
        self.values = values.to(torch.int8)

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        raise NotImplementedError(f"{function} of a quantised tensor")


class Annotated(torch.Tensor):
    """A tensor with a class of its own and values of its own, as image libraries have them."""


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize("name", ["conv1.weight", "fc.weight", "bn1.running_var"])
def test_tensors_without_values_of_their_own_are_refused(name, prefix):
    state = {f"{prefix}{key}": value for key, value in WEIGHTS.items()}
    state[f"{prefix}{name}"] = Quantised(WEIGHTS[name])
    model = tiny()
    with pytest.raises(sdm.CheckpointError, match=rf"{name} must be a dense tensor.*got a Quantised"):
        sdm.load_pretrained(model, state)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in WEIGHTS.items())
    with pytest.raises(sdm.CheckpointError, match=r"Quantised|does not fit"):
        sdm.cifar_resnet20_stodepth_lineardecay(weights=state)


def test_tensors_of_a_class_of_their_own_are_loaded():
    model = sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4])
    sdm.load_pretrained(model, {name: value.as_subclass(Annotated) for name, value in WEIGHTS.items()})
    assert all(torch.equal(model.state_dict()[name], value) for name, value in WEIGHTS.items())
    assert type(model.fc.weight) is torch.nn.Parameter
