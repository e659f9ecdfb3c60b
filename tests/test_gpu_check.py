"""The checks for a card: on a CPU from end to end, what makes one fail, and the pages."""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import stodepth_models as sdm

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
gpu_check = importlib.import_module("gpu_check")
card_checks = importlib.import_module("benchmarking.card_checks")
card_costs = importlib.import_module("benchmarking.card_costs")
checks = importlib.import_module("benchmarking.checks")
networks = importlib.import_module("benchmarking.networks")

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # the compiler reads it


def test_a_run_on_a_cpu_says_what_it_did_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "networks_for_a_cpu", lambda: networks.networks_for_a_cpu()[1:])
    assert gpu_check.main(["--device", "cpu", "--output", str(tmp_path / "new")]) == 0
    report = json.loads((tmp_path / "new" / "gpu_check.json").read_text())
    results = {check["name"]: check["result"] for check in report["checks"]}
    assert results == {
        "no synchronisation at gates, ResNet-20": "not run",
        "no synchronisation at gates, a ViT of three blocks": "not run",
        "gates and gradients as on a CPU": "not run",
        "one rank, DistributedDataParallel": "pass",
        "float16 with GradScaler": "pass",
        "cost beside masks, ResNet-20": "pass",
        "cost beside masks, a ViT of three blocks": "pass",
        "constant depth compiled, a ViT of three blocks": "pass",
    }
    assert report["machine"]["torch"] == torch.__version__
    page = (tmp_path / "new" / "gpu_check.md").read_text()
    assert gpu_check.ON_A_CPU in page
    assert "| gates and gradients as on a CPU | not run | 0.0 | needs CUDA |" in page
    assert "| ours, row |" in page


def test_a_failure_does_not_stop_the_others_and_sets_the_exit_status(tmp_path, monkeypatch, capsys):
    def broken():
        raise ValueError("no | such kernel\nand much more")

    found = {
        "broken": broken,
        "missed": lambda: checks.Finding("2 waits", passed=False),
        "held": lambda: checks.Finding("0 waits", rows=[{"step": "x", "ms": 1.23456, "peak MiB": None}]),
    }
    monkeypatch.setattr(gpu_check, "checks_for", lambda *_: found)
    assert gpu_check.main(["--device", "cpu", "--output", str(tmp_path)]) == 1
    page = (tmp_path / "gpu_check.md").read_text()
    assert "| broken | fail | 0.0 | ValueError: no \\| such kernel |" in page
    assert "| missed | fail | 0.0 | 2 waits |" in page
    assert "## held\n\n| step | ms | peak MiB |\n| --- | --- | --- |\n| x | 1.235 | - |\n" in page
    assert "2 of 3 checks failed" in capsys.readouterr().out


def test_a_check_ends_when_the_time_of_all_is_over():
    started = time.monotonic()
    outcomes = checks.run_checks({"slow": lambda: time.sleep(60), "late": lambda: checks.Finding("ran")}, 0.05)
    assert [outcome.result for outcome in outcomes] == ["fail", "fail"]
    assert {outcome.reason for outcome in outcomes} == {"TimeoutError: the time for all checks is over"}
    assert time.monotonic() - started < 30


def row(name, ms, peak):
    return {"step": name, "ms": ms, "peak MiB": peak}


@pytest.mark.parametrize(
    ("of_batch", "of_row", "missed"),
    [
        ((90.0, 800.0), (95.0, 850.0), None),
        ((90.0, 800.0), (101.0, 850.0), "ours, row takes longer than timm's masks"),
        ((90.0, 901.0), (95.0, 850.0), "ours, batch holds more memory than timm's masks"),
    ],
)
def test_on_a_card_a_mode_that_costs_more_than_masks_fails(of_batch, of_row, missed):
    network = networks.networks_for_a_card()[2]
    rows = [row("constant depth", 99.0, 880.0), row("timm's masks", 100.0, 900.0)]
    rows += [row("ours, batch", *of_batch), row("ours, row", *of_row)]
    finding = card_costs.judge(rows, network, "cuda")
    assert finding.passed is (missed is None)
    assert f"ours, batch {of_batch[0] / 100:.2f}, ours, row {of_row[0] / 100:.2f}" in finding.reason
    assert missed is None or missed in finding.reason


def test_the_networks_of_a_card_are_those_that_are_named():
    descriptions = [network.describe() for network in networks.networks_for_a_card()]
    assert descriptions == [
        "ResNet-50, 224x224, batch 256, bfloat16 autocast, channels_last",
        "ResNet-110, 32x32, batch 128, float32",
        "ViT-S/16, 224x224, batch 128, bfloat16 autocast",
    ]
    assert [network.batch_size for network in networks.networks_for_a_card(4)] == [64, 32, 32]


@pytest.mark.parametrize("with_timm", [True, False])
def test_a_network_at_constant_depth_is_the_one_with_masks_and_with_gates(with_timm, monkeypatch):
    if not with_timm:
        monkeypatch.setattr(networks, "timm", None)
    for network in networks.networks_for_a_cpu():
        models = [network.constant(), network.masked(), network.gated("row")]
        keys = [{name.replace(".0.", "."): p.shape for name, p in model.named_parameters()} for model in models]
        assert sdm.survival_probs(models[0]) == [1.0] * len(sdm.survival_probs(models[2]))
        assert min(sdm.survival_probs(models[2])) == pytest.approx(0.5 if "ResNet" in network.name else 0.6)
        assert keys[0].keys() == keys[2].keys()
        assert sum(p.numel() for p in models[1].parameters()) == sum(p.numel() for p in models[0].parameters())
    masks = [module for module in models[1].modules() if type(module).__name__ in ("DropPath", "StochasticDepth")]
    rates = {round(getattr(mask, "drop_prob", getattr(mask, "p", None)), 6) for mask in masks}
    gates = [gate for gate in models[2].modules() if isinstance(gate, sdm.StochasticResidual)]
    assert {round(1 - gate.survival_prob, 6) for gate in gates if gate.survival_prob < 1} == rates


def test_gradients_of_other_gates_fail_the_check_of_one_rank(monkeypatch):
    loss = card_checks._loss

    def other_gates(model, x, labels):
        if isinstance(model, nn.parallel.DistributedDataParallel):
            torch.rand(1)
        return loss(model, x, labels)

    monkeypatch.setattr(card_checks, "_loss", other_gates)
    finding = card_checks.one_rank("cpu")
    assert not finding.passed
    assert "mode batch: gradients differ by" in finding.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--divide-batch", "0"], "--divide-batch must be at least 1, got 0"),
        (["--device", "cuda"], "--device cuda: this machine has no GPU that PyTorch can use"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(arguments, message, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(["--output", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err
