"""Two processes train as one: same losses, same weights on both, one writer, and no hang where one is lost."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stodepth_models.training.run.train import train

from .two_processes import constant_depth, settings

HERE = Path(__file__).resolve().parent


def launch(task, folder):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0",
        "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(HERE / "two_processes.py"), task, str(folder),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[2])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    done = launch("main", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_losses_are_those_of_one_process_with_the_same_global_batch(runs, tmp_path):
    train(settings(tmp_path, constant_depth()))
    for alone, together in zip(rows(tmp_path), rows(runs / "constant"), strict=True):
        assert together["train"]["loss"] == pytest.approx(alone["train"]["loss"], rel=1e-5)
        assert together["train"]["top1"] == pytest.approx(alone["train"]["top1"], abs=1e-9)
        assert together["valid"]["nll"] == pytest.approx(alone["valid"]["nll"], rel=1e-4)
        assert together["valid"]["count"] == alone["valid"]["count"] == 15  # 8 on one process, 7 on the other


@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
@pytest.mark.parametrize("sync", [False, True])
def test_every_mode_trains_and_keeps_the_processes_together(runs, mode, sync):
    assert json.loads((runs / "seen.json").read_text())[f"{mode}-{sync}"]
    assert [row["epoch"] for row in rows(runs / f"{mode}-{sync}")] == [1, 2]


def test_accumulated_gradients_of_different_gates_are_the_same_everywhere(runs):
    assert json.loads((runs / "seen.json").read_text())["accumulated"]


def test_a_run_of_two_processes_resumes_bit_by_bit(runs):
    whole, resumed = (load_file(runs / name / "last.safetensors") for name in ("batch-False", "resumed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_lost_process_ends_the_job_within_a_minute(tmp_path):
    start = time.monotonic()
    done = launch("die", tmp_path)
    assert done.returncode != 0
    assert time.monotonic() - start < 60


def test_accelerate_launches_the_script_too(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}",
        str(HERE.parents[2] / "scripts" / "train.py"), "--cpu=true", "--data.name=fake", "--data.image_size=8",
        "--data.fake_images=80", "--data.fake_classes=4", "--epochs=1", "--batch_size=16", "--trackers=[]",
        "--progress=false", "--stop_at_chance=0", f"--output={tmp_path}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "result.json").read_text())["processes"] == 2
