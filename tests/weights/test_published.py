"""Published weights: the index, the enums made from it, the table."""

import copy
import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import Weights, WeightsEnum, get_model, get_model_weights, list_models

import stodepth_models as sdm
from stodepth_models.training.index_tables import model_table, training_table
from stodepth_models.training.report.tables import fill_in
from stodepth_models.weights import published

ROOT = Path(__file__).resolve().parents[2]
INDEX = json.loads((published.shipped_folder() / "index.json").read_text())
ENTRIES = [pytest.param(entry, id=f"{entry['builder']}-{entry['name']}") for entry in INDEX["weights"]]


def member_of(entry):
    return get_model_weights(f"{entry['builder']}_stodepth_lineardecay")[entry["name"]]


def test_every_builder_has_an_enum_of_its_own():
    names = list_models(module=sdm)
    enums = [get_model_weights(name) for name in names]
    assert len(names) == 22
    assert len(set(enums)) == 22
    assert all(issubclass(enum, WeightsEnum) for enum in enums)
    assert {enum.__name__.startswith("CifarResNet") for enum in enums[:12]} == {True}


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_becomes_a_member_with_torchvisions_meta(entry):
    member = member_of(entry)
    assert isinstance(member.value, Weights)
    assert {"categories", "num_params", "_metrics", "_ops", "_file_size", "_docs", "recipe", "min_size", "sha256"} <= {
        *member.meta
    }
    figures = {"acc@1", "acc@1_interval", "nll", "ece"} if entry["measured"] else {"acc@1"}
    assert member.meta["_metrics"] == {entry["dataset"]: {figure: entry[figure] for figure in figures}}
    if entry["measured"]:
        low, high = entry["acc@1_interval"]
        assert low < entry["acc@1"] < high
        # The standard error of a share p of n images is sqrt(p * (1 - p) / n).
        share = entry["acc@1"] / 100
        assert high - low == pytest.approx(2 * 196 * (share * (1 - share) / 10_000) ** 0.5, abs=0.02)
    assert len(member.meta["categories"]) == 10
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.deepcopy(member) is member


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_numbers_of_an_entry_are_those_of_the_network(entry):
    with torch.device("meta"):
        model = get_model(f"{entry['builder']}_stodepth_lineardecay", prob_0_L=(1.0, 1.0)).eval()
    assert sum(p.numel() for p in model.parameters()) == entry["num_params"]
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.empty(1, 3, 32, 32, device="meta"))
    assert round(counter.get_total_flops() / 2e9, 3) == entry["ops"]  # multiply-adds, in 10^9


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_hash_is_the_one_in_the_files_name(entry):
    stem = Path(entry["file"]).stem
    assert entry["sha256"].startswith(stem.rpartition("-")[2])
    assert entry["url"] is None or entry["url"].endswith(entry["file"])


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_files_at_hand_are_the_ones_of_the_index(entry, shared_data):
    folders = [folder for folder in (shared_data, published.shipped_folder()) if (folder / entry["file"]).is_file()]
    if not folders:
        pytest.skip(f"{entry['file']} is published by URL, and not at hand")
    content = (folders[0] / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert round(len(content) / 2**20, 3) == entry["file_size"]


def test_transforms_are_the_preprocessing_of_the_training():
    transforms = sdm.CifarResNet20_Weights.CIFAR10_IDELBAYEV.transforms()
    out = transforms(Image.new("RGB", (32, 32), (255, 0, 128)))
    assert out.shape == (3, 32, 32)
    expected = torch.tensor([(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225])
    torch.testing.assert_close(out[:, 5, 7], expected)
    pickle.dumps(sdm.CifarResNet20_Weights.CIFAR10_IDELBAYEV.transforms)


def test_a_shipped_file_is_found_before_its_url(tmp_path, monkeypatch, shared_data):
    (tmp_path / "resnet20-12fca82f.th").write_bytes((shared_data / "resnet20-12fca82f.th").read_bytes())
    monkeypatch.setattr(published, "shipped_folder", lambda: tmp_path)
    member = sdm.CifarResNet20_Weights.CIFAR10_IDELBAYEV
    state = member.get_state_dict(progress=False, check_hash=True)
    model = sdm.cifar_resnet20_stodepth_lineardecay(weights="CIFAR10_IDELBAYEV", prob_0_L=(1.0, 1.0))
    assert torch.equal(model.fc.weight, state["fc.weight"])
    assert model.categories == member.meta["categories"]
    (tmp_path / "resnet20-12fca82f.th").write_bytes(b"something else")
    with pytest.raises(sdm.CheckpointError, match=r"resnet20-12fca82f\.th has the SHA-256 .*, expected 12fca82f"):
        member.get_state_dict()


def test_the_index_is_found_inside_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "stodepth_models"
    (package / "_weights").mkdir(parents=True)
    monkeypatch.setattr(published, "__file__", str(package / "weights" / "published.py"))
    assert published.shipped_folder() == package / "_weights"
    (package / "_weights").rmdir()
    assert published.shipped_folder() == tmp_path / "weights"


def test_an_entry_marked_as_default_is_what_pretrained_takes():
    members = {}
    entry = {**INDEX["weights"][0], "default": True, "name": "NEW", "url": None, "file": "new-00000000.safetensors"}
    published._index()["weights"].append({**entry, "builder": "none_yet"})
    try:
        published._fill(members, "none_yet")
    finally:
        published._index()["weights"].pop()
    assert members["DEFAULT"] is members["NEW"]
    assert members["NEW"].url.startswith("file://")


def test_the_table_of_weights():
    table = sdm.list_weights()
    lines = str(table).splitlines()
    assert len(lines) == 1 + len(table)
    assert len(table) >= 6 + 17
    row = next(line for line in lines if line.startswith("cifar_resnet56_stodepth_lineardecay"))
    assert row.split()[1:] == ["CIFAR10_IDELBAYEV", "CIFAR-10", "93.39", "reported", "853,018"]
    assert any(entry.name == "IMAGENET1K_V2" and entry.accuracy > 80 for entry in table)


def test_the_readme_lists_the_weights_of_others():
    readme = (published.shipped_folder() / "README.md").read_text()
    for entry in INDEX["weights"]:
        cells = f"| {entry['builder']} | `{entry['name']}` | {entry['dataset']} | {entry['acc@1']:.2f} |"
        assert (cells in readme) == (entry["url"] is not None)


def test_the_page_shows_the_tables_of_the_index():
    text = (ROOT / "weights" / "README.md").read_text()
    assert fill_in(text, "models", model_table(INDEX["weights"])) == text
    assert fill_in(text, "training", training_table(INDEX["weights"])) == text


def test_files_that_ship_are_small_and_all_of_them_are_entered():
    files = {path.name: path for path in published.shipped_folder().glob("*.safetensors")}
    assert set(files) == {entry["file"] for entry in INDEX["weights"] if entry["url"] is None}
    assert sum(path.stat().st_size for path in files.values()) < 40 * 10**6


def test_pretrained_loads_the_network_with_stochastic_depth():
    defaults = [entry for entry in INDEX["weights"] if entry["default"]]
    assert {entry["builder"] for entry in defaults} >= {"cifar_resnet20"}
    for entry in defaults:
        assert entry["training"]["prob_0_L"][1] < 1.0
        model = get_model(f"{entry['builder']}_stodepth_lineardecay", pretrained=True)
        state = member_of(entry).get_state_dict()
        assert torch.equal(model.fc.weight, state["fc.weight"])
        assert model.categories == INDEX["categories"][entry["dataset"]]


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110, 1202])
def test_every_enum_with_a_member_has_a_default(depth):
    enum = getattr(sdm, f"CifarResNet{depth}_Weights")
    is_pretrained = [member.meta["pretrained"] for member in enum]
    assert enum.DEFAULT.meta["pretrained"] == any(is_pretrained)


def without_gates():
    model = sdm.cifar_resnet20_stodepth_lineardecay()
    sdm.remove_stochastic_depth(model)
    return model


@pytest.mark.parametrize(
    ("builder", "source"),
    [
        (sdm.resnet18_stodepth_lineardecay, torchvision.models.resnet18),
        (sdm.cifar_resnet20_stodepth_lineardecay, without_gates),
    ],
)
def test_a_literal_load_of_a_network_without_gates_warns(builder, source, tmp_path, caplog):
    torch.save(source().state_dict(), tmp_path / "a.pth")  # as others publish it: with PyTorch's metadata
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    with caplog.at_level("WARNING", logger="stodepth_models"):
        builder().load_state_dict(state)
        builder(prob_0_L=(1.0, 1.0)).load_state_dict(state)
        builder(weights=tmp_path / "a.pth")
    assert len(caplog.messages) == 1
    assert "use weights=, load_pretrained or mult_flag=False" in caplog.messages[0]


@pytest.mark.parametrize(
    ("options", "keeps_scales", "warns"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"mult_flag": False}, False, False),
        ({"prob_0_L": (1.0, 1.0)}, False, False),
    ],
)
def test_a_literal_load_says_once_that_scales_are_not_known(options, keeps_scales, warns, caplog):
    model = sdm.cifar_resnet20_stodepth_lineardecay(**options)
    state = model.state_dict()
    if not keeps_scales:
        state = dict(state)
    with caplog.at_level("WARNING", logger="stodepth_models"):
        for _ in range(2):
            model.load_state_dict(state)
        sdm.load_pretrained(sdm.cifar_resnet20_stodepth_lineardecay(), "CIFAR10_JPEG_V1")
    is_named = ["load_pretrained or mult_flag=False" in message for message in caplog.messages]
    assert is_named == [True] * warns
