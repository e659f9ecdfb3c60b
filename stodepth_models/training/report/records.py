"""Finished runs in a form small enough to commit: settings, metrics and result, without weights and without paths."""

import json
import os
from pathlib import Path
from typing import Any

from ..run.folder import RunFolder

__all__ = ["collect"]

_DIGITS = 5


def collect(runs: Path, target: Path) -> list[str]:
    """Copy the records of all finished runs below a folder; a report can be made from the copies.

    Args:
        runs: folder of runs, at any depth, or a run.
        target: folder of the copies, which lie in it as the runs lie in theirs; a run alone keeps its name.

    Returns:
        Paths of the copies below their folder.

    Raises:
        ValueError: there is no finished run.
    """
    runs = Path(os.path.abspath(runs))  # a name for ".", and for a link that of the link
    base = runs.parent if RunFolder(runs).result.exists() else runs
    found = sorted(path.parent for path in runs.rglob("result.json") if not _inside(path, target))
    if not found:
        raise ValueError(f"{runs} must hold finished runs, got none outside of {target}")
    names = [path.relative_to(base).as_posix() for path in found]
    for path, name in zip(found, names, strict=True):
        _copy(RunFolder(path), RunFolder(target / name), name, base)
    return names


def _inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.parent.resolve().parents


def _without_place(weights: Path, base: Path) -> str:
    """The path below the folder of runs for weights of one of them, so that those of two differ; else the name."""
    place = Path(os.path.abspath(weights))
    return place.relative_to(base).as_posix() if base in place.parents else weights.name


def _copy(run: RunFolder, copy: RunFolder, name: str, base: Path) -> None:
    config = json.loads(run.config.read_text(encoding="utf-8"))
    settings = config["settings"]
    settings["output"] = name
    weights = settings["model"]["weights"]
    if weights and "://" not in weights:
        settings["model"]["weights"] = _without_place(Path(weights), base)
    settings["data"] |= {"root": Path(settings["data"]["root"]).name, "cache": ""}
    copy.path.mkdir(parents=True, exist_ok=True)
    copy.config.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    result = json.loads(run.result.read_text(encoding="utf-8"))
    copy.result.write_text(json.dumps(_rounded(result), indent=1) + "\n", encoding="utf-8")
    rows = (json.dumps(_rounded(row)) + "\n" for row in run.rows())
    copy.metrics.write_text("".join(rows), encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, _DIGITS) if isinstance(value, float) else value
