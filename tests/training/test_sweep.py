"""A sweep plans, skips what is finished, goes on after failures, and writes job arrays that bash can run."""

import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stodepth_models.training.cli import parse
from stodepth_models.training.config import TrainConfig
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.errors import SettingsError
from stodepth_models.training.run.folder import RunFolder
from stodepth_models.training.slurm import Cluster, processes_per_node, slurm_script
from stodepth_models.training.sweep import parse_grid, parse_seeds, plan, run_all

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "configs" / "short_digits.yaml"


def program(tmp_path, body):
    """A stand-in for train.py: ``folder`` is its output, ``seed`` its seed."""
    file = tmp_path / "fake.py"
    file.write_text(
        "import sys, time, signal, pathlib\n"
        "value = {a.partition('=')[0]: a.partition('=')[2] for a in sys.argv}\n"
        "folder, seed = pathlib.Path(value['--output']), value['--seed']\n"
        "folder.mkdir(parents=True, exist_ok=True)\n" + body
    )
    return [sys.executable, str(file)]


def test_seeds_and_grids():
    assert parse_seeds("1..5") == [1, 2, 3, 4, 5]
    assert parse_seeds("3,1") == [3, 1]
    assert parse_grid(["model.prob_0_L=[[1,1],[1,.5]]", "optim.lr=[0.1]"]) == {
        "model.prob_0_L": [[1, 1], [1, 0.5]],
        "optim.lr": [0.1],
    }
    for text in ("", "1-5", "a", "5..1"):
        with pytest.raises(SettingsError, match=r"--seeds must be like 1\.\.5"):
            parse_seeds(text)
    for text in ("optim.lr", "optim.lr=3", "=[1]", "optim.lr=[[1,1]"):
        with pytest.raises(SettingsError, match="--grid must be like"):
            parse_grid([text])
    with pytest.raises(SettingsError, match=r"^--grid gives optim\.lr twice: put all of its values into one list$"):
        parse_grid(["optim.lr=[0.1]", "seed=[1]", "optim.lr=[0.2]"])


def test_a_plan_holds_all_combinations_and_is_checked_before_anything_runs(tmp_path, capsys):
    runs = plan([RECIPE], [1, 2], {"model.prob_0_L": [[1, 1], [1, 0.5]], "optim.lr": [0.1, 0.2]}, tmp_path)
    assert len(runs) == len({run.folder for run in runs}) == 8
    assert runs[0].folder == tmp_path / "short_digits-prob_0_L_1-1-lr_0.1" / "seed1"
    assert "--model.prob_0_L=[1, 1]" in runs[0].arguments
    with pytest.raises(SystemExit, match="2"):
        plan([RECIPE], [1], {"model.prob_0_L": [[1, 3]]}, tmp_path)
    assert "model.prob_0_L must be in [0, 1], got 3" in capsys.readouterr().err


def command(monkeypatch, *arguments):
    """Exit code of ``sweep.py`` in this process."""
    monkeypatch.setattr(sys, "argv", ["sweep.py", *arguments])
    with pytest.raises(SystemExit, match=r"\d") as left:
        runpy.run_path(str(ROOT / "scripts" / "sweep.py"), run_name="__main__")
    return left.value.code


def begin(run):
    """Leave in its folder what a run leaves there before its first step."""
    run.folder.mkdir(parents=True)
    config = parse(TrainConfig, run.arguments)
    RunFolder(run.folder).claim(config, 1, load_data(config.data), "name")


@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_with_another_run_is_refused_before_anything_runs(tmp_path, finished):
    runs = plan([RECIPE], [1, 2], {}, tmp_path)
    begin(runs[1])
    if finished:
        RunFolder(runs[1].folder).finish({})
    assert plan([RECIPE], [1, 2], {}, tmp_path, ["--data.label=Digits", "--progress=false"])[1].finished is finished
    epochs = parse(TrainConfig, runs[1].arguments).epochs
    expected = f"output: {runs[1].folder} was run with other settings: epochs was {epochs}, is 99"
    with pytest.raises(SettingsError, match=re.escape(expected)):
        plan([RECIPE], [1, 2], {}, tmp_path, ["--epochs=99"])


def test_a_folder_whose_settings_cannot_be_read_is_named(tmp_path):
    (run,) = plan([RECIPE], [1], {}, tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "config.json").touch()
    with pytest.raises(SettingsError, match=r"^output: .*seed1/config\.json cannot be read"):
        plan([RECIPE], [1], {}, tmp_path)


@pytest.mark.parametrize(
    ("grid", "extra", "name"),
    [({"seed": [1, 2]}, (), "seed"), ({}, ("--seed", "7"), "seed"), ({"output": ["a"]}, (), "output"),
     ({}, ("--resume=false",), "resume")],
)  # fmt: skip
def test_what_the_sweep_gives_itself_is_refused(tmp_path, grid, extra, name):
    with pytest.raises(SettingsError, match=f"^{name} is given by the sweep itself: use --seeds and -o"):
        plan([RECIPE], [1], grid, tmp_path, extra)


@pytest.mark.parametrize("extra", [("--optim.lr=0.3",), ("--epochs=2", "--optim.lr", "0.3")])
def test_what_the_grid_gives_is_refused_among_the_further_arguments(tmp_path, extra):
    with pytest.raises(SettingsError, match=r"^optim\.lr is given by --grid and for all runs: leave one of them out$"):
        plan([RECIPE], [1], {"optim.lr": [0.1, 0.2]}, tmp_path, extra)


def test_no_two_runs_share_a_folder(tmp_path):
    with pytest.raises(SettingsError, match=r"output: two runs would go to .*seed1"):
        plan([RECIPE], [1, 1], {}, tmp_path)


def test_long_values_reach_a_run_whole(tmp_path):
    milestones = list(range(1, 40))
    (run,) = plan([RECIPE], [1], {"optim.milestones": [milestones]}, tmp_path, ["--optim.schedule=step"])
    assert parse(TrainConfig, run.arguments).optim.milestones == tuple(milestones)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid=optim.lr=[[1,1]"], "error: --grid must be like optim.lr=[0.1,0.2], got 'optim.lr=[[1,1]'\n"),
        (["--seeds=a"], "error: --seeds must be like 1..5 or 1,2,7, got 'a'\n"),
        (["--sedes=1"], "error: there is no --sedes; did you mean --seeds?; --help lists what there is\n"),
        (["--epoch=1"], "error: there is no --epoch; did you mean --epochs?; --help lists what there is\n"),
    ],
)
def test_a_wrong_option_is_one_line_and_code_2(arguments, message, monkeypatch, capsys):
    assert command(monkeypatch, str(RECIPE), *arguments) == 2
    assert capsys.readouterr().err == message


def test_finished_runs_are_skipped_failures_do_not_stop_and_a_signal_does(tmp_path):
    runs = plan([RECIPE], [1, 2, 3], {}, tmp_path / "runs")
    fails = program(tmp_path, "if seed == '2': sys.exit(1)\n(folder / 'result.json').write_text('{}')\n")
    said = []
    assert run_all(runs, fails, said.append, 75) == 1
    assert [run.finished for run in runs] == [True, False, True]
    assert said[-1] == f"1 of 3 runs failed: {runs[1].folder}"
    stops = program(tmp_path, "sys.exit(75)\n")
    assert run_all(runs, stops, said.append, 75) == 75
    assert said[-3:] == [
        f"[1/3] {runs[0].folder}: finished before",
        f"[2/3] {runs[1].folder}",
        "stopped: the same command goes on",
    ]


# Saves for longer than a second signal or a short patience would leave it, and ends as a launcher does, with 1.
SAVES = """
def save(*_):
    with open(folder / 'saved', 'a') as file:
        time.sleep(0.5)
        file.write('once ')
    sys.exit(1)
signal.signal(signal.SIGTERM, save)
"""


@pytest.fixture
def hangs_up():
    """SIGHUP as in a terminal; the tests themselves may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_sweep_that_is_stopped_waits_until_its_run_has_saved(tmp_path, hangs_up, name):
    runs = plan([RECIPE], [1, 2], {}, tmp_path / "runs")
    body = f"import os\n{SAVES}os.kill(os.getppid(), signal.{name})\ntime.sleep(30)\n"
    before, said = signal.getsignal(signal.Signals[name]), []
    assert run_all(runs, program(tmp_path, body), said.append, 75) == 75
    assert said == [f"[1/2] {runs[0].folder}", f"stopped by {name}: the same command goes on"]
    assert (runs[0].folder / "saved").read_text() == "once "
    assert not runs[1].folder.exists()
    assert signal.getsignal(signal.Signals[name]) is before


def test_a_signal_while_a_run_is_being_started_reaches_it(tmp_path, monkeypatch):
    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    runs = plan([RECIPE], [1], {}, tmp_path / "runs")
    assert run_all(runs, program(tmp_path, "time.sleep(3)\n(folder / 'slept').touch()\n"), print, 75) == 75
    assert not (runs[0].folder / "slept").exists()


def test_under_nohup_a_sweep_outlives_its_terminal(tmp_path, hangs_up):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    runs = plan([RECIPE], [1], {}, tmp_path / "runs")
    body = "import os\nos.kill(os.getppid(), signal.SIGHUP)\n"
    assert run_all(runs, program(tmp_path, body), print, 75) == 0


def test_ctrl_c_in_a_terminal_is_one_line_and_code_75(tmp_path):
    launcher = shlex.join(program(tmp_path, f"{SAVES}(folder / 'started').touch()\ntime.sleep(30)\n"))
    command = [str(ROOT / "scripts" / "sweep.py"), str(RECIPE), f"-o={tmp_path}", f"--launcher={launcher}"]
    sweep = subprocess.Popen(
        [sys.executable, *command], env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    folder = tmp_path / "short_digits" / "seed0"
    while sweep.poll() is None and not (folder / "started").exists():
        time.sleep(0.01)
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does: to all of its foreground processes
    out, err = sweep.communicate(timeout=60)
    assert (sweep.returncode, err) == (75, "")
    assert out.splitlines()[-1] == "stopped by SIGINT: the same command goes on"
    assert (folder / "saved").read_text() == "once "


def test_the_command_prints_what_is_left(tmp_path, monkeypatch, capsys):
    arguments = [str(RECIPE), "--seeds=1..2", "--grid=model.prob_0_L=[[1,1],[1,.5]]", f"-o={tmp_path}", "--print"]
    assert command(monkeypatch, *arguments, "--", "--epochs=2") == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4
    assert "--epochs=2" in shlex.split(out[3])
    assert "--model.prob_0_L=[1, 0.5]" in shlex.split(out[3])


def test_settings_of_the_runs_stand_among_the_options_of_the_sweep(tmp_path, monkeypatch, capsys):
    words = ["--epochs", "2", "--print", "short_digits", "--lr=0.3", "--cpu", "-o", str(tmp_path), "--grid"]
    assert command(monkeypatch, *words, "options.shortcut=[A,B]", "--grid=model=[resnet18]", "--", "--mode", "row") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    expected = ["--config=short_digits", "--epochs=2", "--optim.lr=0.3", "--cpu=true", "--model.mode=row",
                "--model.options.shortcut=A", "--model.name=resnet18", "--seed=0"]  # fmt: skip
    assert shlex.split(lines[0])[4:-2] == expected


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(tmp_path):
    words = f"sweep short_digits --seeds 1..12 --print -o {tmp_path} --label {10_000 * 'a'}"  # more than a pipe holds
    shell = f"{shlex.quote(sys.executable)} -m stodepth_models {words} | head -n 1"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(shell, shell=True, capture_output=True, text=True, env=environment)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_log_folder_stands_in_a_job_array_as_sbatch_reads_it(tmp_path):
    runs = plan([RECIPE], [1], {}, tmp_path)
    lines = slurm_script(runs, ["train"], 75, tmp_path / "50% of my runs").splitlines()
    (words,) = (shlex.split(line) for line in lines if "--output" in line and line.startswith("#SBATCH"))
    assert words == ["#SBATCH", f"--output={tmp_path}/50%% of my runs/%A_%a.log"]
    for name in ('a"b', "a\\b", "a#b", "a\nb"):
        with pytest.raises(ValueError, match="output: sbatch takes no quotes, backslashes, # or"):
            slurm_script(runs, ["train"], 75, tmp_path / name)


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("python", 1),
        ("torchrun --nproc-per-node 4", 4),
        ("torchrun --nproc_per_node=8 --max-restarts=0", 8),
        ("python -m torch.distributed.run --nproc-per-node=2", 2),
        ("torchrun", 1),
        ("accelerate launch --multi_gpu --num_processes 4", 4),
        ("accelerate launch --num_machines 2 --num-processes=8", 4),
        ("accelerate launch", 1),
    ],
)
def test_a_task_asks_for_as_many_gpus_as_its_launcher_starts_processes(tmp_path, launcher, processes):
    program = [*launcher.split(), "train.py"]
    assert processes_per_node(program) == processes
    lines = slurm_script(plan([RECIPE], [1], {}, tmp_path), program, 75, tmp_path).splitlines()
    assert f"#SBATCH --gpus-per-node={processes}" in lines
    assert f"#SBATCH --cpus-per-task={8 * processes}" in lines
    assert "#SBATCH --nodes=1" in lines


@pytest.mark.parametrize("count", ["auto", "gpu", "-1", "1.5", ""])
def test_a_launcher_that_counts_by_itself_is_refused(tmp_path, count):
    program = ["torchrun", f"--nproc-per-node={count}", "train.py"]
    with pytest.raises(SettingsError, match=f"--nproc-per-node must be a number for a SLURM job, got '{count}'"):
        slurm_script(plan([RECIPE], [1], {}, tmp_path), program, 75, tmp_path)


def test_the_cluster_is_asked_for_partition_account_time_and_nodes(tmp_path, monkeypatch, capsys):
    script = tmp_path / "array.sh"
    wishes = ["--partition=gpu,a100", "--account=my-group", "--time=2-12:30", "--nodes=2"]
    arguments = [str(RECIPE), f"-o={tmp_path}", "--launcher=torchrun --nproc-per-node 4", *wishes]
    assert command(monkeypatch, *arguments, f"--slurm={script}") == 0
    assert {f"#SBATCH {wish}" for wish in wishes} < set(script.read_text().splitlines())
    assert command(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err == "error: --partition is for a SLURM job: add --slurm FILE\n"
    lines = slurm_script(plan([RECIPE], [1], {}, tmp_path), ["python"], 75, tmp_path).splitlines()
    assert "#SBATCH --time=24:00:00" in lines
    assert not [line for line in lines if "partition" in line or "account" in line]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"partition": "a b"}, "--partition must be as sbatch takes it, got 'a b'"),
        ({"account": "a\n#SBATCH --nodes=9"}, "--account must be as sbatch takes it"),
        ({"time": "a day"}, "--time must be as sbatch takes it, got 'a day'"),
        ({"time": ""}, "--time must be as sbatch takes it, got ''"),
        ({"nodes": 0}, "--nodes must be at least 1, got 0"),
    ],
)
def test_a_wish_that_sbatch_would_refuse_is_refused_first(wish, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        Cluster(**wish)


@pytest.mark.parametrize("launcher", ["python", "accelerate launch --num_processes 4", "torchrun --nnodes 2"])
def test_several_nodes_need_torchrun(tmp_path, launcher):
    with pytest.raises(SettingsError, match="--nodes=2 needs --launcher 'torchrun --nproc-per-node N', without --nno"):
        slurm_script(plan([RECIPE], [1], {}, tmp_path), [*launcher.split(), "t.py"], 75, tmp_path, Cluster(nodes=2))


def test_on_several_nodes_srun_starts_torchrun_on_each(tmp_path):
    runs = plan([RECIPE], [1], {"model.prob_0_L": [[1, 0.5]]}, tmp_path / "my runs")
    script = tmp_path / "array.sh"
    program = ["torchrun", "--nproc-per-node", "4", "my train.py"]
    script.write_text(slurm_script(runs, program, 75, tmp_path, Cluster(nodes=2)))
    stand_ins = {"srun": 'printf "%s\\n" "$@" > ' + shlex.quote(f"{tmp_path}/words"), "scontrol": "printf 'n7\\nn8\\n'"}
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "9", "SLURM_JOB_ID": "10",
                                "SLURM_JOB_NODELIST": "n[7-8]", "PATH": f"{tmp_path}:{os.environ['PATH']}"}  # fmt: skip
    assert subprocess.run(["bash", str(script)], env=environment).returncode == 0
    assert (tmp_path / "words").read_text().splitlines() == [
        "--kill-on-bad-exit=1", "torchrun", "--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=10",
        "--rdzv-endpoint=n7:29500", "--nproc-per-node", "4", "my train.py", *runs[0].arguments,
    ]  # fmt: skip


def test_recipes_open_with_what_they_are_said_once():
    for recipe in RECIPE.parent.glob("*.yaml"):
        first = recipe.read_text().splitlines()[0]
        assert first.startswith("# ")
        assert first.count("with the settings of") <= 1, recipe.name


def slurm(tmp_path, body, task):
    runs = plan([RECIPE], [1, 2], {"model.prob_0_L": [[1, 0.5]]}, tmp_path / "my runs")
    script = tmp_path / "array.sh"
    script.write_text(slurm_script(runs, program(tmp_path, body), 75, tmp_path))
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "9",
                                "PATH": f"{tmp_path}:{os.environ['PATH']}"}  # fmt: skip
    return runs, subprocess.Popen(["bash", str(script)], env=environment)


def test_a_task_of_the_array_runs_its_run(tmp_path):
    runs, job = slurm(tmp_path, "import json; (folder / 'result.json').write_text(json.dumps(sys.argv[1:]))\n", 1)
    assert job.wait(30) == 0
    assert json.loads((runs[1].folder / "result.json").read_text()) == list(runs[1].arguments)
    assert not runs[0].finished
    assert not (tmp_path / "requeued").exists()


def test_a_task_that_loses_its_machine_is_queued_again(tmp_path):
    body = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "(folder / 'started').touch()\n"
        "for _ in range(300): time.sleep(0.1)\n"
    )
    runs, job = slurm(tmp_path, body, 0)
    while job.poll() is None and not (runs[0].folder / "started").exists():
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 75
    assert (tmp_path / "requeued").read_text() == "requeue 9_0\n"
