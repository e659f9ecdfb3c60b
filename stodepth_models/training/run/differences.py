"""What a run and its continuation may differ in: settings and images, compared name by name."""

import dataclasses
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..data.datasets import Data

# What may differ between a run and its continuation: where it lies and how it is watched, not what it computes.
_FREE = (
    "output",
    "resume",
    "progress",
    "trackers",
    "log_steps",
    "checkpoint_minutes",
    "checkpoint_steps",
    "stop_at_chance",
    "data.workers",
    "data.cache",
    "data.max_unpacked_gb",
    "data.max_files",
    "data.download",
    "data.root",
    "data.label",
    "data.unreadable",
    "data.changed",
)


def differences(saved: dict[str, Any], config: TrainConfig) -> list[str]:
    """Return one phrase for each setting that would change the computation of a saved run.

    Args:
        saved: the run's settings, as :func:`dataclasses.asdict` gives them, paths and tuples as in JSON.
        config: the settings of now.
    """
    then = same_computation(saved)
    now = same_computation(dataclasses.asdict(config))
    return changes(then, now)


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one phrase for each name under which two flat dicts hold different things, or only one holds any."""
    phrases = []
    for key in {**then, **now}:  # a set would lose their order
        before = then.get(key, "not given")
        after = now.get(key, "not given")
        if before != after:
            phrases.append(f"{key} was {before}, is {after}")
    return phrases


def same_computation(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the flat settings that shape a computation, without those of where it lies and how it is watched."""
    # A setting that is younger than the run stands at its default, which is what the run did.
    complete = flatten(dataclasses.asdict(TrainConfig()))
    complete.update(flatten(settings))
    for name in _FREE:
        complete.pop(name, None)
    return complete


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Return settings by dotted name, in the types that trackers take."""
    flat = flatten(dataclasses.asdict(config))
    for key, value in flat.items():
        if not isinstance(value, (int, float, str, bool)):
            flat[key] = str(value)
    return flat


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by dotted name, as JSON would hold them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def contents(data: Data) -> dict[str, Any]:
    """Return what identifies the images of a run: classes, numbers of images, and a fingerprint."""
    images = {}
    for name, split in (("train", data.train), ("valid", data.valid), ("test", data.test)):
        images[name] = 0
        if split is not None:
            images[name] = len(split.labels)
    return {"classes": list(data.classes), "images": images, "fingerprint": data.fingerprint}


def counts(contents: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of images that training depends on."""
    # Not of test images: a damaged one may be taken out at any time.
    images = contents["images"]
    return {
        "the number of train images": images.get("train"),
        "the number of valid images": images.get("valid"),
    }


def class_names(contents: dict[str, Any]) -> dict[str, Any]:
    """Return the names of the classes by their number."""
    return {f"class {number}": name for number, name in enumerate(contents["classes"])}


def comparable_fingerprint(contents: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """Return the fingerprint, without what the other one does not have, and without test images of another number."""
    known = other.get("fingerprint", {})
    found = {}
    for name, text in contents.get("fingerprint", {}).items():
        if name in known:
            found[name] = text
    if contents["images"].get("test") != other["images"].get("test"):
        found.pop("test", None)
    return found
