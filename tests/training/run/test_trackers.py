"""A run that is resumed goes on as the same run in the trackers."""

import dataclasses
import sys
from types import SimpleNamespace

import accelerate.tracking
import pytest
import torch
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stodepth_models.training.errors import SettingsError
from stodepth_models.training.run import machine
from stodepth_models.training.run import train as engine
from stodepth_models.training.run.folder import RunFolder
from stodepth_models.training.run.train import train
from stodepth_models.training.run.trainer import Trainer

from .test_train import Stop, settings


class Wandb:
    """Stands for the module ``wandb``: remembers runs by their id."""

    def __init__(self):
        self.started, self.settings, self.logged = [], [], []
        self.config = SimpleNamespace(update=lambda values, **_: self.settings.append(values))

    def finish(self):
        pass

    def init(self, **options):
        self.started.append(options)
        return SimpleNamespace(
            id=options["id"], finish=self.finish, config=self.config,
            log=lambda values, step=None, **_: self.logged.append((options["id"], step)),
        )  # fmt: skip


@pytest.fixture
def wandb(monkeypatch):
    """A fake of Weights & Biases, which is not installed here."""
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for module in (machine, accelerate.tracking):
        monkeypatch.setattr(module, "is_wandb_available", lambda: True, raising=False)
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", ["tensorboard", "wandb"], raising=False)
    monkeypatch.setattr(machine, "get_available_trackers", lambda: [SimpleNamespace(value="wandb")])
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda log_with, *_: log_with)
    return fake


def test_weights_and_biases_sees_one_run(tmp_path, wandb, monkeypatch):
    for steps in (2, 6, 10**9):
        monkeypatch.setattr(engine, "StopRequest", lambda steps=steps: Stop(steps))
        train(settings(tmp_path, trackers=("wandb",), resume=True))
    assert [options["id"] for options in wandb.started] == 3 * [RunFolder(tmp_path).run_name()]
    assert wandb.started[0] == {
        "project": "stodepth", "dir": str(tmp_path), "name": tmp_path.name, "id": RunFolder(tmp_path).run_name(),
        "resume": "allow",
    }  # fmt: skip
    assert [step for _, step in wandb.logged] == [5, 10]
    train(settings(tmp_path / "other", trackers=("wandb",), epochs=1))
    assert wandb.started[-1]["id"] != wandb.started[0]["id"]


def test_a_tracker_that_does_not_start_is_named_and_leaves_no_folder(tmp_path, wandb):
    def refuse(**_):
        raise Exception("No API key configured.")

    wandb.init = refuse
    with pytest.raises(SettingsError, match=r"^trackers: No API key configured; leave it out of --trackers"):
        train(settings(tmp_path / "run", trackers=("wandb",)))
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_end_leaves_the_exit_code(tmp_path, wandb, monkeypatch, capsys):
    def refuse():
        raise ConnectionResetError("Connection lost")

    wandb.finish = refuse
    monkeypatch.setattr(engine, "StopRequest", lambda: Stop(2))
    assert train(settings(tmp_path, trackers=("wandb",))) == engine.EXIT_RESUME_ME
    assert "trackers: wandb did not end: Connection lost\n" in capsys.readouterr().out


class Mlflow:
    """Stands for the module ``mlflow``: gives each new run a name of its own."""

    def __init__(self):
        self.tags, self.params, self.steps = {}, [], []
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        self.utils = SimpleNamespace(validation=limits)
        self.search_experiments = lambda **_: [SimpleNamespace(experiment_id="0")]
        self.log_params, self.end_run = self.params.append, lambda: None

    def start_run(self, run_id, tags, **_):
        self.running = run_id or f"id{len(self.tags)}"
        self.tags[self.running] = tags["stodepth_run"]

    def log_metrics(self, metrics, step):
        self.steps.append((self.running, step))

    def search_runs(self, filter_string, **_):
        found = [key for key, name in self.tags.items() if filter_string == f"tags.stodepth_run = '{name}'"]
        return [SimpleNamespace(info=SimpleNamespace(run_id=key)) for key in found]


def test_mlflow_sees_one_run_whose_settings_it_takes_once(tmp_path, monkeypatch):
    fake = Mlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setattr(machine, "get_available_trackers", lambda: [LoggerType.MLFLOW])
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_: [LoggerType.MLFLOW])
    for steps in (7, 10**9):
        monkeypatch.setattr(engine, "StopRequest", lambda steps=steps: Stop(steps))
        train(settings(tmp_path, trackers=("mlflow",), resume=True))
    assert fake.tags == {"id0": RunFolder(tmp_path).run_name()}
    assert fake.steps == [("id0", 5), ("id0", 10)]
    assert [values["seed"] for values in fake.params if "seed" in values] == [0]


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_tensorboard_shows_one_run_where_epochs_are_computed_twice(tmp_path, monkeypatch):
    def killed(self, original=Trainer.save):
        if self.progress.step == 10 and not (tmp_path / "killed").exists():  # logged, and not saved yet
            (tmp_path / "killed").touch()
            raise Killed
        return original(self)

    config = settings(tmp_path / "run", trackers=("tensorboard",), epochs=3)
    monkeypatch.setattr(Trainer, "save", killed)
    with pytest.raises(Killed):
        train(config)
    shown = sorted(path for path in (tmp_path / "run").rglob("*") if path.is_dir())
    train(dataclasses.replace(config, resume=True))
    events = EventAccumulator(str(tmp_path / "run" / "stodepth")).Reload()
    assert [event.step for event in events.Scalars("valid/top1")] == [5, 10, 15]
    # TensorBoard shows a folder as a run, that of the settings too: a resume adds none.
    assert sorted(path for path in (tmp_path / "run").rglob("*") if path.is_dir()) == shown
    assert [row["epoch"] for row in RunFolder(tmp_path / "run").rows()] == [1, 2, 3]


def test_a_run_that_starts_afresh_is_another_run(tmp_path):
    train(settings(tmp_path, epochs=1))
    before = RunFolder(tmp_path).run_name()
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    train(settings(tmp_path, epochs=1, resume=True))
    assert RunFolder(tmp_path).run_name() not in (before, None)
    assert torch.load(next((tmp_path / "checkpoints").iterdir()))["progress"]["run"] == RunFolder(tmp_path).run_name()
