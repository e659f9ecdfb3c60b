"""``stodepth evaluate``: the accuracy of weights on a data set."""

from collections.abc import Sequence

from ..cli import parse
from ..config import EvaluateConfig
from ..evaluation import evaluate_weights, report

DESCRIPTION = "Measure the accuracy of weights on a data set."


def main(words: Sequence[str]) -> None:
    """Parse, evaluate, print."""
    config = parse(EvaluateConfig, words, DESCRIPTION, "evaluate")
    print(report(evaluate_weights(config), config.json))
