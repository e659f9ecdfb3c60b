"""A sweep as a SLURM job array: a task a run."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from .errors import SettingsError
from .sweep import Run

_CPUS_PER_GPU = 8

# Options of launchers for the number of processes: torchrun takes that of each machine, accelerate that of all.
_PER_NODE = ("--nproc-per-node", "--nproc_per_node")
_IN_ALL = ("--num_processes", "--num-processes")
_MACHINES = ("--num_machines", "--num-machines")
_NODES = ("--nnodes",)


@dataclass(frozen=True)
class Cluster:
    """What a job requests of the cluster.

    Attributes:
        partition: empty: the cluster's default.
        account: empty: the user's default.
        time: limit of a task as SLURM writes it, such as ``24:00:00`` or ``2-12``.
        nodes: machines a run; above 1 the launcher must be torchrun.
    """

    partition: str = ""
    account: str = ""
    time: str = "24:00:00"
    nodes: int = 1

    def __post_init__(self) -> None:
        for name, pattern in (("partition", r"[\w.,@+-]*"), ("account", r"[\w.,@+-]*"), ("time", r"[\d:-]+")):
            value = getattr(self, name)
            if not re.fullmatch(pattern, value, re.ASCII):
                raise SettingsError(f"--{name} must be as sbatch takes it, got {value!r}")
        if self.nodes < 1:
            raise SettingsError(f"--nodes must be at least 1, got {self.nodes}")


def slurm_script(
    runs: Sequence[Run], program: Sequence[str], stop_code: int, log_folder: Path, cluster: Cluster | None = None
) -> str:
    """Return a SLURM job array with a task a run; a task that is taken from its machine goes back into the queue.

    A task requests as many GPUs as the launcher starts processes.

    Args:
        runs: of the sweep.
        program: what the arguments are given to: a launcher, and the script of training.
        stop_code: exit code of a run that was asked to stop.
        log_folder: of the tasks' output.
        cluster: what a task requests; None: the defaults of :class:`Cluster`.

    Raises:
        SettingsError: sbatch cannot read the path of the log folder, the number of processes is no number, or the
            launcher cannot start processes on several machines.
    """
    cluster = cluster or Cluster()
    # Before the launcher is given more options, of which one is a number of machines.
    gpus = processes_per_node(program)
    program = _on_nodes(program, cluster.nodes)
    commands = []
    folders = []
    for run in runs:
        commands.append(f"  {shlex.quote(_command(program, run))}")
        folders.append(f"  {shlex.quote(str(run.folder))}")
    setup = ""
    if cluster.nodes > 1:
        setup = _FIND_HEAD
    return _SLURM.format(
        last=len(runs) - 1,
        requests="\n".join(_requests(cluster, gpus)),
        setup=setup,
        commands="\n".join(commands),
        folders="\n".join(folders),
        stop=stop_code,
        logs=_pattern(log_folder),
    )


def _requests(cluster: Cluster, gpus: int) -> list[str]:
    """The lines of the script that request machines, GPUs and time."""
    lines = [
        f"#SBATCH --nodes={cluster.nodes}",
        "#SBATCH --ntasks-per-node=1",  # the launcher, which starts the processes
        f"#SBATCH --gpus-per-node={gpus}",
        f"#SBATCH --cpus-per-task={gpus * _CPUS_PER_GPU}",
        f"#SBATCH --time={cluster.time}",
    ]
    if cluster.partition:
        lines.append(f"#SBATCH --partition={cluster.partition}")
    if cluster.account:
        lines.append(f"#SBATCH --account={cluster.account}")
    return lines


def processes_per_node(program: Sequence[str]) -> int:
    """Return how many processes a launcher starts on each machine; 1 for a program that is no launcher.

    Raises:
        SettingsError: the launcher would find out by itself, on a machine that is not known yet.
    """
    count = _number(program, _PER_NODE)
    if count is not None:
        return count
    in_all = _number(program, _IN_ALL) or 1
    machines = _number(program, _MACHINES) or 1
    return max(1, in_all // machines)


def _number(program: Sequence[str], options: Sequence[str]) -> int | None:
    """The value of one of these options of a launcher, None where it is not given."""
    # "--option=value" and "--option value" alike.
    words = []
    for word in program:
        words += word.split("=", 1)
    for option, value in pairwise(words):
        if option in options:
            if not value.isdecimal():
                raise SettingsError(f"--launcher: {option} must be a number for a SLURM job, got {value!r}")
            return int(value)
    return None


def _on_nodes(program: Sequence[str], nodes: int) -> list[str]:
    """The program, started on each machine of a job; its processes find one another through the first machine."""
    if nodes == 1:
        return list(program)
    names = [Path(word).name for word in program]
    after = 0  # the place behind the launcher
    for launcher in ("torchrun", "torch.distributed.run"):
        if launcher in names:
            after = names.index(launcher) + 1
            break
    if after == 0 or _number(program, _NODES) is not None:
        raise SettingsError(f"--nodes={nodes} needs --launcher 'torchrun --nproc-per-node N', without --nnodes")
    meeting = [
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        "--rdzv-id=$SLURM_JOB_ID",
        "--rdzv-endpoint=$head:29500",  # any free port of the first machine
    ]
    return ["srun", "--kill-on-bad-exit=1", *program[:after], *meeting, *program[after:]]


def _command(program: Sequence[str], run: Run) -> str:
    # The two variables of the shell that the task fills in must not be quoted.
    words = [shlex.quote(word) for word in (*program, *run.arguments)]
    for number, word in enumerate(program):
        if word.startswith(("--rdzv-id=$", "--rdzv-endpoint=$")):
            words[number] = word
    return " ".join(words)


def _pattern(folder: Path) -> str:
    """Return a path as it stands between the double quotes of an ``#SBATCH`` line, where ``%`` marks a replacement."""
    text = str(folder)
    has_special = any(character in text for character in '"\\#')
    if has_special or not text.isprintable():
        raise SettingsError(f"output: sbatch takes no quotes, backslashes, # or control characters, got {text!r}")
    return text.replace("%", "%%")


_FIND_HEAD = 'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)\n'

_SLURM = """\
#!/bin/bash
#SBATCH --job-name=stodepth
#SBATCH --array=0-{last}
{requests}
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

{setup}
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
