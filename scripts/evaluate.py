#!/usr/bin/env python3
"""Evaluate weights: ``python scripts/evaluate.py --model.weights best.safetensors --data.name digits``."""

from stodepth_models.training.cli import parse, run_script
from stodepth_models.training.config import EvaluateConfig
from stodepth_models.training.evaluation import evaluate_weights, report


def main() -> None:
    """Parse, evaluate, print."""
    config = parse(EvaluateConfig, description=__doc__ or "")
    print(report(evaluate_weights(config), config.json))


if __name__ == "__main__":
    run_script(main)
