"""Figures of an evaluation, against scikit-learn and counting by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import nn

from stodepth_models.training.config import DataConfig, EvaluateConfig, ModelConfig, OptimConfig, TrainConfig
from stodepth_models.training.engine import train
from stodepth_models.training.evaluation import evaluate_weights, report
from stodepth_models.training.metrics import evaluate
from stodepth_models.training.outcome import SettingsError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_figures_are_those_of_scikit_learn_over_uneven_batches():
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(103, 8), torch.randint(8, (103,))
    batches = list(zip(logits.split(25), labels.split(25), strict=True))
    figures = evaluate(nn.Identity(), batches, Accelerator(cpu=True))
    probs = logits.double().softmax(1).numpy()
    assert figures.count == 103
    assert figures.nll == pytest.approx(log_loss(labels, probs, labels=range(8)), rel=1e-5)
    assert figures.top1 == pytest.approx(top_k_accuracy_score(labels, probs, k=1, labels=range(8)))
    assert figures.top5 == pytest.approx(top_k_accuracy_score(labels, probs, k=5, labels=range(8)))
    confidence, right = probs.max(1), (logits.argmax(1) == labels).numpy()
    expected = 0.0
    for low in range(15):
        inside = (confidence * 15 >= low) & (confidence * 15 < low + 1)
        if inside.any():
            expected += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
    assert figures.ece == pytest.approx(expected, abs=1e-6)


def test_evaluation_draws_no_random_number_and_restores_modes():
    model = nn.Sequential(nn.Linear(8, 4), nn.Dropout())
    model[1].eval()
    state = torch.get_rng_state()
    evaluate(model, [(torch.randn(5, 8, generator=torch.Generator()), torch.zeros(5).long())], Accelerator(cpu=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, False]


def test_the_weights_of_a_run_score_as_at_its_end(tmp_path):
    data = DataConfig(name="digits")
    train(TrainConfig(data=data, optim=OptimConfig(lr=0.05), epochs=2, output=tmp_path, trackers=(), progress=False,
                      stop_at_chance=0))  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    for name in ("best", "last"):
        weights = str(tmp_path / f"{name}.safetensors")
        figures = evaluate_weights(EvaluateConfig(model=ModelConfig(weights=weights), data=data))
        assert figures["nll"] == pytest.approx(result[f"test_{name}"]["nll"], rel=1e-5)
        assert figures["error_percent"] == pytest.approx(result[f"test_error_{name}"])
    assert "images of digits: top-1" in report(figures, as_json=False)
    command = [sys.executable, str(SCRIPTS / "evaluate.py"), "--model.weights", weights, "--data.name=digits", "--json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True,
                         env=os.environ | {"PYTHONPATH": str(SCRIPTS.parent)})  # fmt: skip
    assert json.loads(out.stdout)["top1"] == pytest.approx(result["test_last"]["top1"])


def test_weights_that_cannot_be_evaluated_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"model\.weights must name the weights"):
        evaluate_weights(EvaluateConfig(data=DataConfig(name="fake")))
