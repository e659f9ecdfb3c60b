#!/usr/bin/env python3
"""Copy the records of finished runs in a small form: ``python scripts/collect_runs.py runs/ -o docs/results``."""

import argparse
from pathlib import Path

from stodepth_models.training.exits import run_script
from stodepth_models.training.report.collect import collect


def main() -> None:
    """Parse and copy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of runs, at any depth, or a run")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/results"), help="folder of the copies")
    options = parser.parse_args()
    names = collect(options.runs, options.output)
    print(f"{len(names)} runs in {options.output}")


if __name__ == "__main__":
    run_script(main)
