"""Flags as people type them: ``-`` for ``_``, the end of a long name for all of it, and a hint where one is wrong."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ..checks import nearest
from .errors import SettingsError

# Names that other projects have for a setting.
_ELSEWHERE = {
    "arch": "model", "architecture": "model", "ckpt": "weights", "checkpoint": "weights", "pretrained": "weights",
    "batch": "batch_size", "bs": "batch_size", "learning_rate": "lr", "num_epochs": "epochs", "wd": "weight_decay",
    "dataset": "data", "data_dir": "data", "data_path": "data", "dir": "output", "output_dir": "output",
    "out": "output", "num_workers": "workers", "topk": "top", "max_epochs": "epochs", "optimizer": "opt",
    "scheduler": "sched", "img_size": "image_size", "drop_path": "drop_rate", "drop_path_rate": "drop_rate",
    "amp": "precision", "half": "precision", "save_dir": "output", "ema": "model_ema", "grad_clip": "clip_grad",
}  # fmt: skip
_GPU = "a GPU is used where there is one, and --cpu leaves it alone"
_RGB = "images are read as RGB, grey ones too (docs/training.md, 'Grey images and other channels')"
# What other projects have a flag for, and the commands with a flag --cpu do without one.
_NEEDLESS = {
    **dict.fromkeys(("device", "gpu", "gpus", "cuda", "accelerator"), _GPU),
    **dict.fromkeys(("in_chans", "in_channels", "num_channels"), _RGB),
}


def find_flag(typed: str, known: Sequence[str]) -> str:
    """Return the flag that a typed one means; ``-`` and ``_`` and upper and lower case are alike.

    Args:
        typed: without dashes in front; the last part of a name with dots, such as ``lr``, where only one has it.
        known: all names, as they are written.

    Raises:
        SettingsError: no flag is meant, or several.
    """
    wanted = _alike(typed)
    for name in known:
        if _alike(name) == wanted:
            return name
    ends = [name for name in known if _last_part(name) == wanted]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise SettingsError(f"--{typed} may be --{' or --'.join(ends)}: give the whole name")
    parts = [f"there is no --{typed}"]
    hint = _hint(wanted, known)
    if hint:
        parts.append(hint)
    raise SettingsError("; ".join([*parts, "--help lists what there is"]))


def _hint(wanted: str, known: Sequence[str]) -> str:
    names = {_alike(name): f"--{name}" for name in known}
    for name in known:
        names.setdefault(_last_part(name), f"--{name}")
    if wanted in _NEEDLESS and "cpu" in names:
        return _NEEDLESS[wanted]
    if _ELSEWHERE.get(wanted) in names:
        return f"did you mean {names[_ELSEWHERE[wanted]]}?"
    if wanted.startswith("no_") and wanted.removeprefix("no_") in names:
        return f"did you mean {names[wanted.removeprefix('no_')]} false?"
    near = nearest(wanted, names)
    if not near:
        return ""
    return f"did you mean {names[near[0]]}?"


def _alike(name: str) -> str:
    return name.replace("-", "_").lower()


def _last_part(name: str) -> str:
    return _alike(name).rpartition(".")[2]


def count(text: str) -> int:
    """Return a number from 1 on, for the ``type`` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text}")
    return int(text)


class Parser(argparse.ArgumentParser):
    """A parser of the standard library that takes flags as :func:`find_flag` does, and complains in one line.

    Args:
        command: name of the command.
        description: shown by ``--help`` as it is written.
    """

    def __init__(self, command: str, description: str) -> None:
        self.flags: list[str] = []  # names of all flags, without their dashes
        super().__init__(
            prog=f"stodepth {command}", description=description, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    def parse_words(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the values of the arguments.

        Raises:
            SettingsError: an argument is missing, unknown or wrong.
        """
        return self.parse_intermixed_args([self._spelled_out(word) for word in words])

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument as the standard library does, and keep the names of its flags."""
        flags = [name.removeprefix("--") for name in names if name.startswith("--")]
        self.flags += flags
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage: a command ends with one line."""
        raise SettingsError(f"{message.removeprefix('argument ')}; stodepth {self.prog.split()[-1]} --help says more")

    def _spelled_out(self, word: str) -> str:
        if not word.startswith("--") or word == "--":
            return word
        name, *value = word.removeprefix("--").split("=", 1)
        return "=".join([f"--{find_flag(name, self.flags)}", *value])
