"""TensorBoard, Weights & Biases and other trackers of experiments."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import LoggerType

from ..errors import SettingsError, first_line

_RUN_TAG = "stodepth_run"


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

    Raises:
        SettingsError: a tracker refuses to start: nobody has logged in, or its store cannot be used.
    """
    if not accelerator.log_with:
        return
    # Trackers raise errors of their own, of which many derive from Exception alone.
    try:
        _start(accelerator, settings, folder, run, step)
    except Exception as error:
        what = str(error).rstrip(". \n") or type(error).__name__
        raise SettingsError(f"trackers: {what}; leave it out of --trackers to go on without") from error


def _start(accelerator: Accelerator, settings: dict[str, Any], folder: Path, run: str, step: int) -> None:
    options = {
        "wandb": {"dir": str(folder), "name": folder.name, "id": run, "resume": "allow"},
        "mlflow": {"run_name": folder.name, "tags": {_RUN_TAG: run}, "run_id": _mlflow_id(accelerator, run, step)},
        # A run that was killed has logged steps after its last checkpoint, and logs them again.
        "tensorboard": {"purge_step": step + 1},
    }
    accelerator.init_trackers("stodepth", None, options)
    for tracker in accelerator.trackers:
        # TensorBoard shows settings as a run of its own each time that they are stored, and MLflow lets none change.
        if step == 0 or tracker.name not in ("tensorboard", "mlflow"):
            tracker.store_init_configuration(settings)


def end_trackers(accelerator: Accelerator) -> None:
    """End the trackers; one that fails is named, and changes nothing in how the training ended."""
    for tracker in accelerator.trackers:
        try:
            tracker.finish()
        except Exception as error:
            accelerator.print(f"trackers: {tracker.name} did not end: {first_line(error)}", flush=True)
    accelerator.trackers = []  # Accelerate would end them once more
    accelerator.end_training()


def _mlflow_id(accelerator: Accelerator, run: str, step: int) -> str | None:
    """Return the name that MLflow has given to a run that is resumed."""
    if step == 0 or LoggerType.MLFLOW not in accelerator.log_with or not accelerator.is_main_process:
        return None
    import mlflow  # optional

    where = f"tags.{_RUN_TAG} = '{run}'"
    found = mlflow.search_runs(search_all_experiments=True, filter_string=where, output_format="list")
    return found[0].info.run_id if found else None
