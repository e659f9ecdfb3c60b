"""``stodepth train``: train or fine-tune a model of the zoo."""

from collections.abc import Sequence

from ..cli import parse
from ..config import TrainConfig
from ..run.train import train

DESCRIPTION = """Train or fine-tune a model.

    stodepth train --config short_digits
    stodepth train --config short_folder --data pets --model resnet18 --output runs/pets
    stodepth train --config finetune --data pets --model resnet18 --weights IMAGENET1K_V1

The end of a name suffices where no other ends so: --lr for --optim.lr; - and _ are alike."""


def main(words: Sequence[str]) -> int:
    """Parse and train; the exit code says whether the run is finished."""
    return train(parse(TrainConfig, words, DESCRIPTION, "train"))
