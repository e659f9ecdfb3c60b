"""Run a recipe over seeds and settings.

    stodepth sweep short_digits --seeds 1..5 --grid 'model.prob_0_L=[[1,1],[1,.5]]'

Runs that are finished are skipped, runs that were stopped go on. --print shows the commands instead, --slurm FILE
writes a job array. Arguments after -- go to every run.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SettingsError
from ..run.train import EXIT_RESUME_ME
from ..slurm import Cluster, slurm_script
from ..sweep import parse_grid, parse_seeds, plan, run_all

# Each launcher, such as torchrun, takes a module in the place of a file.
TRAIN = ("-m", "stodepth_models", "train")


def main(words: Sequence[str]) -> int:
    """Parse, then run, print or write; the exit code is that of the runs."""
    options, extra = _parse(words)
    given = [name for name, value in _cluster_options(options).items() if value is not None]
    if given and not options.slurm:
        raise SettingsError(f"--{given[0]} is for a SLURM job: add --slurm FILE")
    seeds, grid = parse_seeds(options.seeds), parse_grid(options.grid)
    runs = plan(options.configs, seeds, grid, options.output, extra)
    program = [*shlex.split(options.launcher), *TRAIN]
    if options.slurm:
        wishes = {name: value for name, value in _cluster_options(options).items() if value is not None}
        script = slurm_script(runs, program, EXIT_RESUME_ME, options.output, Cluster(**wishes))
        options.output.mkdir(parents=True, exist_ok=True)
        options.slurm.write_text(script, encoding="utf-8")
        print(f"{len(runs)} runs: sbatch {options.slurm}")
    elif options.print:
        print("\n".join(shlex.join([*program, *run.arguments]) for run in runs if not run.finished))
    else:
        return run_all(runs, program, lambda text: print(text, flush=True), EXIT_RESUME_ME)
    return 0


def _cluster_options(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("partition", "account", "time", "nodes")}


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="stodepth sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", type=Path, help="YAML files of settings")
    parser.add_argument("--seeds", default="0", help="1..5 or 1,2,7")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=[VALUES]", help="may be given repeatedly")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--launcher", default=sys.executable, help="such as 'torchrun --nproc-per-node 4'")
    parser.add_argument("--print", action="store_true", help="print the commands of the runs that are left")
    parser.add_argument("--slurm", type=Path, metavar="FILE", help="write a SLURM job array")
    parser.add_argument("--partition", help="of the job array; none given: the cluster's default")
    parser.add_argument("--account", help="of the job array; none given: the user's default")
    parser.add_argument("--time", help="limit of a task of the job array, such as 24:00:00, the default, or 2-12")
    parser.add_argument("--nodes", type=int, help="machines a run; above 1 the launcher must be torchrun")
    arguments = list(words)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    return parser.parse_args(arguments[:cut]), arguments[cut + 1 :]
