"""A sweep as a SLURM job array: a task a run."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from .errors import SettingsError
from .sweep import Run


def slurm_script(runs: Sequence[Run], program: Sequence[str], stop_code: int, log_folder: Path) -> str:
    """Return a SLURM job array with a task a run; a task that is taken from its machine goes back into the queue.

    Args:
        runs: of the sweep.
        program: what the arguments are given to.
        stop_code: exit code of a run that was asked to stop.
        log_folder: of the tasks' output.

    Raises:
        SettingsError: sbatch cannot read the path of the log folder.
    """
    commands = "\n".join(f"  {shlex.quote(shlex.join([*program, *run.arguments]))}" for run in runs)
    folders = "\n".join(f"  {shlex.quote(str(run.folder))}" for run in runs)
    logs = _pattern(log_folder)
    return _SLURM.format(last=len(runs) - 1, commands=commands, folders=folders, stop=stop_code, logs=logs)


def _pattern(folder: Path) -> str:
    """Return a path as it stands between the double quotes of an ``#SBATCH`` line, where ``%`` marks a replacement."""
    text = str(folder)
    if any(character in '"\\#' or not character.isprintable() for character in text):
        raise SettingsError(f"output: sbatch takes no quotes, backslashes, # or control characters, got {text!r}")
    return text.replace("%", "%%")


_SLURM = """\
#!/bin/bash
#SBATCH --job-name=stodepth
#SBATCH --array=0-{last}
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output="{logs}/%A_%a.log"

commands=(
{commands}
)
folders=(
{folders}
)
command=${{commands[$SLURM_ARRAY_TASK_ID]}}
folder=${{folders[$SLURM_ARRAY_TASK_ID]}}
[ -e "$folder/result.json" ] && exit 0

# 120 seconds before the end the batch shell gets SIGTERM; the run saves a checkpoint and this task is queued again.
stopped=0
trap 'stopped=1; kill -TERM "$child"' TERM
eval "exec_run() {{ exec $command; }}"
exec_run &
child=$!
wait "$child"
code=$?
if [ "$stopped" = 1 ]; then
  wait "$child"
  code=$?
fi
if [ "$code" = {stop} ] || {{ [ "$stopped" = 1 ] && [ ! -e "$folder/result.json" ]; }}; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""
