"""A flipped bit in a safetensors file of this package is noticed."""

import json
import random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import stodepth_models as sdm
from stodepth_models.weights.checkpoint import read_file, write_file
from stodepth_models.weights.checksum import CHECKSUM

CONFIG = {"builder": "cifar_resnet20_stodepth_lineardecay", "rescale": "eval", "survival_probs": [0.75]}


def weights():
    torch.manual_seed(0)
    state = sdm.CifarResNet(sdm.StoDepthBasicBlock, [1], [4]).state_dict()
    return {name: torch.randn_like(value) if value.is_floating_point() else value for name, value in state.items()}


def test_a_flipped_bit_changes_neither_weights_nor_configuration(tmp_path):
    state, path, rng = weights(), tmp_path / "net.safetensors", random.Random(0)
    write_file(path, state, CONFIG)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    # Half of the flips in the header, whose names and numbers are short, and half in the tensors.
    places = [rng.randrange(header) for _ in range(150)] + [rng.randrange(header, len(whole)) for _ in range(150)]
    refused = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read_file(path, "net.safetensors")
        except sdm.CheckpointError:
            refused += 1
            continue
        assert found.saved_scales == {"layer1.0.residual": 0.75}
        assert all(torch.equal(found.state_dict[name], value) for name, value in state.items())
    assert refused > 285  # what is left are flips in the name of the checksum


def test_a_file_that_was_changed_on_purpose_says_so(tmp_path):
    path = tmp_path / "net.safetensors"
    write_file(path, weights(), CONFIG)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    changed = {name: value + 1 for name, value in weights().items()}
    save_file(changed, path, metadata)
    with pytest.raises(sdm.CheckpointError, match=rf"another SHA-256 than its header says.*leave {CHECKSUM} out"):
        read_file(path, "net.safetensors")
    del metadata[CHECKSUM]
    save_file(changed, path, metadata)
    assert torch.equal(read_file(path, "net.safetensors").state_dict["fc.bias"], changed["fc.bias"])
    assert json.loads(metadata["stodepth_models"]) == CONFIG
