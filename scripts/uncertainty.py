#!/usr/bin/env python3
"""Compare the certainty of one evaluation pass with that of ``mc_predict``, for networks that ship.

    python scripts/uncertainty.py --data cifar10-jpeg.tar.xz --foreign fashion-mnist-small.tar.xz -o figures.json

Prints, for each network and method, the accuracy, the negative log-likelihood and the calibration error on the test
images of ``--data``, and how well the method tells the images of ``--foreign`` from them (AUROC of the predictive
entropy, and of the mutual information). 95 % intervals are bootstrapped over images.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

import stodepth_models as sdm
from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.batches import EvaluationBatches
from stodepth_models.training.data.datasets import Data, load_data
from stodepth_models.training.exits import run_script
from stodepth_models.training.run.metrics import figures_of
from stodepth_models.uncertainty import MCPrediction

_COLUMNS = (
    "Network, method",
    "Top-1",
    "NLL",
    "Calibration error",
    "AUROC, entropy",
    "AUROC, mutual information",
    "NLL less one pass",
)
_LEAST = 1e-12  # a probability of 0 has no logarithm
_RESAMPLES = 500
_NETWORKS = ("cifar_resnet20", "cifar_resnet56", "cifar_resnet110")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder or archive that the networks were trained on")
    parser.add_argument("--foreign", type=Path, required=True, help="folder or archive of images of other classes")
    parser.add_argument("--models", nargs="+", default=_NETWORKS, help="networks whose weights ship")
    parser.add_argument("--samples", nargs="+", type=int, default=(5, 20), help="forward passes of mc_predict")
    parser.add_argument("--images", type=int, help="evenly spaced test images of each data set (default: all)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file of the figures")
    return parser.parse_args()


def single_pass(model: nn.Module, x: Tensor) -> MCPrediction:
    """Return the prediction of one evaluation pass, in the form of ``mc_predict``: nothing disagrees in it."""
    with torch.inference_mode():
        probs = model(x).softmax(1)
    entropy = torch.special.entr(probs).sum(1)
    return MCPrediction(probs, entropy, torch.zeros_like(entropy))


def predict(predictor: Callable[[Tensor], MCPrediction], data: Data, images: int | None) -> tuple[MCPrediction, Tensor]:
    """Return the predictions for the test images, and their labels."""
    test = data.test
    assert test is not None
    if images is not None:
        # Files lie class by class: a stride keeps the classes balanced.
        stride = max(1, len(test.labels) // images)
        test = test.select(torch.arange(0, len(test.labels), stride)[:images])
    predictions = []
    for x, _ in EvaluationBatches(data, test, 250, torch.device("cpu"), 0, 0, 1):
        predictions.append(predictor(x))
    return MCPrediction(*map(torch.cat, zip(*predictions, strict=True))), test.labels


def interval(values: np.ndarray) -> list[float]:
    """Return the 95 % interval of a mean."""
    margin = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return [float(values.mean() - margin), float(values.mean() + margin)]


def auroc(own: np.ndarray, foreign: np.ndarray) -> dict[str, Any]:
    """Return how well a score tells foreign images, which should have the higher ones, from a network's own."""

    def area(own: np.ndarray, foreign: np.ndarray) -> float:
        is_foreign = np.repeat([0, 1], [len(own), len(foreign)])
        return float(roc_auc_score(is_foreign, np.concatenate([own, foreign])))

    spread = bootstrap((own, foreign), area, n_resamples=_RESAMPLES, vectorized=False, method="percentile", rng=0)
    return {"auroc": area(own, foreign), "interval": [float(bound) for bound in spread.confidence_interval]}


def figures(own: MCPrediction, labels: Tensor, foreign: MCPrediction, once: np.ndarray | None) -> dict[str, Any]:
    """Return the figures of one method.

    Args:
        own: predictions for the test images.
        labels: their classes.
        foreign: predictions for the foreign images.
        once: the negative log-likelihood of each test image in one evaluation pass; None: that is this method.
    """
    nll = negative_log_likelihood(own, labels)
    summary = figures_of(own.probs.clamp(min=_LEAST).log(), labels)
    result = {
        "top1": summary.top1,
        "nll": summary.nll,
        "nll_interval": interval(nll),
        "ece": summary.ece,
        "by_entropy": auroc(own.entropy.numpy(), foreign.entropy.numpy()),
    }
    if once is not None:
        result["nll_less_one_pass"] = float((nll - once).mean())
        result["nll_less_one_pass_interval"] = interval(nll - once)
        result["by_mutual_information"] = auroc(own.mutual_information.numpy(), foreign.mutual_information.numpy())
    return result


def negative_log_likelihood(prediction: MCPrediction, labels: Tensor) -> np.ndarray:
    """Return it for each image, in nats."""
    chosen = prediction.probs.double()[torch.arange(len(labels)), labels]
    return -chosen.clamp(min=_LEAST).log().numpy()


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of each method for the stochastic network, and of one pass of its twin of constant depth."""
    builder = f"{name}_stodepth_lineardecay"
    stochastic = get_model(builder, pretrained=True, prob_0_L=(1.0, 0.8)).eval()
    constant = get_model(builder, weights="CIFAR10_JPEG_CONSTANT_V1").eval()
    preparation = get_model_weights(builder).DEFAULT.transforms()
    settings = {"name": "folder", "image_size": 32, "mean": tuple(preparation.mean), "std": tuple(preparation.std)}
    own = load_data(DataConfig(root=options.data, **settings), "test")
    foreign = load_data(DataConfig(root=options.foreign, **settings), "test")

    result: dict[str, Any] = {}
    once: dict[str, np.ndarray] = {}
    methods: list[tuple[str, str, Callable[[Tensor], MCPrediction]]] = [
        ("constant depth, one pass", "constant", partial(single_pass, constant)),
        ("stochastic depth, one pass", "stochastic", partial(single_pass, stochastic)),
    ]
    for samples in options.samples:
        many = partial(sdm.mc_predict, stochastic, samples=samples)
        methods.append((f"stochastic depth, mc_predict({samples})", "stochastic", many))
    for title, network, method in methods:
        torch.manual_seed(0)  # of the gates
        seen, labels = predict(method, own, options.images)
        unknown, _ = predict(method, foreign, options.images)
        result[title] = figures(seen, labels, unknown, once.get(network))
        if network not in once:
            once[network] = negative_log_likelihood(seen, labels)
    return result


def row(title: str, found: dict[str, Any]) -> str:
    """Return one line of the table."""
    cells = [title, f"{found['top1']:.2%}", f"{found['nll']:.3f}", f"{found['ece']:.3f}"]
    cells.append(_area(found["by_entropy"]))
    cells.append(_area(found["by_mutual_information"]) if "by_mutual_information" in found else "-")
    if "nll_less_one_pass" in found:
        low, high = found["nll_less_one_pass_interval"]
        cells.append(f"{found['nll_less_one_pass']:+.3f} [{low:+.3f}, {high:+.3f}]")
    else:
        cells.append("-")
    return f"| {' | '.join(cells)} |"


def _area(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['auroc']:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Parse, measure, print a Markdown table."""
    options = parse_arguments()
    print(f"| {' | '.join(_COLUMNS)} |")
    print(f"| --- |{' ---: |' * (len(_COLUMNS) - 1)}")
    results = {}
    for name in options.models:
        results[name] = compare(name, options)
        for method, found in results[name].items():
            print(row(f"{name}, {method}", found), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
