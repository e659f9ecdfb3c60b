"""Many runs: one for each seed and each point of a grid of settings."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .cli import parse
from .config import TrainConfig
from .errors import SettingsError
from .run.differences import differences
from .run.folder import RunFolder
from .run.signals import ForwardSignals


@dataclass(frozen=True)
class Run:
    """One training run of a sweep.

    Attributes:
        arguments: of ``train.py``; they resume the run where it has begun.
        folder: of the run.
    """

    arguments: tuple[str, ...]
    folder: Path

    @property
    def finished(self) -> bool:
        """Whether the run has its final figures."""
        return RunFolder(self.folder).result.exists()


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of ``1..5`` or ``1,2,7``.

    Raises:
        SettingsError: neither of the two.
    """
    seeds = []
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        seeds = list(range(int(match[1]), int(match[2]) + 1))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        seeds = [int(part) for part in text.split(",")]
    if not seeds:
        raise SettingsError(f"--seeds must be like 1..5 or 1,2,7, got {text!r}")
    return seeds


def parse_grid(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of each setting of ``model.prob_0_L=[[1,1],[1,.5]]``.

    Raises:
        SettingsError: no ``=``, no list of values after it, or a setting that comes twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        try:
            parsed = yaml.safe_load(values)
        except yaml.YAMLError:
            parsed = None
        if not key or not isinstance(parsed, list) or not parsed:
            raise SettingsError(f"--grid must be like optim.lr=[0.1,0.2], got {text!r}")
        if key in grid:
            raise SettingsError(f"--grid gives {key} twice: put all of its values into one list")
        grid[key] = parsed
    return grid


def plan(
    configs: Sequence[Path], seeds: Sequence[int], grid: dict[str, list[Any]], output: Path, extra: Sequence[str] = ()
) -> list[Run]:
    """Return all runs, each checked as ``train.py`` would check it.

    Args:
        configs: a file of settings for each part of the sweep.
        seeds: run for each point of the grid.
        grid: values by setting; all combinations are run.
        output: the runs go to ``output/<config>[-<setting>...]/seed<n>``.
        extra: further arguments of ``train.py`` for all runs.

    Raises:
        SettingsError: a folder holds a run with other settings, two runs would go to the same folder, the grid or the
            further arguments name ``seed``, ``output`` or ``resume``, or both name the same setting.
    """
    _refuse_repeated_settings(grid, extra)
    runs: list[Run] = []
    for config, *values in itertools.product(configs, *grid.values()):
        point = dict(zip(grid, values, strict=True))
        name = _folder_name(config, point)
        settings = [f"--{key}={_as_yaml(value)}" for key, value in point.items()]
        for seed in seeds:
            folder = output / name / f"seed{seed}"
            # The grid after the further arguments, and what the sweep gives after both: the last one counts.
            arguments = (
                f"--config={config}",
                *extra,
                *settings,
                f"--seed={seed}",
                f"--output={folder}",
                "--resume",  # of a folder without a run, begins one
            )
            _refuse_another_run(folder, parse(TrainConfig, arguments))
            # Two values may be alike once they are written as a folder's name.
            if any(run.folder == folder for run in runs):
                raise SettingsError(f"output: two runs would go to {folder}; sweep them one after the other, with -o")
            runs.append(Run(arguments, folder))
    return runs


def run_all(runs: Sequence[Run], program: Sequence[str], say: Callable[[str], None], stop_code: int) -> int:
    """Run what is not finished, one after the other.

    Args:
        runs: of the sweep.
        program: what the arguments are given to.
        say: called with one line for each run.
        stop_code: exit code of a run that was asked to stop; the sweep stops with it, as it does where it was asked
            itself, which asks the run.

    Returns:
        0, the stop code, or 1 where a run failed; the others have been run all the same.
    """
    failed = []
    with ForwardSignals() as programs:
        for number, run in enumerate(runs, start=1):
            where = f"[{number}/{len(runs)}] {run.folder}"
            if run.finished:
                say(f"{where}: finished before")
                continue
            say(where)
            code = programs.run([*program, *run.arguments])
            # A launcher has an exit code of its own where the run was stopped.
            if programs.stopped_by or code == stop_code:
                stopped = "stopped"
                if programs.stopped_by:
                    stopped = f"stopped by {programs.stopped_by}"
                say(f"{stopped}: the same command goes on")
                return stop_code
            if code != 0:
                failed.append(str(run.folder))
    # One run that fails does not keep the others of a night from being done.
    if not failed:
        return 0
    say(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")
    return 1


def _refuse_repeated_settings(grid: dict[str, list[Any]], extra: Sequence[str]) -> None:
    """Raise where the grid or the further arguments give what the sweep gives, or both give the same setting."""
    further = set()
    for part in extra:
        if part.startswith("--"):
            name = part.partition("=")[0]
            further.add(name.removeprefix("--"))
    for name in ("seed", "output", "resume"):
        if name in grid or name in further:
            raise SettingsError(f"{name} is given by the sweep itself: use --seeds and -o")
    for name in grid:
        if name in further:
            raise SettingsError(f"{name} is given by --grid and for all runs: leave one of them out")


def _folder_name(config: Path, point: dict[str, Any]) -> str:
    parts = [config.stem]
    for key, value in point.items():
        setting = key.rsplit(".")[-1]
        parts.append(f"{setting}_{_slug(value)}")
    return "-".join(parts)


def _refuse_another_run(folder: Path, config: TrainConfig) -> None:
    """Raise where a folder holds a run, finished or not, that computed something else."""
    run = RunFolder(folder)
    if not run.config.exists():
        return
    changed = differences(run.saved()["settings"], config)
    if changed:
        raise SettingsError(f"output: {folder} was run with other settings: {'; '.join(changed)}; give another -o")


def _as_yaml(value: Any) -> str:
    # In one line, however long; a scalar is followed by a line of its own that ends the document.
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.splitlines()[0]


def _slug(value: Any) -> str:
    return re.sub(r"[^\w.]+", "-", str(value)).strip("-")
