"""TensorBoard, Weights & Biases and other trackers of experiments."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator


def tracked(row: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of a row of metrics by dotted name."""
    flat: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= tracked(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            flat[f"{prefix}{key}"] = value
    return flat


def start_trackers(accelerator: Accelerator, settings: dict[str, Any], folder: Path) -> None:
    """Start the trackers that the accelerator was made with, under the settings of the run, in its folder."""
    if accelerator.log_with:
        accelerator.init_trackers("stodepth", settings, {"wandb": {"dir": str(folder), "name": folder.name}})
