"""A run that is killed, wherever, ends with the weights of one that was not, on one process and on two."""

import dataclasses
import json
import random
import signal

import pytest
import torch
from safetensors.torch import load_file

from stodepth_models.training.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from stodepth_models.training.run.folder import RunFolder

from .killed import run

STEPS = 10  # of a run
DATA = DataConfig(name="fake", fake_images=80, fake_classes=4, image_size=8)


def settings(output, **model):
    """A run of 2 epochs of 5 steps on 8x8 pictures."""
    return TrainConfig(
        model=ModelConfig(prob_0_L=(1.0, 0.3), **model), data=DATA, optim=OptimConfig(lr=0.05), epochs=2, batch_size=16,
        output=output, resume=True, cpu=True, trackers=(), progress=False, stop_at_chance=0, log_steps=2,
        checkpoint_steps=3,
    )  # fmt: skip


def figures(folder):
    """What a run has computed, without what it took."""
    rows = RunFolder(folder).rows()
    for row in rows:
        for name in ("seconds", "processor_seconds", "images_per_second"):
            del row["train"][name]
    return rows


def assert_same(first, second):
    for name in ("best.safetensors", "last.safetensors"):
        one, other = load_file(first / name), load_file(second / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert figures(first) == figures(second)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("sync_gates", [False, True])
@pytest.mark.parametrize("mode", ["batch", "row", "subset"])
def test_three_kills_at_random_steps_change_nothing(tmp_path, mode, sync_gates, world):
    model = {"mode": mode, "sync_gates": sync_gates}
    assert run(settings(tmp_path / "whole", **model), world) == [0] * world
    numbers = random.Random(f"{mode} {sync_gates} {world}")
    for step in sorted(numbers.sample(range(STEPS), 3)):
        codes = run(settings(tmp_path / "parts", **model), world, numbers.randrange(world), step)
        assert -signal.SIGKILL in codes
    assert run(settings(tmp_path / "parts", **model), world) == [0] * world
    assert_same(tmp_path / "whole", tmp_path / "parts")


# Each row trains with options that keep a state of their own, or draw numbers of their own.
OPTIONS = {
    "adamw": {"optim": OptimConfig(lr=0.01, opt="adamw", sched="cosine", warmup_epochs=1, layer_decay=0.8)},
    "lamb": {"optim": OptimConfig(lr=0.01, opt="lamb", sched="cosine", sched_on_updates=True)},
    "augmented": {"data": dataclasses.replace(DATA, aa="rand-m9-mstd0.5", reprob=0.5, color_jitter=0.4, workers=0)},
    "mixed": {"data": dataclasses.replace(DATA, mixup=0.8, cutmix=1.0, mixup_mode="elem", sampling="balanced")},
    "averaged": {"optim": OptimConfig(lr=0.05, model_ema=True, model_ema_decay=0.9, clip_grad=0.5)},
    "of_timm": {
        "model": ModelConfig(
            name="timm:vit_tiny_patch16_224",
            drop_rate=0.5,
            freeze="blocks.0",
            options={"img_size": 8, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "drop_rate": 0.2},
        )
    },
    "weighted": {"optim": OptimConfig(lr=0.05, class_weights="balanced", accumulate=2)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_resumes_bit_by_bit(tmp_path, options):
    base = settings(tmp_path)
    whole, parts = (dataclasses.replace(base, output=tmp_path / name, **options) for name in ("whole", "parts"))
    assert run(whole) == [0]
    assert run(parts, kill_step=8) == [-signal.SIGKILL]  # within an epoch, two steps after a checkpoint
    assert run(parts) == [0]
    assert_same(whole.output, parts.output)


def test_early_stopping_counts_on_after_a_kill(tmp_path):
    # A learning rate too small to change any prediction: no epoch is better than the first.
    changes = {"epochs": 6, "patience": 2, "optim": OptimConfig(lr=1e-12)}
    base = settings(tmp_path, rescale="train")
    whole, parts = (dataclasses.replace(base, output=tmp_path / name, **changes) for name in ("whole", "parts"))
    assert run(whole) == [0]
    assert run(parts, kill_step=13) == [-signal.SIGKILL]  # in the third epoch, the second without a gain
    assert run(parts) == [0]
    assert [row["epoch"] for row in figures(whole.output)] == [1, 2, 3]
    assert_same(whole.output, parts.output)
    result = json.loads((parts.output / "result.json").read_text())
    assert result["steps"] == 15
    assert 0.4 < result["executed_flops_share"] < 0.9
    assert run(parts) == [0]  # a run that has stopped early is finished
    assert (parts.output / "result.json").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run(settings(folder)) == [0]
    return folder


# Of 53 accesses to files: the lock, settings, metrics, checkpoints and weights of both epochs, the result.
@pytest.mark.parametrize("event", [0, 5, 12, 20, 27, 33, 39, 43, 48, 52])
def test_a_kill_at_an_access_to_a_file_changes_nothing(tmp_path, whole, event):
    assert run(settings(tmp_path), kill_event=event) == [-signal.SIGKILL]
    assert run(settings(tmp_path)) == [0]
    assert_same(whole, tmp_path)
    left = {path.name for path in tmp_path.rglob("*")} - {path.name for path in whole.rglob("*")}
    assert left <= {"step_000000006.pt"}  # a third checkpoint, where the kill came before it was removed
