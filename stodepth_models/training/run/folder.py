"""The folder of a run: claimed before any work, its settings, its metrics, its result."""

import dataclasses
import fcntl
import json
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision

from ... import __version__
from ...weights.files import write_atomically
from ..config import ModelConfig, TrainConfig
from ..data.datasets import Data
from ..data.splits import changed_images
from ..errors import SettingsError
from .state import checkpoints

# What may differ between a run and its continuation: where it lies and how it is watched, not what it computes.
_FREE = ("output", "resume", "progress", "trackers", "log_steps", "checkpoint_minutes", "checkpoint_steps",
         "stop_at_chance", "data.workers", "data.cache", "data.max_unpacked_gb", "data.max_files",
         "data.download", "data.root", "data.label", "data.unreadable", "data.changed")  # fmt: skip

_UNFINISHED = re.compile(r"\.(.+\.)?[0-9a-f]{32}|.+\.[0-9a-f]{32}\.partial")  # names that no other program gives


class RunFolder:
    """Where a run keeps what it writes.

    ``config.json`` holds its settings, ``metrics.jsonl`` one line an epoch, ``result.json`` the
    final figures, ``best.safetensors`` and ``last.safetensors`` weights, ``checkpoints/`` what ``--resume`` needs.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.best, self.last = path / "best.safetensors", path / "last.safetensors"
        self.config, self.metrics, self.result = path / "config.json", path / "metrics.jsonl", path / "result.json"
        self._made: list[Path] = []  # by this object: the folder and those above it, the innermost first

    def check(self, config: TrainConfig, world: int) -> None:
        """Make sure that the run may be written here.

        Args:
            config: settings of now.
            world: number of processes of now.

        Raises:
            SettingsError: the folder cannot be written, holds another run, or holds this one and ``resume`` is off.
        """
        probe = self.path / f".{uuid.uuid4().hex}"
        self._made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SettingsError(f"output: {self.path} cannot be written ({error.strerror})") from None
        if not self.config.exists():
            return
        if not config.resume:
            raise SettingsError(f"output: {self.path} holds a run: add --resume, or give another folder")
        saved = self.saved()
        changed = differences(saved["settings"], config)
        if saved["processes"] != world:
            changed.append(f"the number of processes was {saved['processes']}, is {world}")
        if changed:
            raise SettingsError(f"resume: {self.path} was run with other settings: {'; '.join(changed)}")

    def discard(self) -> None:
        """Remove the folders that :meth:`check` made, as far as nothing was written into them."""
        lock = self.path / ".lock"
        if self.path in self._made and self.path.is_dir() and list(self.path.iterdir()) == [lock]:
            lock.unlink()
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                return

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Keep other runs out while the context lasts; yields whether none was in before.

        The lock is the process's own, not its loaders', which may outlive a process that is killed for a moment.
        """
        with open(self.path / ".lock", "a") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # systems have either
                yield False
                return
            except OSError:  # a file system without locks
                pass
            yield True

    def model(self, config: TrainConfig) -> ModelConfig:
        """Return the settings to build the model from: a checkpoint replaces all weights, and none are read for it."""
        goes_on = config.resume and checkpoints(self.checkpoints)
        return dataclasses.replace(config.model, weights=None, weights_prefix=None) if goes_on else config.model

    def check_data(self, config: TrainConfig, data: Data) -> None:
        """Make sure that a run that goes on does so with the images that it began with.

        Before the first checkpoint nothing depends on them but the number of classes, and some may have been left out
        since, because they cannot be read.

        Raises:
            SettingsError: other classes or, where there is a checkpoint, other images; ``data.changed=accept`` allows
                as many others.
        """
        then = self.saved()["data"] if self.config.exists() else None
        if then is None:
            return
        now, has_checkpoint = _contents(data), bool(checkpoints(self.checkpoints))
        changed = changes(_class_names(then), _class_names(now))
        if has_checkpoint:
            changed = changes(_counts(then), _counts(now)) + changed
        if changed:
            raise SettingsError(f"resume: {self.path} was run on other images: {'; '.join(changed[:5])}")
        changed = changed_images(_compared(then, now), _compared(now, then)) if has_checkpoint else []
        if has_checkpoint and data.is_held_back and "fingerprint" not in then:
            # They would be validated on images that they were trained on.
            changed.append("version 0.1.0 held other images back for validation")
        if not changed:
            return
        what = f"resume: {self.path} was run on other images: {'; '.join(changed)}"
        if config.data.changed == "stop":
            raise SettingsError(f"{what}; put them back, or add --data.changed accept to go on with these")
        warnings.warn(what, stacklevel=2)

    def claim(self, config: TrainConfig, world: int, data: Data, run: str) -> None:
        """Write the settings and the name of the run, and remove what a killed process had begun to write."""
        for folder in (self.path, self.checkpoints):
            for path in [*folder.glob(".*"), *folder.glob("*.partial")]:
                if _UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        versions = {"stodepth_models": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__}
        content = {"settings": dataclasses.asdict(config), "processes": world, "versions": versions}
        self._write_json(self.config, {**content, "data": _contents(data), "run": run})

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics of the epochs done, up to a line that is cut short or holds no metrics of an epoch."""
        return self._read_rows()[0]

    def restore_rows(self, known: Sequence[dict[str, Any]], epochs: int, say: Callable[[str], None]) -> None:
        """Forget the metrics after the first epochs, which a resumed run computes again, and mend what is lost.

        Args:
            known: metrics of these epochs that the checkpoint holds; none in one of version 0.1.0.
            epochs: done.
            say: called with one line where the file is damaged.
        """
        found, damage = self._read_rows()
        found = [row for row in found if row["epoch"] <= epochs]
        rows = list(known) or found
        if len(found) < epochs:
            outcome = "restored from the checkpoint"
            if len(rows) < epochs:
                outcome = f"of {epochs - len(rows)} of {epochs} epochs lost"
            say(f"{self.metrics} {damage or 'ends early'}: its metrics are {outcome}")
        content = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.metrics, content.encode())

    def add_row(self, row: dict[str, Any]) -> None:
        """Append the metrics of an epoch; they are on the disk when this returns."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read_rows(self) -> tuple[list[dict[str, Any]], str]:
        """Return the metrics that can be read, and what is wrong with the file, empty where nothing is."""
        try:
            lines = self.metrics.read_bytes().splitlines()
        except FileNotFoundError:
            return [], "is missing"
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                return rows, f"is damaged in line {number}"
            if not isinstance(row, dict) or type(row.get("epoch")) is not int:
                return rows, f"holds no metrics of an epoch in line {number}"
            rows.append(row)
        return rows, ""

    def finish(self, result: dict[str, Any]) -> None:
        """Write the final figures; a run with them is finished."""
        self._write_json(self.result, result)

    def run_name(self) -> str | None:
        """Return the name of the run that the folder holds; None where there is none, or one of version 0.1.0."""
        return self.saved()["run"] if self.config.exists() else None

    def saved(self) -> dict[str, Any]:
        """Return settings, number of processes, images and name of the run that the folder holds.

        Raises:
            SettingsError: they cannot be read.
        """
        try:
            saved = json.loads(self.config.read_text(encoding="utf-8"))
            return _checked(saved)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise SettingsError(
                f"output: {self.config} cannot be read ({reason}): put a copy there, or give another folder"
            ) from None

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2, default=str) + "\n"
        write_atomically(path, text.encode())


def _checked(saved: Any) -> dict[str, Any]:
    """What ``config.json`` says of a run; version 0.1.0 gave it no name and its images no fingerprint.

    Raises:
        KeyError: something is missing.
        TypeError: something is of another type.
    """
    record = {"settings": saved["settings"], "processes": saved["processes"]}
    record |= {"data": saved.get("data"), "run": saved.get("run")}
    for name, kind in (("settings", dict), ("processes", int), ("data", dict), ("run", str)):
        is_optional = name in ("data", "run") and record[name] is None
        if not isinstance(record[name], kind) and not is_optional:
            raise TypeError(f"{name} must be of type {kind.__name__}, got {record[name]!r:.50}")
    for section in ("model", "data", "optim"):
        if not isinstance(record["settings"].get(section, {}), dict):
            raise TypeError(f"settings.{section} must be of type dict")
    data = record["data"]
    if data is not None:
        known = isinstance(data["classes"], list) and all(type(count) is int for count in data["images"].values())
        if not known or not isinstance(data.get("fingerprint", {}), dict):
            raise TypeError("data must hold a list of classes, numbers of images and a fingerprint")
    return record


def _contents(data: Data) -> dict[str, Any]:
    """What identifies the images of a run."""
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    images = {name: 0 if split is None else len(split.labels) for name, split in splits.items()}
    return {"classes": list(data.classes), "images": images, "fingerprint": data.fingerprint}


def _counts(contents: dict[str, Any]) -> dict[str, Any]:
    """Numbers of images that training depends on: a damaged test image may be taken out at any time."""
    return {f"the number of {split} images": contents["images"].get(split) for split in ("train", "valid")}


def _class_names(contents: dict[str, Any]) -> dict[str, Any]:
    return {f"class {number}": name for number, name in enumerate(contents["classes"])}


def _compared(contents: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """The fingerprint, without what the other one does not have, and without test images of another number."""
    known = other.get("fingerprint", {})
    found = {name: text for name, text in contents.get("fingerprint", {}).items() if name in known}
    if contents["images"].get("test") != other["images"].get("test"):
        found.pop("test", None)
    return found


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Return settings by dotted name, in the types that trackers take."""
    flat = flatten(dataclasses.asdict(config))
    return {key: value if isinstance(value, (int, float, str, bool)) else str(value) for key, value in flat.items()}


def differences(saved: dict[str, Any], config: TrainConfig) -> list[str]:
    """Return one phrase for each setting that would change the computation of a saved run.

    Args:
        saved: the run's settings, as :func:`dataclasses.asdict` gives them, paths and tuples as in JSON.
        config: the settings of now.
    """
    then, now = same_computation(saved), same_computation(dataclasses.asdict(config))
    return changes(then, now)


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one phrase for each name under which two flat dicts hold different things, or only one holds any."""
    sides = {key: (then.get(key, "not given"), now.get(key, "not given")) for key in {**then, **now}}
    return [f"{key} was {before}, is {after}" for key, (before, after) in sides.items() if before != after]


def same_computation(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the flat settings that shape a computation, without those of where it lies and how it is watched.

    A setting that is younger than the run stands at its default, which is what the run did.
    """
    complete = flatten(dataclasses.asdict(TrainConfig())) | flatten(settings)
    return {key: value for key, value in complete.items() if key not in _FREE}


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by dotted name, as JSON would hold them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
