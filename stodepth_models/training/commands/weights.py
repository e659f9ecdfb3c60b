"""``stodepth weights``: the weights that are published, and how to load them."""

from collections.abc import Sequence

from ...weights.table import list_weights
from ..flags import Parser

_HOW = """
Those of the CIFAR family whose data are called CIFAR-10 (JPEG) ship with the package, the others are downloaded.
In Python, with the model and the weights of a line:

    import stodepth_models as sdm
    model = sdm.cifar_resnet20_stodepth_lineardecay(weights="CIFAR10_JPEG_V1")

From the shell:

    stodepth predict --model cifar_resnet20 --weights CIFAR10_JPEG_V1 cat.png"""


def main(words: Sequence[str]) -> None:
    """Parse and list."""
    parser = Parser("weights", "List the weights that are published, and how to load them. Nothing is downloaded.")
    parser.parse_words(words)
    print(list_weights())
    print(_HOW)
