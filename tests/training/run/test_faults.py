"""What the command lines say and return when something is wrong, and what survives it."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.utils import DistributedType
from PIL import Image

from stodepth_models.training.config import DataConfig
from stodepth_models.training.data.batches import TrainBatches
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.data.order import SampleOrder
from stodepth_models.training.errors import Diverged, SettingsError
from stodepth_models.training.exits import run_script
from stodepth_models.training.run import machine, state

ROOT = Path(__file__).resolve().parents[3]


def launch(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            start_new_session=True)  # fmt: skip


@pytest.fixture
def hangs_up():
    """SIGHUP as in a terminal; the tests themselves may run under nohup, which processes inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_preempted_job_saves_and_asks_to_be_resumed(tmp_path, hangs_up, name):
    process = launch(
        "--data.name=fake", "--data.fake_images=4000", "--data.image_size=8", "--epochs=1000", "--optim.lr=0.01",
        f"--output={tmp_path}", "--trackers=[]", "--checkpoint_steps=1", "--stop_at_chance=0",
    )  # fmt: skip
    while process.poll() is None and not state.checkpoints(tmp_path / "checkpoints"):
        time.sleep(0.01)
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert f"stopped by {name} at step" in out
    assert "go on with --resume" in out


def make_large_images(root):
    """A hundred pictures of each of two classes, too large to be kept in memory."""
    for number in range(200):
        path = root / "train" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (72, 72), (number, 0, 0)).save(path)
    return root


def test_a_signal_to_all_processes_leaves_the_loaders_to_the_run_that_saves(tmp_path):
    process = launch(
        "--data.name=folder", f"--data.root={make_large_images(tmp_path / 'set')}", "--data.image_size=72",
        "--data.workers=1", "--epochs=1000", "--batch_size=2", "--optim.lr=0.01", f"--output={tmp_path / 'run'}",
        "--trackers=[]", "--stop_at_chance=0", "--checkpoint_steps=1",
    )  # fmt: skip
    folder = tmp_path / "run" / "checkpoints"
    while process.poll() is None and not state.checkpoints(folder):
        time.sleep(0.01)
    for number in (signal.SIGTERM, signal.SIGINT):  # as a cluster manager, and as a terminal
        os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    saved = int(re.search(r"stopped by SIG\w+ (?:at step|after epoch) (\d+)", out)[1])
    assert saved > 0
    loaded = []
    assert state.load_last_checkpoint(folder, loaded.append, pytest.fail)
    assert loaded[0]["progress"]["step"] >= saved


def test_loaders_end_where_the_run_itself_ends_them(tmp_path):
    data = load_data(DataConfig(name="folder", root=make_large_images(tmp_path), image_size=72))
    batches = TrainBatches(data, SampleOrder(len(data.train.labels), 2, 0), torch.device("cpu"), 1).epoch(0)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.terminate()  # as Python does at its end with what is still there, and waits
    worker.join(30)
    assert worker.exitcode == 0


def test_a_wrong_output_is_one_line_and_code_2(tmp_path):
    (tmp_path / "file").touch()
    process = launch("--data.name=fake", f"--output={tmp_path / 'file' / 'run'}")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("error: output: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("a"), 2),
        (ValueError("a"), 1),
        (OSError("a"), 1),
        (Diverged("a", None), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_that_a_user_can_mend_are_one_line(error, code, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as left:
        run_script(main)
    assert left.value.code == code
    assert capsys.readouterr().err.startswith("error: interrupted" if code == 130 else "error: a")


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(SettingsError, match="precision=fp16 needs a GPU: take bf16"):
        machine.make_accelerator(cpu=True, precision="fp16")


def test_a_launch_that_shards_the_model_is_refused(monkeypatch):
    class Sharding(machine.Accelerator):
        distributed_type = DistributedType.FSDP

    monkeypatch.setattr(machine, "Accelerator", Sharding)
    with pytest.raises(SettingsError, match="FSDP shards a model over GPUs, which checkpoints here cannot resume"):
        machine.make_accelerator(cpu=True, precision="no")
