"""Run a recipe over seeds and settings.

    stodepth sweep short_digits --seeds 1..5 --grid 'prob_0_L=[[1,1],[1,.5]]' --epochs 5

Runs that are finished are skipped, runs that were stopped go on. --print shows the commands instead, --slurm FILE
writes a job array. Settings of stodepth train, such as --epochs, and what stands after -- go to every run.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..errors import SettingsError
from ..flags import Parser
from ..run.train import EXIT_RESUME_ME
from ..settings import as_settings, setting_types, whole_name
from ..slurm import Cluster, slurm_script
from ..sweep import parse_grid, parse_seeds, plan, run_all

# Each launcher, such as torchrun, takes a module in the place of a file.
TRAIN = ("-m", "stodepth_models", "train")


def main(words: Sequence[str]) -> int:
    """Parse, then run, print or write; the exit code is that of the runs."""
    options, extra = _parse(words)
    wishes = _cluster_options(options)
    if wishes and not options.slurm:
        raise SettingsError(f"--{next(iter(wishes))} is for a SLURM job: add --slurm FILE")
    if options.slurm and options.print:
        raise SettingsError("--print and --slurm exclude one another: leave one of them out")
    seeds, grid = parse_seeds(options.seeds), _whole_names(parse_grid(options.grid))
    runs = plan(options.configs, seeds, grid, options.output, extra)
    program = [*shlex.split(options.launcher), *TRAIN]
    if options.slurm:
        script = slurm_script(runs, program, EXIT_RESUME_ME, options.output, Cluster(**wishes))
        options.output.mkdir(parents=True, exist_ok=True)
        options.slurm.write_text(script, encoding="utf-8")
        print(f"runs in the job array: {len(runs)}; start it with sbatch {options.slurm}")
    elif options.print:
        for run in runs:
            if not run.finished:
                print(shlex.join([*program, *run.arguments]))
    else:
        if shutil.which(program[0]) is None:
            raise SettingsError(f"--launcher: there is no program {program[0]}")
        return run_all(runs, program, lambda text: print(text, flush=True), EXIT_RESUME_ME)
    return 0


def _whole_names(grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
    types = setting_types(TrainConfig)
    whole: dict[str, list[Any]] = {}
    for key, values in grid.items():
        name = whole_name(key, types)
        if name == "model":  # short for its name, as on the command line of a run
            name = "model.name"
        if name in whole:
            raise SettingsError(f"--grid gives {name} twice: put all of its values into one list")
        whole[name] = values
    return whole


def _cluster_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what is asked of the cluster, by name."""
    wishes = {}
    for name in ("partition", "account", "time", "nodes"):
        if getattr(options, name) is not None:
            wishes[name] = getattr(options, name)
    return wishes


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of the sweep, and the settings of its runs."""
    parser = Parser("sweep", __doc__ or "")
    parser.add_argument("configs", metavar="RECIPE", nargs="+", type=Path, help="YAML file, or name of a recipe.")
    parser.add_argument("--seeds", default="0", help="Seeds such as 1..5 or 1,2,7. Default: 0.")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=[VALUES]", help="Values of a setting; may be repeated."
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("runs"), help="Folder of the runs. Default: runs.")
    parser.add_argument(
        "--launcher", default=sys.executable, help="What starts a run, such as 'torchrun --nproc-per-node 4'."
    )
    parser.add_argument("--print", action="store_true", help="Print the commands of the runs that are left.")
    parser.add_argument("--slurm", type=Path, metavar="FILE", help="Write a SLURM job array.")
    parser.add_argument("--partition", help="Partition of the job array. Default: the cluster's.")
    parser.add_argument("--account", help="Account of the job array. Default: the user's.")
    parser.add_argument("--time", help="Time limit of a task of the job array, such as 2-12. Default: 24:00:00.")
    parser.add_argument("--nodes", type=int, help="Machines a run; above 1 the launcher must be torchrun. Default: 1.")
    types = setting_types(TrainConfig)
    before, after = list(words), []
    if "--" in words:
        cut = before.index("--")
        before, after = before[:cut], before[cut + 1 :]
    own, settings = _split(before, parser.flags, types)
    options = parser.parse_words(own)
    return options, as_settings([*settings, *after], types)


def _split(words: Sequence[str], flags: Sequence[str], types: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Part the words of the sweep from the settings of its runs, such as ``--epochs 3``."""
    own: list[str] = []
    settings: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            own.append(word)
            continue
        typed, equals, value = word.removeprefix("--").partition("=")
        name = whole_name(typed, types, (*flags, "config"))
        if name == "config":
            own += [value] if equals else []
        elif name in flags:
            own.append(word)
        else:
            settings.append(word)
            settings += _values_of(types.get(name), equals, rest)
    return own, settings


def _values_of(kind: Any, equals: str, rest: list[str]) -> list[str]:
    """Take the words off ``rest`` that are the value of a flag of this type."""
    if equals or (kind is bool and rest[:1] not in (["true"], ["false"])):
        return []
    return [rest.pop(0)] if rest else []
