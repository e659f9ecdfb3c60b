"""The command ``stodepth COMMAND ...``; ``python -m stodepth_models COMMAND ...`` is the same.

This module stands outside the package: to import the package is to import PyTorch, which takes seconds, and a list of
commands needs neither.
"""

import sys
from difflib import get_close_matches
from typing import NoReturn

COMMANDS = {
    "train": "Train or fine-tune a model of the zoo.",
    "evaluate": "Measure the accuracy of weights on a data set.",
    "predict": "Classify images.",
    "sweep": "Train a recipe over seeds and settings.",
    "report": "Turn runs into tables and plots.",
    "convert": "Convert weights into another format.",
    "publish": "Enter the weights of a run into the index of a checkout.",
    "weights": "List the weights that ship, and how to load them.",
}

_FIRST_STEPS = (
    "With images in pets/train/CLASS/ and pets/test/CLASS/:",
    "",
    "  stodepth train --config short_folder --data pets --output runs/pets",
    "  stodepth evaluate --weights runs/pets",
    "  stodepth predict --weights runs/pets cat.png",
    "  stodepth report runs/",
)


def main(*before: str) -> NoReturn:
    """Run a command and leave with its exit code.

    Args:
        *before: words that stand before those of this process; the first of all is the name of the command.
    """
    name, *arguments = [*before, *sys.argv[1:]] or ["--help"]
    if name in ("-h", "--help"):
        print(_overview())
        sys.exit(0)
    if name not in COMMANDS:
        print(f"error: {_unknown(name)}", file=sys.stderr)
        sys.exit(2)
    from stodepth_models.training.commands import run

    run(name, arguments)


def _overview() -> str:
    lines = ["usage: stodepth COMMAND ...", "", "Models with stochastic depth, from the shell.", ""]
    for name, sentence in COMMANDS.items():
        lines.append(f"  {name:<10}{sentence}")
    lines += ["", *_FIRST_STEPS, "", "stodepth COMMAND --help describes the arguments of a command."]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    message = f"there is no command {name!r}"
    near = get_close_matches(name, COMMANDS, n=1)
    if near:
        message += f"; did you mean {near[0]}?"
    return f"{message} Known: {', '.join(COMMANDS)}"


if __name__ == "__main__":
    main()
