"""Started by torchrun from test_processes.py: runs that every process takes part in, and what each of them saw."""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

from stodepth_models.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from stodepth_models.training.run import train as engine
from stodepth_models.training.run import trainer

DATA = DataConfig(name="fake", fake_images=75, fake_classes=5, image_size=8)


def settings(output, model=ModelConfig(), accumulate=1, **changes):  # noqa: B008 - frozen
    optim = OptimConfig(lr=0.05, accumulate=accumulate)
    return TrainConfig(
        model=model, data=DATA, optim=optim, epochs=2, batch_size=16, output=output, cpu=True, trackers=(),
        progress=False, stop_at_chance=0, log_steps=2, **changes,
    )  # fmt: skip


def constant_depth():
    """Survival 1, and a normalisation that does not look at the batch: processes cannot matter."""
    return ModelConfig(prob_0_L=(1.0, 1.0), options={"norm_layer": partial(nn.GroupNorm, 4)})


def same_everywhere(model):
    """Whether all processes hold the same parameters, bit by bit."""
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    first = mine.clone()
    dist.broadcast(first, src=0)
    same = torch.tensor([float(torch.equal(mine, first))])
    dist.all_reduce(same, op=dist.ReduceOp.MIN)
    return bool(same)


def main(folder):
    """Runs that go well."""
    trained = []

    class Remembered(trainer.Trainer):
        def __init__(self, *args):
            super().__init__(*args)
            trained.append(self)

    engine.Trainer = Remembered
    Accelerator.end_training = lambda self: None  # it would take the process group from the runs that follow
    seen = {}
    engine.train(settings(folder / "constant", constant_depth()))
    for mode in ("batch", "row", "subset"):
        for sync in (False, True):
            name = f"{mode}-{sync}"
            engine.train(settings(folder / name, ModelConfig(prob_0_L=(1.0, 0.3), mode=mode, sync_gates=sync)))
            seen[name] = same_everywhere(trained[-1].learner.model)
            assert trained[-1].learner.model.find_unused_parameters is False
            assert "group_until_last" in vars(trained[-1].learner.model)
    engine.train(settings(folder / "accumulated", ModelConfig(prob_0_L=(1.0, 0.3)), accumulate=2))
    seen["accumulated"] = same_everywhere(trained[-1].learner.model)
    stop_and_go_on(folder)
    if int(os.environ["RANK"]) == 0:
        (folder / "seen.json").write_text(json.dumps(seen))


def stop_and_go_on(folder):
    """The run of "batch-False" again, stopped by a signal to one process only."""
    model = ModelConfig(prob_0_L=(1.0, 0.3))
    original = trainer.Trainer._step

    def step(self, batch):
        original(self, batch)
        if self.progress.step == 6 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)

    trainer.Trainer._step = step
    code = engine.train(settings(folder / "resumed", model))
    assert code == engine.EXIT_RESUME_ME, code
    trainer.Trainer._step = original
    assert engine.train(settings(folder / "resumed", model, resume=True)) == 0


def die(folder):
    """One process is lost in the middle of an epoch."""
    original = trainer.Trainer._step

    def step(self, batch):
        if self.progress.step == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, batch)

    trainer.Trainer._step = step
    engine.train(settings(folder / "lost"))


if __name__ == "__main__":
    {"main": main, "die": die}[sys.argv[1]](Path(sys.argv[2]))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter, and abort it, also after destroy_process_group
