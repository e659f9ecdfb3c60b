#!/usr/bin/env python3
"""Train or fine-tune a model of the zoo: ``python scripts/train.py --config configs/short_cifar10_resnet20.yaml``."""

from stodepth_models.training.cli import parse, run_script
from stodepth_models.training.config import TrainConfig
from stodepth_models.training.run.train import train


def main() -> int:
    """Parse and train."""
    return train(parse(TrainConfig, description=__doc__ or ""))


if __name__ == "__main__":
    run_script(main)
