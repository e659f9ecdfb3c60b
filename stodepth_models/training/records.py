"""Finished runs in a form small enough to commit: settings, metrics and result, without weights and without paths."""

import json
from pathlib import Path
from typing import Any

from .outputs import RunFolder

__all__ = ["collect"]

_DIGITS = 5


def collect(runs: Path, target: Path) -> list[str]:
    """Copy the records of all finished runs below a folder; a report can be made from the copies.

    Args:
        runs: folder of runs, at any depth.
        target: folder of the copies, one folder a run, named after it.

    Returns:
        Names of the runs.

    Raises:
        ValueError: there is no finished run, or two have the same name.
    """
    found = sorted(path.parent for path in runs.rglob("result.json"))
    names = [path.name for path in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{runs} must hold finished runs of different names, got {', '.join(names) or 'none'}")
    for path in found:
        _copy(RunFolder(path), RunFolder(target / path.name))
    return names


def _copy(run: RunFolder, copy: RunFolder) -> None:
    config = json.loads(run.config.read_text(encoding="utf-8"))
    settings = config["settings"]
    settings["output"] = run.path.name
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
