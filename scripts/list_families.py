#!/usr/bin/env python3
"""Which models of torchvision and timm apply_stochastic_depth converts, counted by family, as a Markdown table.

    python scripts/list_families.py

A family is the module that a model's builder stands in. Each model is built, without memory for its weights where its
builder allows, with masks (drop path) where it takes a rate, and then converted. A model of which masks would stay is
refused. Takes about ten minutes for all of timm.
"""

import argparse
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torchvision
from accelerate import init_empty_weights
from torch import nn

import stodepth_models as sdm

RATE = 0.1
FAMILIES_A_LINE = 3


@dataclass
class Family:
    """Models that one module of a library builds.

    Attributes:
        converted: names of those that are converted.
        refused: names of the others, each with the message of the error.
    """

    converted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def models_of_torchvision() -> Iterator[tuple[str, str, Callable[[], nn.Module]]]:
    """Yield family, name and builder of every model of torchvision."""
    for name in torchvision.models.list_models():
        builder = torchvision.models.get_model_builder(name)
        if builder.__module__.startswith("torchvision."):
            family = builder.__module__.removeprefix("torchvision.models.")
            options = {} if family.startswith(("optical_flow", "quantization")) else {"weights": None}
            if family.startswith(("detection", "segmentation")):
                options["weights_backbone"] = None
            yield family, name, lambda builder=builder, options=options: builder(**options)


def models_of_timm() -> Iterator[tuple[str, str, Callable[[], nn.Module]]]:
    """Yield family, name and builder of every model of timm."""
    for name in timm.list_models():
        family = timm.model_entrypoint(name).__module__.removeprefix("timm.models.")
        yield family, name, lambda name=name: build_of_timm(name)


def build_of_timm(name: str) -> nn.Module:
    """Return a model of timm with masks, or without them where its builder does not take a rate."""
    try:
        return timm.create_model(name, drop_path_rate=RATE)
    except TypeError:
        return timm.create_model(name)


LIBRARIES = {"torchvision": models_of_torchvision, "timm": models_of_timm}


def convert(build: Callable[[], nn.Module]) -> str | None:
    """Build a model and convert it; return the message of the error, or None."""
    try:
        try:
            with init_empty_weights():
                model = build()
        except RuntimeError:  # some builders compute
            model = build()
        sdm.apply_stochastic_depth(model, drop_rate=RATE)
    except Exception as error:  # also of a builder: each model counts
        return f"{type(error).__name__}: {error}"
    return None


def walk(library: str, pattern: str) -> dict[str, Family]:
    """Return the families of a library whose models have ``pattern`` in their name."""
    families: dict[str, Family] = {}
    for family, name, build in LIBRARIES[library]():
        if pattern not in name:
            continue
        found = families.setdefault(family, Family())
        wrong = convert(build)
        if wrong is None:
            found.converted.append(name)
        else:
            found.refused[name] = wrong
    return families


def to_table(families: dict[str, Family]) -> str:
    """Return a table of the families that are converted, several a line, and below it the names of the others."""
    cells = []
    others = []
    converted = total = 0
    for name in sorted(families):
        family = families[name]
        count = len(family.converted) + len(family.refused)
        total += count
        converted += len(family.converted)
        if not family.converted:
            others.append(f"`{name}` {count}")
        elif family.refused:
            cells.append(f"`{name}` | {len(family.converted)} of {count}")
        else:
            cells.append(f"`{name}` | {count}")
    lines = ["| family | models " * FAMILIES_A_LINE + "|", "|---" * 2 * FAMILIES_A_LINE + "|"]
    for start in range(0, len(cells), FAMILIES_A_LINE):
        of_line = cells[start : start + FAMILIES_A_LINE]
        of_line += [" | "] * (FAMILIES_A_LINE - len(of_line))
        lines.append("| " + " | ".join(of_line) + " |")
    lines += ["", f"{converted} of {total} models are converted. The others: {', '.join(others)}."]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", default=list(LIBRARIES), metavar="library", help=", ".join(LIBRARIES))
    parser.add_argument("--name", default="", help="only models with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every name, and why it was refused, to FILE")
    args = parser.parse_args(argv)
    report = {}
    for library in args.libraries:
        if library not in LIBRARIES:
            parser.error(f"no library {library!r}: {', '.join(LIBRARIES)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # builders warn of initialisations that do nothing without memory
            families = walk(library, args.name)
        print(f"\n{library} {torchvision.__version__ if library == 'torchvision' else timm.__version__}\n")
        print(to_table(families))
        report[library] = {name: vars(family) for name, family in families.items()}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    logging.getLogger("stodepth_models").setLevel(logging.ERROR)  # a line for each model would hide the tables
    main()
