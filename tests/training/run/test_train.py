"""A run learns, stops and goes on bit by bit, whatever happens to it."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.flop_counter import FlopCounterMode

from stodepth_models import cifar_resnet20_stodepth_lineardecay, survival_probs
from stodepth_models.training.config import DataConfig, EvaluateConfig, ModelConfig, OptimConfig, TrainConfig
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.errors import Diverged, SettingsError
from stodepth_models.training.evaluation import evaluate_weights
from stodepth_models.training.run import folder as outputs
from stodepth_models.training.run import learner, trainer
from stodepth_models.training.run import model as models
from stodepth_models.training.run import train as engine
from stodepth_models.training.run.train import EXIT_RESUME_ME, train
from stodepth_models.weights.checkpoint import read_file

ROOT = Path(__file__).resolve().parents[3]


def settings(output, **changes):
    """A run of 2 epochs of 5 steps on 8x8 pictures."""
    data = DataConfig(name="fake", fake_images=80, fake_classes=4, image_size=8)
    optim = OptimConfig(lr=0.05)
    config = TrainConfig(data=data, optim=optim, epochs=2, batch_size=16, output=output, trackers=(), progress=False,
                         stop_at_chance=0)  # fmt: skip
    return dataclasses.replace(config, **changes)


def weights(folder):
    return load_file(folder / "last.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(settings(folder)) == 0
    return folder


class Stop:
    """Stands for a signal that arrives after some steps."""

    def __init__(self, steps):
        self.left, self._name = steps, "SIGTERM"

    @property
    def name(self):
        self.left -= 1
        return self._name if self.left < 0 else ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_run_leaves_its_settings_metrics_weights_and_result(undisturbed):
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((undisturbed / "result.json").read_text())
    saved = json.loads((undisturbed / "config.json").read_text())
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [5, 10]
    assert rows[0]["valid"]["count"] == 16
    assert result["steps"] == 10
    assert result["best_epoch"] in (1, 2)
    assert 0.5 < result["expected_flops_share"] < 1.0
    assert saved["settings"]["optim"]["lr"] == 0.05
    assert saved["data"]["classes"] == ["class0", "class1", "class2", "class3"]
    assert saved["data"]["images"] == {"train": 80, "valid": 16, "test": 16}
    assert saved["data"]["fingerprint"] == load_data(settings(undisturbed).data).fingerprint
    assert len(list((undisturbed / "checkpoints").glob("*.pt"))) == 2


@pytest.mark.parametrize("steps", [3, 6])
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_with_the_same_weights(undisturbed, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(steps))
    assert train(settings(tmp_path)) == EXIT_RESUME_ME
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(10**9))
    assert train(settings(tmp_path, resume=True)) == 0
    assert same(weights(tmp_path), weights(undisturbed))
    losses = [[json.loads(line)["train"]["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
              for folder in (tmp_path, undisturbed)]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_signal_is_heeded_between_epochs_of_a_single_step(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(0))
    assert train(settings(tmp_path, batch_size=80)) == EXIT_RESUME_ME
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("stodepth_models.training.run.machine.get_available_trackers", list)
    with pytest.raises(SettingsError, match="trackers: wandb not installed: pip install it"):
        train(settings(tmp_path, trackers=("wandb",)))


def test_nobody_is_asked_to_install_a_mistyped_tracker(tmp_path):
    with pytest.raises(
        SettingsError, match=r"^trackers must be of .*tensorboard, wandb, .*, got wandbb; did you mean wandb\?$"
    ):
        train(settings(tmp_path, trackers=("wandbb",)))


def test_tensorboard_shows_the_metrics_of_each_epoch(tmp_path):
    train(settings(tmp_path, trackers=("tensorboard",)))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    shown = EventAccumulator(str(tmp_path / "stodepth")).Reload().Scalars("valid/top1")
    assert [event.step for event in shown] == [5, 10]
    assert [event.value for event in shown] == pytest.approx([row["valid"]["top1"] for row in rows])


def test_a_survival_schedule_resumes_bit_by_bit(tmp_path, monkeypatch):
    for model in (ModelConfig(ramp_epochs=2), ModelConfig(stoch_depth_probability=1.0)):
        whole, parts = tmp_path / f"whole{model.ramp_epochs}", tmp_path / f"parts{model.ramp_epochs}"
        monkeypatch.setattr(engine, "StopRequest", lambda: Stop(10**9))
        train(settings(whole, model=model))
        monkeypatch.setattr(engine, "StopRequest", lambda: Stop(7))
        assert train(settings(parts, model=model)) == EXIT_RESUME_ME
        monkeypatch.setattr(engine, "StopRequest", lambda: Stop(10**9))
        train(settings(parts, model=model, resume=True))
        assert same(weights(parts), weights(whole))


def test_one_probability_for_all_blocks_moves_epoch_by_epoch(tmp_path):
    train(settings(tmp_path, epochs=3, model=ModelConfig(stoch_depth_probability=1.0)))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["survival"] for row in rows] == [[1.0] * 9, [0.75] * 9, [0.5] * 9]
    assert rows[0]["flops_share"] == 1.0
    assert rows[2]["flops_share"] == pytest.approx(0.5, abs=0.01)


def test_an_epoch_is_evaluated_and_saved_under_the_probability_it_was_trained_with(tmp_path, monkeypatch):
    seen = []

    def evaluate(model, batches, accelerator, original=engine.evaluate):
        seen.append(survival_probs(model))
        return original(model, batches, accelerator)

    monkeypatch.setattr(engine, "evaluate", evaluate)
    train(settings(tmp_path, epochs=3, model=ModelConfig(stoch_depth_probability=1.0)))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((tmp_path / "result.json").read_text())["best_epoch"]
    expected = [row["survival"] for row in rows]
    assert seen == [*expected, expected[2], expected[best - 1]]  # three validations, the test of last and of best
    saved = read_file(tmp_path / "best.safetensors", "best").config
    assert saved["survival_probs"] == expected[best - 1]
    train(settings(tmp_path / "one", epochs=1, model=ModelConfig(stoch_depth_probability=1.0)))
    assert read_file(tmp_path / "one" / "last.safetensors", "last").config["survival_probs"] == [1.0] * 9


def test_the_metrics_of_a_resumed_epoch_are_those_of_an_undisturbed_one(tmp_path, monkeypatch):
    config = {"model": ModelConfig(ramp_epochs=2), "optim": OptimConfig(lr=0.05, schedule="onecycle")}
    rows = []
    for name, stops in (("whole", []), ("parts", [2, 5])):
        for steps in [*stops, 10**9]:
            monkeypatch.setattr(engine, "StopRequest", lambda steps=steps: Stop(steps))
            train(settings(tmp_path / name, resume=True, **config))
        rows.append([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()])
    for whole, parts in zip(*rows, strict=True):
        for key in ("lr", "survival", "mean_survival", "flops_share"):
            assert whole[key] == parts[key], key
    assert rows[0][1]["survival"][-1] == pytest.approx(0.75)


def test_the_expected_flops_of_an_epoch_of_one_step_are_those_of_its_probability(tmp_path):
    train(settings(tmp_path, epochs=3, batch_size=1000, model=ModelConfig(stoch_depth_probability=1.0)))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["expected_flops_share"] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_the_executed_flops_are_those_of_the_convolutions_that_ran(tmp_path, monkeypatch, mode):
    executed, full = [], []

    def count(layer, inputs, output):
        if layer.training:
            executed.append(output.numel() * layer.weight[0].numel())

    def build(config, classes):
        model = models.build_model(config, classes)
        layers = [module for module in model.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            model.eval()(torch.zeros(1, 3, 8, 8))
        full.append(counter.get_total_flops() / 2)
        for layer in layers:
            layer.register_forward_hook(count)
        return model

    monkeypatch.setattr(learner, "build_model", build)
    assert train(settings(tmp_path, model=ModelConfig(mode=mode))) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["executed_flops_share"] == pytest.approx(sum(executed) / (2 * 80 * full[0]), rel=1e-6)
    assert result["executed_flops_share"] != pytest.approx(result["expected_flops_share"], abs=1e-4)


def test_evaluating_more_often_changes_no_weight(undisturbed, tmp_path):
    train(settings(tmp_path, test_each_epoch=True))
    assert same(weights(tmp_path), weights(undisturbed))


def test_watching_a_run_changes_no_weight(undisturbed, tmp_path):
    train(settings(tmp_path, log_steps=1, checkpoint_steps=2, progress=True, checkpoint_minutes=1e-6))
    assert same(weights(tmp_path), weights(undisturbed))


def test_a_run_killed_at_a_random_step_ends_with_the_same_weights(undisturbed, tmp_path):
    command = [
        sys.executable, str(ROOT / "scripts" / "train.py"), "--data.name=fake", "--data.fake_images=80",
        "--data.fake_classes=4", "--data.image_size=8", "--optim.lr=0.05", "--epochs=2", "--batch_size=16",
        f"--output={tmp_path}", "--trackers=[]", "--stop_at_chance=0", "--checkpoint_steps=1", "--resume",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list((tmp_path / "checkpoints").glob("*.pt")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    train(settings(tmp_path, resume=True))
    assert same(weights(tmp_path), weights(undisturbed))


def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(tmp_path):
    for accumulate in (1, 4):
        train(settings(tmp_path / str(accumulate), epochs=1, model=ModelConfig(prob_0_L=(1.0, 1.0), frozen_stem=True),
                       optim=OptimConfig(lr=0.05, accumulate=accumulate)))  # fmt: skip
    rows = [json.loads((tmp_path / str(n) / "metrics.jsonl").read_text()) for n in (1, 4)]
    # Batch norm sees 4 images instead of 16: close, not equal.
    assert rows[0]["train"]["loss"] == pytest.approx(rows[1]["train"]["loss"], rel=0.2)
    assert rows[0]["step"] == rows[1]["step"] == 5


def test_a_frozen_stem_stays_as_it_was(tmp_path):
    config = settings(tmp_path, model=ModelConfig(frozen_stem=True))
    train(config)
    torch.manual_seed(config.seed)
    fresh = learner.build_model(config.model, 4).state_dict()
    trained = weights(tmp_path)
    for key, value in fresh.items():
        if key.startswith(("conv1", "bn1")):
            assert torch.equal(trained[key], value), key
    assert not torch.equal(trained["layer1.0.conv1.weight"], fresh["layer1.0.conv1.weight"])
    assert not torch.equal(trained["fc.weight"], fresh["fc.weight"])


def test_recomputed_activations_give_the_same_weights_and_names(tmp_path, undisturbed):
    train(settings(tmp_path, model=ModelConfig(checkpoint_stages=True)))
    recomputed, kept = weights(tmp_path), weights(undisturbed)
    assert recomputed.keys() == kept.keys()
    for key in kept:
        torch.testing.assert_close(recomputed[key], kept[key])


def test_nan_stops_the_run_and_names_the_step_and_the_checkpoint(tmp_path, monkeypatch):
    steps = []

    def poisoned(self, batch, original=trainer.Trainer._step):
        original(self, batch)
        steps.append(None)
        if len(steps) == 7:
            self.pending[-1][0] = float("nan")

    monkeypatch.setattr(trainer.Trainer, "_step", poisoned)
    with pytest.raises(Diverged, match=r"loss is nan at step 7; the last good checkpoint is .*step_000000005\.pt; try"):
        train(settings(tmp_path))


def test_weights_that_the_last_step_of_an_epoch_spoils_are_not_kept(tmp_path):
    config = settings(tmp_path, batch_size=80, epochs=1, optim=OptimConfig(lr=1e25, schedule="constant"))
    with pytest.raises(Diverged, match="the validation loss is nan at step 1"):
        train(config)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("*.pt"))


def test_a_damaged_test_image_costs_no_training(tmp_path, monkeypatch):
    root = tmp_path / "set"
    for split, count in (("train", 10), ("test", 2)):
        for number in range(2 * count):
            path = root / split / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (72, 72), (9 * number, 0, 0)).save(path)
    (root / "test" / "cat" / "0.png").write_bytes(b"no picture")
    data = DataConfig(name="folder", root=root, image_size=72, workers=1)
    config = settings(tmp_path / "run", data=data, epochs=1)
    with pytest.raises(ValueError, match=r"^[^\n]*test/cat/0\.png cannot be read as an image [^\n]*$"):
        train(config)
    trained = weights(tmp_path / "run")
    skipping = dataclasses.replace(config, resume=True, data=dataclasses.replace(data, unreadable="skip"))
    with pytest.warns(UserWarning, match=r"test/cat/0\.png cannot be read as an image: skipped"):
        assert train(skipping) == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test_last"]["count"] == 3
    assert same(weights(tmp_path / "run"), trained)


def stopped_by_a_damaged_image(tmp_path, **changes):
    """Settings that skip the training image at which a run has just stopped, in the last step of its first epoch."""
    for number in range(40):
        path = tmp_path / "set" / "train" / ("cat", "dog")[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (72, 72), (6 * number, 0, 0)).save(path)
    statistics = {"mean": (0.5,) * 3, "std": (0.3,) * 3}  # else the images would be read to measure them
    data = DataConfig(name="folder", root=tmp_path / "set", image_size=72, workers=0, valid_size=4, **statistics)
    config = settings(tmp_path / "run", data=data, epochs=1, batch_size=4, **changes)
    last = load_data(data).train.paths[trainer.SampleOrder(36, 4, 0).permutation(0)[-1]]
    last.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"\.png cannot be read .*skip; once there is a checkpoint, mend it instead$"):
        train(config)
    return dataclasses.replace(config, resume=True, data=dataclasses.replace(data, unreadable="skip"))


def test_a_damaged_training_image_may_be_skipped_before_there_is_a_checkpoint(tmp_path):
    config = stopped_by_a_damaged_image(tmp_path)
    with pytest.warns(UserWarning, match="skipped"):
        assert train(config) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["images"]["train"] == 35


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_a_run_with_a_checkpoint_keeps_the_number_of_its_images(tmp_path):
    config = stopped_by_a_damaged_image(tmp_path, checkpoint_steps=1)
    with pytest.raises(
        SettingsError,
        match=r"run on other images: the number of train images was 36, is 35; put them back",
    ):
        train(config)


def test_chance_accuracy_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "near_chance", lambda labels: 1.0)
    with pytest.raises(Diverged, match=r"at chance \(25\.0%\) for 3 epochs at step 15"):
        train(settings(tmp_path, epochs=4, stop_at_chance=3))


def test_resume_with_other_settings_is_refused_and_names_them(undisturbed):
    with pytest.raises(SettingsError, match=r"optim\.lr was 0\.05, is 0\.1; seed was 0, is 3"):
        train(settings(undisturbed, resume=True, optim=OptimConfig(lr=0.1), seed=3))
    with pytest.raises(SettingsError, match="add --resume"):
        train(settings(undisturbed))


def test_resume_on_other_images_is_refused_and_names_them(tmp_path, monkeypatch):
    def pictures(name, classes=("cat", "dog"), count=20):
        for number in range(len(classes) * count):
            path = tmp_path / name / "train" / classes[number % len(classes)] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        return DataConfig(name="folder", root=tmp_path / name)

    config = settings(tmp_path / "run", data=pictures("set"), epochs=1)
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(1))
    assert train(config) == EXIT_RESUME_ME
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(10**9))
    config = dataclasses.replace(config, resume=True)
    with pytest.raises(
        SettingsError,
        match=r"run on other images: class 1 was dog, is eel; put them back",
    ):
        train(dataclasses.replace(config, data=pictures("names", ("cat", "eel"))))
    with pytest.raises(SettingsError, match=r"train images was 36, is 54; .*; class 2 was not given, is fox; put"):
        train(dataclasses.replace(config, data=pictures("more", ("cat", "dog", "fox"))))
    with pytest.raises(SettingsError, match=r"other images: the number of train images was 36, is 45; .*valid images"):
        train(dataclasses.replace(config, data=pictures("larger", count=25)))
    assert train(dataclasses.replace(config, data=pictures("moved"))) == 0  # the same images elsewhere


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "3",
        "{}",
        "null",
        '"text"',
        "[" * 100_000,
        '{"settings": 3, "processes": 1}',
        '{"settings": {"model": []}, "processes": 1}',
        '{"settings": {}, "processes": "one"}',
        '{"settings": {}, "processes": 1, "data": 3}',
        '{"settings": {}, "processes": 1, "data": {"classes": 3, "images": {}}}',
        '{"settings": {}, "processes": 1, "data": {"classes": [], "images": {"train": "many"}}}',
        '{"settings": {}, "processes": 1, "run": 3}',
        "\udcff",
    ],
)
def test_settings_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content, errors="surrogateescape")
    with pytest.raises(SettingsError, match=r"^output: [^\n]*config\.json cannot be read [^\n]*$"):
        train(settings(tmp_path, resume=True))


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path, monkeypatch):
    unique = uuid.uuid4().hex
    begun = [f".{unique}", f".metrics.jsonl.{unique}",
             f"best.safetensors.{unique}.partial",
             f"checkpoints/.step_000000005.pt.{unique}", f"checkpoints/step_000000005.pt.{unique}.partial"]  # fmt: skip
    kept = ["notes.txt", ".hidden", "checkpoints/step_000000001.pt", "checkpoints/.notes"]
    (tmp_path / "checkpoints").mkdir()
    torch.save({}, tmp_path / "checkpoints" / "step_000000001.pt")
    for name in (*begun, "notes.txt", ".hidden", "checkpoints/.notes"):
        (tmp_path / name).touch()
    data = load_data(settings(tmp_path).data)
    outputs.RunFolder(tmp_path).claim(settings(tmp_path), 1, data, "name")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, "config.json"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shortcutt": "B"}, "takes no shortcutt; did you mean shortcut"),
        ({"shortcut": "Q"}, "shortcut must be one of 'A', 'B', got 'Q'"),
        ({"norm_layer": "x"}, "not callable"),
    ],
)
def test_an_option_that_the_builder_refuses_is_named_before_data_is_read(tmp_path, monkeypatch, options, reason):
    monkeypatch.setattr(engine, "load_data", lambda config: pytest.fail("the data was read"))
    with pytest.raises(SettingsError, match=rf"^model: [^\n]*{reason}[^\n]*, given model\.options {{[^\n]*}}$"):
        train(settings(tmp_path, model=ModelConfig(options=options)))


def test_settings_of_the_model_that_contradict_each_other_blame_no_option(tmp_path):
    with pytest.raises(SettingsError, match=r"^model: [^\n]*mult_flag[^\n]*rescale((?!options)[^\n])*$"):
        train(settings(tmp_path, model=ModelConfig(mult_flag=False, rescale="eval")))


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ("/no/such.pt", "there is no file or folder /no/such.pt"),
        ("CIFAR10_JPEG_V9", "no weights 'CIFAR10_JPEG_V9' for cifar_resnet20"),
        ("CifarResNet32_Weights.CIFAR10_IDELBAYEV", "must come from CifarResNet20_Weights"),
    ],
)
def test_weights_that_do_not_exist_are_named_before_data_is_read(tmp_path, monkeypatch, weights, reason):
    monkeypatch.setattr(engine, "load_data", lambda config: pytest.fail("the data was read"))
    with pytest.raises(SettingsError, match=rf"^model\.weights: [^\n]*{reason}[^\n]*$"):
        train(settings(tmp_path, model=ModelConfig(weights=weights)))


def test_more_outputs_than_classes_have_no_names(tmp_path):
    train(settings(tmp_path, epochs=1, model=ModelConfig(num_classes=7)))
    model = cifar_resnet20_stodepth_lineardecay(num_classes=7, weights=tmp_path / "last.safetensors")
    assert model.categories is None
    config = EvaluateConfig(model=ModelConfig(weights=str(tmp_path / "last.safetensors")), data=settings(tmp_path).data)
    result = json.loads((tmp_path / "result.json").read_text())
    assert evaluate_weights(config)["error_percent"] == pytest.approx(result["test_error_last"])


def test_fewer_outputs_than_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.num_classes must be at least 4, the classes of the data, got 3"):
        train(settings(tmp_path, model=ModelConfig(num_classes=3)))


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"output: .*file/run cannot be written"):
        train(settings(tmp_path / "file" / "run"))


def test_a_resumed_run_asks_no_more_for_the_weights_that_it_began_with(undisturbed, tmp_path, monkeypatch):
    begin = tmp_path / "begin.safetensors"
    shutil.copy(undisturbed / "best.safetensors", begin)
    model = ModelConfig(weights=str(begin))
    assert train(settings(tmp_path / "whole", model=model)) == 0
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(3))
    assert train(settings(tmp_path / "parts", model=model)) == EXIT_RESUME_ME
    begin.unlink()
    with pytest.raises(SettingsError, match=r"^model\.weights: there is no file or folder .*begin\.safetensors"):
        train(settings(tmp_path / "afresh", model=model, resume=True))
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(10**9))
    assert train(settings(tmp_path / "parts", model=model, resume=True)) == 0
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["settings"]["model"]["weights"] == str(begin)


def test_the_peak_of_memory_is_that_of_all_processes_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "peak_memory", lambda device: 900.0)
    assert train(settings(tmp_path)) == 0
    monkeypatch.setattr(engine, "peak_memory", lambda device: 700.0)  # the evaluation alone
    assert train(settings(tmp_path, resume=True)) == 0
    assert json.loads((tmp_path / "result.json").read_text())["peak_memory_mib"] == 900.0


def test_best_weights_that_went_missing_are_named_before_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(7))
    assert train(settings(tmp_path)) == EXIT_RESUME_ME
    (tmp_path / "best.safetensors").unlink()
    monkeypatch.setattr(trainer.Trainer, "train_epoch", lambda self: pytest.fail("training went on"))
    with pytest.raises(SettingsError, match=r"^resume: .*best\.safetensors is missing, .* of epoch 1: put it back, or"):
        train(settings(tmp_path, resume=True))


def test_a_finished_run_that_starts_afresh_is_unfinished_until_its_end(tmp_path, monkeypatch):
    assert train(settings(tmp_path)) == 0
    shutil.rmtree(tmp_path / "checkpoints")
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(3))
    assert train(settings(tmp_path, resume=True)) == EXIT_RESUME_ME
    assert not (tmp_path / "result.json").exists()


WRITER = """
import sys
from pathlib import Path
from stodepth_models.training.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock() as free:
    print(free, flush=True)
    sys.stdin.read()
"""


def test_a_folder_that_another_run_writes_into_is_refused(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with writer:
        assert writer.stdout.readline() == "True\n"
        with pytest.raises(SettingsError, match=rf"^output: {re.escape(str(tmp_path))} is being written by another"):
            train(settings(tmp_path, epochs=1))
        assert {path.name for path in tmp_path.iterdir()} == {".lock"}
        writer.kill()
    assert train(settings(tmp_path, epochs=1)) == 0


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "of another run"])
def test_a_checkpoint_that_cannot_be_used_falls_back_to_the_one_before(
    undisturbed, tmp_path, monkeypatch, capsys, damage
):
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(7))
    train(settings(tmp_path))
    newest = max((tmp_path / "checkpoints").glob("*.pt"))
    content = newest.read_bytes()
    if damage == "truncated":
        newest.write_bytes(content[:5000])
    elif damage == "flipped":
        newest.write_bytes(content[:5000] + bytes([content[5000] ^ 8]) + content[5001:])
    elif damage == "foreign":
        torch.save({"state_dict": {"fc.weight": torch.ones(3)}}, newest)
    else:
        shutil.copy(undisturbed / "checkpoints" / "step_000000010.pt", newest)
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(10**9))
    train(settings(tmp_path, resume=True))
    kind = "does not belong to this run" if damage in ("foreign", "of another run") else "is damaged"
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("checkpoint")]
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint {newest} {kind}")
    assert same(weights(tmp_path), weights(undisturbed))


FOREIGN = {
    "a list": [1, 2],
    "a tensor": torch.ones(3),
    "no parts": {"model": {}},
    "parts of other types": dict.fromkeys(("model", "optimizer", "scheduler", "survival", "scaler", "progress", "rng")),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_checkpoints_alone_end_the_run_in_one_line(tmp_path, content):
    (tmp_path / "checkpoints").mkdir()
    torch.save(content, tmp_path / "checkpoints" / "step_000000099.pt")
    with pytest.raises(ValueError, match=r"^no checkpoint in [^\n]*checkpoints can be used: remove the folder[^\n]*$"):
        train(settings(tmp_path, resume=True))


@pytest.mark.parametrize(
    ("field", "value"), [("epoch", "1"), ("step", None), ("sums", 3), ("rows", {}), ("run", 5), ("best_top1", [])]
)
def test_a_checkpoint_with_progress_of_another_type_is_passed_over(tmp_path, monkeypatch, capsys, field, value):
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(7))
    train(settings(tmp_path))
    newest = max((tmp_path / "checkpoints").glob("*.pt"))
    state = torch.load(newest, weights_only=True)
    state["progress"][field] = value
    torch.save(state, newest)
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(0))
    train(settings(tmp_path, resume=True))
    assert f"checkpoint {newest} does not belong to this run" in capsys.readouterr().out


def test_processes_that_read_different_checkpoints_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "gather_object", lambda steps: [*steps, 5])
    with pytest.raises(SettingsError, match=r"checkpoints of different steps \(0, 5\): .* on a file system that all"):
        train(settings(tmp_path, resume=True))
