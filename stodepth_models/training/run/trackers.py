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


def start_trackers(
    accelerator: Accelerator, settings: dict[str, Any], folder: Path, run: str, step: int
) -> None:  # fmt: skip
    """Start the trackers that the accelerator was made with; a run that is resumed goes on as the same run.

    Args:
        accelerator: of the run.
        settings: of the run, by name.
        folder: of the run.
        run: its name, the same after a resume.
        step: optimizer steps done; above 0 the run is resumed.
    """
    if not accelerator.log_with:
        return
    options = {
        "wandb": {"dir": str(folder), "name": folder.name, "id": run, "resume": "allow"},
        # A run that was killed has logged steps after its last checkpoint, and logs them again.
        "tensorboard": {"purge_step": step + 1},
    }
    accelerator.init_trackers("stodepth", None, options)
    for tracker in accelerator.trackers:
        # TensorBoard shows settings as a run of its own each time that they are stored.
        if step == 0 or tracker.name != "tensorboard":
            tracker.store_init_configuration(settings)
