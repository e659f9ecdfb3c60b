#!/usr/bin/env python3
"""Turn runs into tables and plots: ``python scripts/report.py runs/ -o report/``."""

import argparse
from pathlib import Path

from stodepth_models.training.cli import run_script
from stodepth_models.training.report import write_report


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of runs, at any depth")
    parser.add_argument("-o", "--output", type=Path, default=Path("report"), help="folder of the report")
    parser.add_argument(
        "--processor-time", action="store_true", help="compare processor time: for runs that shared a CPU with others"
    )
    options = parser.parse_args()
    count, unfinished = write_report(options.runs, options.output, options.processor_time)
    print(f"{count} runs in {options.output / 'index.html'}; {len(unfinished)} not finished, left out")


if __name__ == "__main__":
    run_script(main)
