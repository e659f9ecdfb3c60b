"""The map of docs/results.md: its figures are those of the records, its differences those of pairs of seeds."""

import json
import runpy
from dataclasses import asdict
from pathlib import Path

import pytest

from stodepth_models.training.config import DataConfig, ModelConfig, TrainConfig

ROOT = Path(__file__).parents[2]
MAP = runpy.run_path(str(ROOT / "scripts" / "draw_map.py"))
DEPTH = runpy.run_path(str(ROOT / "scripts" / "depth_on_demand.py"))


def make_record(folder, p_L, seed, error, nll):
    """The record of a run of two epochs that ends at ``error`` percent on test and validation images."""
    config = TrainConfig(
        model=ModelConfig(prob_0_L=(1.0, p_L), mode="row"),
        data=DataConfig(name="cifar10", images_per_class=100),
        epochs=2,
        seed=seed,
        output=folder,
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"settings": asdict(config), "processes": 1}, default=str))
    rows = ""
    for epoch in (1, 2):
        last = {"top1": 1 - (error + 10 * (2 - epoch)) / 100, "nll": nll}
        rows += json.dumps({"epoch": epoch, "train": {"loss": 0.01 * seed}, "valid": last}) + "\n"
    (folder / "metrics.jsonl").write_text(rows)
    result = {
        "test_error_best": error, "test_error_last": error, "best_valid_error": error, "train_seconds": 1.0,
        "expected_flops_share": 1.0, "test_last": {"nll": nll, "ece": 0.25},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def records(tmp_path):
    norms = {}
    # Differences of the pairs: -1, -2 and -3 points.
    for seed, constant, stochastic in ((1, 41.0, 40.0), (2, 42.0, 40.0), (3, 46.0, 43.0)):
        for name, p_L, error in (("constant", 1.0, constant), ("row", 0.8, stochastic)):
            make_record(tmp_path / name / f"seed{seed}", p_L, seed, error, nll=error / 10)
            norms[f"{name}/seed{seed}"] = {
                "valid": {"top1": 1 - (error + 0.3) / 100},
                "test": {"top1": 1 - (error - 0.5) / 100, "nll": error / 20},
            }
    (tmp_path / "recalibrated.json").write_text(json.dumps(norms))
    return tmp_path


def test_differences_are_those_of_pairs_of_seeds(records):
    runs = MAP["read_map"](records)
    _, _, constant, stochastic = MAP["table"](runs).splitlines()
    cell = "| ResNet-20, 1,000 |"
    assert constant.startswith(f"{cell} constant depth | 3 | 0.020 | 43.00 | 43.00 | 4.30 | 0.250 |")
    # The 95 % interval of -1, -2 and -3: 4.303, Student's quantile for two degrees of freedom, times 1 / sqrt(3).
    less = "41.00 (-2.00 [-4.48, +0.48])"
    assert stochastic.startswith(f"{cell} 0.8, `row` (chosen) | 3 | 0.020 | {less} | {less} |")


def test_new_norms_are_compared_with_those_of_the_same_run(records):
    *_, constant, stochastic = MAP["norm_table"](records, MAP["read_map"](records)).splitlines()
    assert constant.startswith(
        "| ResNet-20, 1,000 | constant depth | 3 | +0.30 [+0.30, +0.30] | -0.50 [-0.50, -0.50] |"
    )
    # From error / 10 to error / 20 with errors of 40, 40 and 43 percent.
    assert stochastic.endswith("| -2.05 [-2.27, -1.83] |")


def test_a_cell_without_a_twin_is_left_out(records):
    make_record(records / "alone" / "seed4", 0.9, 4, 50.0, 3.0)
    settings = json.loads((records / "alone" / "seed4" / "config.json").read_text())
    settings["settings"]["data"]["images_per_class"] = 200
    (records / "alone" / "seed4" / "config.json").write_text(json.dumps(settings))
    assert [cell.images for cell in MAP["read_map"](records)] == [1000]


def test_the_picture_is_drawn_from_the_epochs(records, tmp_path):
    MAP["draw"](MAP["read_map"](records), [1, 2], tmp_path / "map.svg")
    assert "ResNet-20, 1,000 images" in (tmp_path / "map.svg").read_text(encoding="utf-8")


def test_the_page_shows_the_tables_of_the_records():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    records = ROOT / "docs" / "map"
    runs = MAP["read_map"](records)
    assert MAP["table"](runs) in page
    assert MAP["norm_table"](records, runs) in page
    depth = json.loads((ROOT / "docs" / "map" / "depth.json").read_text(encoding="utf-8"))
    assert DEPTH["table"](depth) in page
