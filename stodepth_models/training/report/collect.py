"""Records of finished runs, copied in a form small enough to commit."""

import json
import os
from pathlib import Path
from typing import Any

from ..run.folder import RunFolder

_DIGITS = 5  # decimal places in a copy


def collect(runs: Path, target: Path) -> list[str]:
    """Copy the records of all finished runs below a folder; a report can be made from the copies.

    A copy holds settings, metrics and result, without weights and without paths of the machine.

    Args:
        runs: folder of runs, at any depth, or a run.
        target: folder of the copies, which lie in it as the runs lie in theirs; a run alone keeps its name.

    Returns:
        Paths of the copies below their folder.

    Raises:
        ValueError: there is no finished run.
    """
    # Not `resolve`: a link keeps its own name, and "." gets one.
    runs = Path(os.path.abspath(runs))
    base = runs
    if RunFolder(runs).result.exists():
        base = runs.parent
    names = []
    for result in sorted(runs.rglob("result.json")):
        if _is_inside(result, target):
            continue
        name = result.parent.relative_to(base).as_posix()
        _copy(RunFolder(result.parent), RunFolder(target / name), name, base)
        names.append(name)
    if not names:
        raise ValueError(f"{runs} must hold finished runs, got none outside of {target}")
    return names


def _copy(run: RunFolder, copy: RunFolder, name: str, base: Path) -> None:
    config = json.loads(run.config.read_text(encoding="utf-8"))
    settings = config["settings"]
    settings["output"] = name
    settings["model"]["weights"] = _without_place(settings["model"]["weights"], base)
    settings["data"]["root"] = Path(settings["data"]["root"]).name
    settings["data"]["cache"] = ""
    result = run.read_result()
    rows = ""
    for row in run.whole_rows():
        rows += json.dumps(_rounded(row)) + "\n"
    copy.path.mkdir(parents=True, exist_ok=True)
    copy.config.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    copy.result.write_text(json.dumps(_rounded(result), indent=1) + "\n", encoding="utf-8")
    copy.metrics.write_text(rows, encoding="utf-8")


def _without_place(weights: str | None, base: Path) -> str | None:
    """Return weights without the path of the machine.

    Weights of another run keep their path below the folder of runs, so that those of two runs differ.
    """
    if not weights or "://" in weights:
        return weights
    place = Path(os.path.abspath(weights))
    if base in place.parents:
        return place.relative_to(base).as_posix()
    return place.name


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, _DIGITS)
    return value


def _is_inside(path: Path, folder: Path) -> bool:
    # Copies that an earlier call has left within the folder of runs are no runs.
    return folder.resolve() in path.parent.resolve().parents
