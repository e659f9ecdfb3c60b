"""Settings side by side: what makes two runs the same computation."""

import dataclasses
from pathlib import Path
from typing import Any

from ..config import TrainConfig

__all__ = ["changes", "differences", "flatten", "same_computation"]

# What may differ between a run and its continuation: where it lies and how it is watched, not what it computes.
_FREE = ("output", "resume", "progress", "trackers", "log_steps", "checkpoint_minutes", "checkpoint_steps",
         "stop_at_chance", "data.workers", "data.cache", "data.download", "data.root",
         "data.label", "data.unreadable")  # fmt: skip


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
