"""Runs in processes of their own, which are killed at a step or at an access to a file; started by test_resume.py."""

import multiprocessing
import os
import signal
import socket
import sys

from stodepth_models.training.run.train import train
from stodepth_models.training.run.trainer import Trainer

# A server that has imported torch forks each process in a moment, from a state without threads.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["stodepth_models.training.run.train"])

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")


def run(config, world=1, kill_rank=0, kill_step=None, kill_event=None):
    """Train in as many processes, kill what one of them leaves behind, and return their exit codes.

    Args:
        config: settings.
        world: number of processes.
        kill_rank: the process that is killed.
        kill_step: the optimizer step before which it is.
        kill_event: number of the access to a file in the run's folder before which it is.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world):
        kill = (kill_step, kill_event) if rank == kill_rank else (None, None)
        processes.append(SERVER.Process(target=_train, args=(config, rank, world, port, *kill)))
        processes[-1].start()
    dies = kill_step is not None or kill_event is not None
    (processes[kill_rank] if dies else processes[0]).join(120)
    for process in processes:
        if dies:
            process.kill()  # as a launcher does with the others
        process.join(60)
    return [process.exitcode for process in processes]


def _train(config, rank, world, port, kill_step, kill_event):
    if world > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    original = Trainer._step

    def step(self, batch):
        if self.progress.step == kill_step:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, batch)

    Trainer._step = step
    if kill_event is not None:
        sys.addaudithook(_killer(str(config.output), kill_event))
    code = train(config)
    sys.stdout.flush()
    os._exit(code)  # threads of gloo may outlive the interpreter, and abort it


def _killer(folder, kill_event):
    left = [kill_event]

    def hook(event, arguments):
        if event not in FILE_EVENTS or not str(arguments[0]).startswith(folder):
            return
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook
