"""A finished run becomes a file, an entry of the index, and rows of tables."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import stodepth_models as sdm
from stodepth_models.training.config import DataConfig, ModelConfig, TrainConfig
from stodepth_models.training.index_tables import model_table, training_table
from stodepth_models.training.publish import Origin, publish
from stodepth_models.training.report.collect import collect
from stodepth_models.training.report.page import write_report
from stodepth_models.training.report.tables import fill_in
from stodepth_models.training.run.train import train
from stodepth_models.weights import published

ORIGIN = Origin("configs/made_up.yaml", "0123abc", "2 CPU cores", "noise.")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = DataConfig(name="fake", fake_images=80, fake_classes=10, image_size=8, label="Made-up")
    config = TrainConfig(
        model=ModelConfig(prob_0_L=(1.0, 0.7)), data=data, epochs=2, batch_size=16, output=folder, seed=3,
        trackers=(), progress=False, stop_at_chance=0,
    )  # fmt: skip
    assert train(config) == 0
    return folder


@pytest.fixture
def folder(tmp_path):
    shutil.copyfile(published.shipped_folder() / "index.json", tmp_path / "index.json")
    return tmp_path


def test_the_entry_tells_what_the_file_is_and_how_it_was_trained(run, folder):
    entry = publish(run, folder, "MADE_UP_V1", True, folder, ORIGIN)
    content = (folder / entry["file"]).read_bytes()
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert entry["file"] == f"cifar_resnet20_stodepth-{entry['sha256'][:8]}.safetensors"
    assert (entry["num_params"], entry["dataset"], entry["size"], entry["url"]) == (269_722, "Made-up", 8, None)
    assert entry["ops"] == 0.003  # of 8x8 pixels: a sixteenth of 0.041
    result = json.loads((run / "result.json").read_text())
    assert entry["acc@1"] == entry["training"]["test_best"] == pytest.approx(100 - result["test_error_best"], abs=0.006)
    assert (entry["nll"], entry["ece"]) == (
        pytest.approx(result["test_best"]["nll"], abs=6e-5),
        pytest.approx(result["test_best"]["ece"], abs=6e-5),
    )
    low, high = entry["acc@1_interval"]
    assert low < entry["acc@1"] < high
    assert entry["training"]["valid_best"] == round(100 - result["best_valid_error"], 2)
    assert entry["training"]["prob_0_L"] == [1.0, 0.7]
    assert (entry["training"]["seed"], entry["training"]["epochs"]) == (3, [2])
    assert (entry["recipe"], entry["training"]["commit"]) == ("configs/made_up.yaml", "0123abc")
    assert entry["docs"] == "Trained with stochastic depth, p_L = 0.7, for 2 epochs on Made-up: noise."
    index = json.loads((folder / "index.json").read_text())
    assert index["weights"][-1] == entry
    assert len(index["categories"]["Made-up"]) == 10


def test_a_second_cycle_counts_the_first_one_too(run, folder, tmp_path):
    model = ModelConfig(prob_0_L=(1.0, 0.7), weights=str(run / "last.safetensors"))
    first = json.loads((run / "config.json").read_text())["settings"]
    config = TrainConfig(
        model=model, data=DataConfig(**{**first["data"], "root": run, "cache": run}), epochs=1, batch_size=16,
        output=tmp_path / "second", seed=3, trackers=(), progress=False, stop_at_chance=0,
    )  # fmt: skip
    assert train(config) == 0
    entry = publish(tmp_path / "second", folder, "MADE_UP_V1", True, folder, ORIGIN)
    assert entry["training"]["epochs"] == [2, 1]
    assert entry["docs"] == "Trained with stochastic depth, p_L = 0.7, for 2 + 1 epochs on Made-up: noise."
    results = [json.loads((path / "result.json").read_text()) for path in (run, tmp_path / "second")]
    assert entry["training"]["processor_seconds"] == round(sum(result["processor_seconds"] for result in results))
    shares = [result["executed_flops_share"] for result in results]
    assert entry["training"]["flops_share"] == pytest.approx((2 * shares[0] + shares[1]) / 3, abs=1e-4)
    collect(tmp_path / "second", tmp_path / "small")
    kept = json.loads((tmp_path / "small" / "second" / "config.json").read_text())
    assert kept["settings"]["model"]["weights"] == "last.safetensors"


def test_publishing_again_replaces_the_entry(run, folder):
    before = len(json.loads((folder / "index.json").read_text())["weights"])
    for default in (True, False):
        publish(run, folder, "MADE_UP_V1", default, folder, ORIGIN)
    weights = json.loads((folder / "index.json").read_text())["weights"]
    assert len(weights) == before + 1
    assert weights[-1]["default"] is False


def test_a_new_default_takes_the_place_of_the_old_one_and_its_file_goes(run, folder):
    first = publish(run, folder, "FIRST_V1", True, folder, ORIGIN)
    index = json.loads((folder / "index.json").read_text())
    index["weights"][-1]["file"] = "older.safetensors"
    (folder / "older.safetensors").touch()
    (folder / "index.json").write_text(json.dumps(index))
    publish(run, folder, "FIRST_V1", True, folder, ORIGIN)
    assert not (folder / "older.safetensors").exists()
    publish(run, folder, "SECOND_V1", True, folder, ORIGIN)
    weights = json.loads((folder / "index.json").read_text())["weights"]
    defaults = [entry["name"] for entry in weights if entry["builder"] == "cifar_resnet20" and entry["default"]]
    assert defaults == ["SECOND_V1"]
    assert (folder / first["file"]).exists()


@pytest.mark.parametrize("name", ["DEFAULT", "bad name", "_HIDDEN", ""])
def test_names_that_no_member_can_have_are_refused(run, folder, name):
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match="name must be that of an enum's member"):
        publish(run, folder, name, True, folder, ORIGIN)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data": {"label": None}},
            "does not say what its images are called: give its command --data.label and --resume",
        ),
        ({"model": {"ramp_epochs": 2}}, "survival probabilities moved"),
        ({"model": {"stoch_depth_probability": 1.0}}, "survival probabilities moved"),
    ],
)
def test_runs_that_lack_what_an_entry_says_are_refused(run, folder, tmp_path, change, message):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for section, values in change.items():
        config["settings"][section] |= values
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    before = (folder / "index.json").read_text()
    with pytest.raises(ValueError, match=message):
        publish(tmp_path / "run", folder, "MADE_UP_V1", True, folder, ORIGIN)
    assert (folder / "index.json").read_text() == before
    assert not list(folder.glob("*.safetensors"))


def test_what_is_published_loads_as_the_evaluation_function_of_the_run(run, folder, monkeypatch):
    entry = publish(run, folder, "MADE_UP_V1", True, folder, ORIGIN)
    monkeypatch.setattr(published, "shipped_folder", lambda: folder)
    x = torch.randn(2, 3, 8, 8)
    model = sdm.cifar_resnet20_stodepth_lineardecay(weights=str(folder / entry["file"]), prob_0_L=(1.0, 0.2)).eval()
    twin = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 0.7)).eval()
    twin.load_state_dict(load_file(run / "best.safetensors"))
    torch.testing.assert_close(model(x), twin(x), rtol=1e-4, atol=1e-5)


def test_tables_hold_shipped_models_alone_smallest_first(run, folder):
    entry = publish(run, folder, "MADE_UP_V1", True, folder, ORIGIN)
    twin = {**entry, "name": "TWIN", "default": False, "num_params": 5}
    linked = {**entry, "url": "https://example.org/x"}
    lines = model_table([entry, linked, twin]).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == ["`TWIN`", "`MADE_UP_V1`"]
    assert lines[2].endswith('`sdm.cifar_resnet20_stodepth_lineardecay(weights="TWIN")` |')
    assert lines[3].endswith("`sdm.cifar_resnet20_stodepth_lineardecay(pretrained=True)` |")
    cells = training_table([entry]).splitlines()[2].split(" | ")
    assert cells[1:4] == ["0.7", "3", "2"]
    twice = {**entry, "training": entry["training"] | {"epochs": [2, 1]}}
    assert training_table([twice]).splitlines()[2].split(" | ")[3] == "2 + 1"


def test_an_unfinished_run_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match=r"there is no file or folder .*runz: give the folder of a run"):
        publish(tmp_path / "runz", folder, "X", False, folder, ORIGIN)
    with pytest.raises(ValueError, match=r"is not the folder of a run: it holds no config\.json"):
        publish(tmp_path, folder, "X", False, folder, ORIGIN)
    (tmp_path / "config.json").touch()
    with pytest.raises(ValueError, match="is not a finished run: go on with --resume"):
        publish(tmp_path, folder, "X", False, folder, ORIGIN)


def test_a_table_goes_between_its_markers():
    page = "a\n<!-- models -->\nold\n<!-- end of models -->\nb"
    assert fill_in(page, "models", "new\n") == "a\n<!-- models -->\n\nnew\n\n<!-- end of models -->\nb"
    with pytest.raises(ValueError, match="the page has no <!-- training -->"):
        fill_in(page, "training", "new\n")


def test_the_small_form_of_a_run_gives_the_same_report_and_no_path(run, tmp_path):
    assert collect(run, tmp_path / "small") == [run.name]
    copied = tmp_path / "small" / run.name
    assert sorted(path.name for path in copied.iterdir()) == ["config.json", "metrics.jsonl", "result.json"]
    assert not any(str(run.parent) in path.read_text() for path in copied.iterdir())
    for source, report in ((run, "whole"), (tmp_path / "small", "copied")):
        write_report(source, tmp_path / report)
    whole, copy = (tmp_path / report / "made_up.md" for report in ("whole", "copied"))
    assert whole.read_text() == copy.read_text()


def test_the_runs_of_a_sweep_keep_their_places(run, tmp_path):
    sweep = tmp_path / "runs"
    for name in ("digits-lr_0.1/seed1", "digits-lr_0.1/seed2", "digits-lr_0.2/seed1"):
        shutil.copytree(run, sweep / name)
        config = json.loads((sweep / name / "config.json").read_text())
        config["settings"] |= {"seed": int(name[-1]), "output": str(sweep / name)}
        config["settings"]["optim"]["lr"] = float(name[10:13])
        (sweep / name / "config.json").write_text(json.dumps(config))
    names = ["digits-lr_0.1/seed1", "digits-lr_0.1/seed2", "digits-lr_0.2/seed1"]
    small = sweep / "small"
    for _ in range(2):  # the copies are no runs of their own
        assert collect(sweep, small) == names
    assert sorted(path.parent.relative_to(small).as_posix() for path in small.rglob("result.json")) == names
    settings = json.loads((small / names[2] / "config.json").read_text())["settings"]
    assert (settings["output"], settings["seed"], settings["optim"]["lr"]) == (names[2], 1, 0.2)
    assert write_report(small, tmp_path / "report")[:2] == (3, [])


def test_a_run_alone_keeps_the_name_that_it_is_given_by(run, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(run)
    assert collect(tmp_path / "link", tmp_path / "small") == ["link"]
    monkeypatch.chdir(run)
    assert collect(Path("."), tmp_path / "small") == [run.name]


def test_collecting_a_folder_onto_itself_leaves_it_alone(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(ValueError, match="must hold finished runs, got none outside of"):
        collect(tmp_path, tmp_path)
    assert (tmp_path / "run" / "config.json").read_text() == before


def test_collecting_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold finished runs, got none"):
        collect(tmp_path, tmp_path / "small")
