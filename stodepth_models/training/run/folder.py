"""The folder of a run: claimed before any work, its settings, its metrics, its result."""

import dataclasses
import fcntl
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision

from ... import __version__
from ..config import ModelConfig, TrainConfig
from ..data.datasets import Data
from ..errors import SettingsError
from .state import checkpoints, write_atomically

# What may differ between a run and its continuation: where it lies and how it is watched, not what it computes.
_FREE = ("output", "resume", "progress", "trackers", "log_steps", "checkpoint_minutes", "checkpoint_steps",
         "stop_at_chance", "data.workers", "data.cache", "data.download", "data.root",
         "data.label", "data.unreadable")  # fmt: skip

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

    def check(self, config: TrainConfig, world: int) -> None:
        """Make sure that the run may be written here.

        Args:
            config: settings of now.
            world: number of processes of now.

        Raises:
            SettingsError: the folder cannot be written, holds another run, or holds this one and ``resume`` is off.
        """
        probe = self.path / f".{uuid.uuid4().hex}"
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
        return dataclasses.replace(config.model, weights=None) if goes_on else config.model

    def check_data(self, data: Data) -> None:
        """Make sure that a run that goes on does so with the images that it began with.

        Before the first checkpoint some may have been left out since, because they cannot be read.

        Raises:
            SettingsError: other classes, or, where there is a checkpoint, another number of images.
        """
        then = self.saved().get("data") if self.config.exists() else None
        if then is None:
            return
        now = _contents(data)
        if not checkpoints(self.checkpoints):
            then["images"] = now["images"]
        changed = changes(_by_name(then), _by_name(now))
        if changed:
            raise SettingsError(f"resume: {self.path} was run on other images: {'; '.join(changed[:5])}")

    def claim(self, config: TrainConfig, world: int, data: Data) -> None:
        """Write the settings of the run, and remove what a killed process had begun to write."""
        for path in [*self.path.glob(".*"), *self.path.glob("*.partial"), *self.checkpoints.glob(".*")]:
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)
        versions = {"stodepth_models": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__}
        content = {"settings": dataclasses.asdict(config), "processes": world, "versions": versions}
        self._write_json(self.config, {**content, "data": _contents(data)})

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics of the epochs done, up to a line that is cut short or no metrics of an epoch."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict) or "epoch" not in row:
                break
            rows.append(row)
        return rows

    def keep_rows(self, epochs: int) -> None:
        """Forget the metrics after the first epochs: a resumed run computes them again."""
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["epoch"] <= epochs]
        write_atomically(self.metrics, lambda file: file.write("".join(kept).encode()))

    def add_row(self, row: dict[str, Any]) -> None:
        """Append the metrics of an epoch."""
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def finish(self, result: dict[str, Any]) -> None:
        """Write the final figures; a run with them is finished."""
        self._write_json(self.result, result)

    def saved(self) -> dict[str, Any]:
        """Return settings, number of processes and images of the run that the folder holds.

        Raises:
            SettingsError: they cannot be read.
        """
        try:
            saved = json.loads(self.config.read_text(encoding="utf-8"))
            return {"settings": saved["settings"], "processes": saved["processes"], "data": saved.get("data")}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise SettingsError(
                f"output: {self.config} cannot be read ({reason}): put a copy there, or give another folder"
            ) from None

    def _write_json(self, path: Path, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2, default=str) + "\n"
        write_atomically(path, lambda file: file.write(text.encode()))


def _contents(data: Data) -> dict[str, Any]:
    """What tells one data set from another without a look at the pixels."""
    splits = {"train": data.train, "valid": data.valid, "test": data.test}
    images = {name: 0 if split is None else len(split.labels) for name, split in splits.items()}
    return {"classes": list(data.classes), "images": images}


def _by_name(contents: dict[str, Any]) -> dict[str, Any]:
    """What training depends on: a damaged test image may be taken out before the final evaluation."""
    images = {f"the number of {split} images": contents["images"][split] for split in ("train", "valid")}
    return images | {f"class {number}": name for number, name in enumerate(contents["classes"])}


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
