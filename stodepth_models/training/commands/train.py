"""``stodepth train``: train or fine-tune a model of the zoo."""

from collections.abc import Sequence

from ..cli import parse
from ..config import TrainConfig
from ..run.train import train

DESCRIPTION = "Train or fine-tune a model of the zoo: stodepth train --config short_digits"


def main(words: Sequence[str]) -> int:
    """Parse and train; the exit code says whether the run is finished."""
    return train(parse(TrainConfig, words, DESCRIPTION, "train"))
