#!/usr/bin/env python3
"""Which models of torchvision, timm and transformers apply_stochastic_depth converts, as Markdown tables.

    python scripts/list_families.py
    python scripts/list_families.py timm --examples  # a model name for each module, outcome and block class

A family is the module that a model's builder stands in. Each model is built without memory for its weights, with masks
(drop path) where it takes a rate, and then converted. A model of which masks would stay is refused. Masks that stay in
silence are reported, and the exit code is 1. Takes about ten minutes for all of timm.
"""

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torchvision
import transformers
from walk import WALKS, Outcome

FAMILIES_A_LINE = 3
VERSIONS = {library.__name__: library.__version__ for library in (timm, torchvision, transformers)}


@dataclass
class Family:
    """Models that one module of a library builds.

    Attributes:
        converted: names of those that are converted.
        refused: names of the others, each with what is said of it.
    """

    converted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, outcome: Outcome) -> None:
        """Count a model."""
        if outcome.kind in ("converted", "without masks"):
            self.converted.append(name)
        else:
            self.refused[name] = outcome.message or "; ".join(outcome.faults)


def walk(library: str, pattern: str) -> dict[str, tuple[str, Outcome]]:
    """Return the family of each model of a library with ``pattern`` in its name, and what becomes of the model."""
    list_names, walk_one = WALKS[library]
    found = {}
    for name in list_names():
        if pattern in name:
            try:
                found[name] = walk_one(name)
            except Exception as error:  # such as a library that is not installed
                found[name] = (name, Outcome("not built", faults=[str(error).strip().splitlines()[0]]))
    return found


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


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or the examples; the exit code is 1 where masks stay in silence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", default=list(WALKS), metavar="library", help=", ".join(WALKS))
    parser.add_argument("--name", default="", help="only models with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every name, and why it was refused, to FILE")
    parser.add_argument("--examples", action="store_true", help="print a model name for each combination instead")
    args = parser.parse_args(argv)
    report = {}
    wrong = 0
    for library in args.libraries:
        if library not in WALKS:
            parser.error(f"no library {library!r}: {', '.join(WALKS)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # builders warn of initialisations that do nothing without memory
            found = walk(library, args.name)
        families: dict[str, Family] = {}
        examples: dict[str, str] = {}
        for name, (family, outcome) in found.items():
            families.setdefault(family, Family()).add(name, outcome)
            examples.setdefault(f"{family}: {outcome.kind} {' '.join(outcome.classes)}", name)
            for fault in outcome.faults:
                print(f"{name}: {outcome.kind}: {fault}", file=sys.stderr)
            wrong += outcome.kind == "wrong"
        if args.examples:
            for combination in sorted(examples):
                print(f"{examples[combination]}  # {combination}")
        else:
            kinds = Counter(outcome.kind for _, outcome in found.values())
            print(f"\n{library} {VERSIONS[library]}\n\n{to_table(families)}\n")
            print(", ".join(f"{kind}: {count}" for kind, count in kinds.most_common()))
        report[library] = {name: vars(family) for name, family in families.items()}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
