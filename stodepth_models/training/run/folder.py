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
from .differences import changes, class_names, comparable_fingerprint, contents, counts, differences
from .seal import read_sealed, sealed
from .state import checkpoints

# Names of files that were being written when their process was killed. No other program gives such names.
_UNFINISHED = re.compile(r"\.(.+\.)?[0-9a-f]{32}|.+\.[0-9a-f]{32}\.partial")

_START_AFRESH = "or give another --output to start afresh"


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
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self.config = path / "config.json"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        # By this object: the folder and those above it, the innermost first.
        self._made: list[Path] = []

    def check(self, config: TrainConfig, world: int) -> None:
        """Make sure that the run may be written here.

        Args:
            config: settings of now.
            world: number of processes of now.

        Raises:
            SettingsError: the folder cannot be written, holds another run, or holds this one and ``resume`` is off.
        """
        # Permissions say nothing of full disks and of file systems that are read-only: a file is written.
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
            raise SettingsError(
                f"resume: {self.path} was run with other settings: {'; '.join(changed)}; "
                f"give them as they were to go on, {_START_AFRESH} (--weights {self.path} begins with its weights)"
            )

    def discard(self) -> None:
        """Remove the folders that :meth:`check` made, as far as nothing was written into them."""
        lock = self.path / ".lock"
        if self.path in self._made and self.path.is_dir() and list(self.path.iterdir()) == [lock]:
            lock.unlink()
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:
                return  # it is not empty, or another process has removed it

    @contextmanager
    def lock(self) -> Iterator[bool]:
        """Keep other runs out while the context lasts; yields whether none was in before.

        The lock is the process's own, not its loaders', which may outlive a process that is killed for a moment.
        """
        with open(self.path / ".lock", "a") as file:
            is_first = True
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                is_first = False  # systems raise either
            except OSError:
                pass  # a file system without locks
            yield is_first

    def model(self, config: TrainConfig) -> ModelConfig:
        """Return the settings to build the model from: a checkpoint replaces all weights, and none are read for it."""
        if config.resume and checkpoints(self.checkpoints):
            return dataclasses.replace(config.model, weights=None, weights_prefix=None)
        return config.model

    def check_data(self, config: TrainConfig, data: Data) -> None:
        """Make sure that a run that goes on does so with the images that it began with.

        Before the first checkpoint nothing depends on them but the number of classes, and some may have been left out
        since, because they cannot be read.

        Raises:
            SettingsError: other classes or, where there is a checkpoint, other images; ``data.changed=accept`` allows
                as many others.
        """
        then = None
        if self.config.exists():
            then = self.saved()["data"]
        if then is None:
            return
        now = contents(data)
        has_checkpoint = bool(checkpoints(self.checkpoints))
        changed = changes(class_names(then), class_names(now))
        if has_checkpoint:
            changed = changes(counts(then), counts(now)) + changed
        if changed:
            raise SettingsError(
                f"resume: {self.path} was run on other images: {'; '.join(changed[:5])}; "
                f"put them back to go on, {_START_AFRESH}"
            )
        if not has_checkpoint:
            return
        changed = changed_images(comparable_fingerprint(then, now), comparable_fingerprint(now, then))
        if data.is_held_back and "fingerprint" not in then:
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
            for path in folder.glob("*"):
                if _UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)
        content = {
            "settings": dataclasses.asdict(config),
            "processes": world,
            "versions": {
                "stodepth_models": __version__,
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
            "data": contents(data),
            "run": run,
        }
        self._write_json(self.config, content)

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics of the epochs done, up to a line that is cut short or holds no metrics of an epoch."""
        return self._read_rows()[0]

    def whole_rows(self) -> list[dict[str, Any]]:
        """Return the metrics of all epochs of a finished run.

        Raises:
            ValueError: a line is damaged, or one is missing.
        """
        rows, damage = self._read_rows()
        epochs = [row["epoch"] for row in rows]
        if not damage and epochs != list(range(1, len(rows) + 1)):
            damage = f"holds the epochs {epochs}"
        if damage:
            raise ValueError(f"{self.metrics} {damage}: restore it, or move its run away")
        return rows

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
            # A checkpoint of version 0.1.0 holds no metrics.
            if len(rows) < epochs:
                outcome = f"of {epochs - len(rows)} of {epochs} epochs lost"
            say(f"{self.metrics} {damage or 'ends early'}: its metrics are {outcome}")
        content = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(self.metrics, content.encode())

    def add_row(self, row: dict[str, Any]) -> None:
        """Append the metrics of an epoch; they are on the disk when this returns."""
        # Appended, not rewritten: whoever follows the file sees one line more.
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
        # Settings have no part in the checksum: people move data sets and name their labels after a run.
        plain = json.loads(_as_json(result))
        self._write_json(self.result, sealed(plain, [self.metrics]))

    def read_result(self) -> dict[str, Any]:
        """Return the final figures.

        Raises:
            ValueError: they or the metrics are damaged.
        """
        return read_sealed(self.result, [self.metrics])

    def run_name(self) -> str | None:
        """Return the name of the run that the folder holds; None where there is none, or one of version 0.1.0."""
        if not self.config.exists():
            return None
        return self.saved()["run"]

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
        write_atomically(path, _as_json(content).encode())


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"


def _checked(saved: Any) -> dict[str, Any]:
    """What ``config.json`` says of a run; version 0.1.0 gave it no name and its images no fingerprint.

    Raises:
        KeyError: something is missing.
        TypeError: something is of another type.
    """
    record = {
        "settings": saved["settings"],
        "processes": saved["processes"],
        "data": saved.get("data"),
        "run": saved.get("run"),
    }
    for name, kind in (("settings", dict), ("processes", int), ("data", dict), ("run", str)):
        is_left_out = name in ("data", "run") and record[name] is None
        if not isinstance(record[name], kind) and not is_left_out:
            raise TypeError(f"{name} must be of type {kind.__name__}, got {record[name]!r:.50}")
    for section in ("model", "data", "optim"):
        if not isinstance(record["settings"].get(section, {}), dict):
            raise TypeError(f"settings.{section} must be of type dict")
    if record["data"] is not None:
        _check_contents(record["data"])
    return record


def _check_contents(data: dict[str, Any]) -> None:
    has_classes = isinstance(data["classes"], list)
    has_counts = all(type(count) is int for count in data["images"].values())  # a bool is no count
    has_fingerprint = isinstance(data.get("fingerprint", {}), dict)
    if not (has_classes and has_counts and has_fingerprint):
        raise TypeError("data must hold a list of classes, numbers of images and a fingerprint")
