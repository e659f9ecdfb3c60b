"""From a finished run to published weights: the file, and its entry in the index."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import no_such_path
from ..flops import expected_flops
from ..weights.checkpoint import read_file
from ..weights.files import write_atomically
from ..weights.rebuild import rebuild
from ..zoo import SUFFIX
from .config import DataConfig, EvaluateConfig, ModelConfig
from .evaluation import evaluate_weights
from .index_tables import as_sum, shipped
from .report.results import flops_share
from .run.folder import RunFolder


@dataclass(frozen=True)
class Origin:
    """What the records of a run do not hold.

    Attributes:
        recipe: its file of settings, in this repository.
        commit: of this package, that it was trained with.
        machine: that it was trained on.
        images: a sentence about its data set.
    """

    recipe: str
    commit: str
    machine: str
    images: str


def publish(run: Path, folder: Path, name: str, default: bool, root: Path, origin: Origin) -> dict[str, Any]:
    """Copy the weights of a run's best epoch into ``folder`` and enter them into its ``index.json``.

    A run that began with the weights of another run's folder is its next cycle: epochs, time and FLOPs are of both.

    Args:
        run: folder of a finished run.
        folder: of the published weights.
        name: of the enum's member; an entry of this builder and name is replaced, and its file removed.
        default: whether ``pretrained=True`` loads it; no other entry of the builder then is.
        root: data set of the run, whose test images are evaluated anew in float32.
        origin: where the run comes from.

    Returns:
        The entry.

    Raises:
        ValueError: the run is not finished, held no test images, or lacks what the entry says of it; or ``name`` cannot
            be a member.
    """
    record = RunFolder(run)
    if not run.exists():
        raise ValueError(f"{no_such_path(run)}: give the folder of a run")
    if not record.config.exists():
        raise ValueError(f"{run} is not the folder of a run: it holds no {record.config.name}")
    if not record.result.exists():
        raise ValueError(f"{run} is not a finished run: go on with --resume")
    settings = record.saved()["settings"]
    result = record.read_result()
    if result["test_error_best"] is None:
        raise ValueError(f"{run} held no test images: train on data with a test split")
    cycles = _cycles(record)
    saved = read_file(record.best, str(record.best)).config
    assert saved is not None  # the run wrote it
    _check(name, settings, saved)
    builder = settings["model"]["name"].removesuffix(SUFFIX)
    # Figures after the file: the order of the entries is that of the index.
    entry = {"builder": builder, "name": name, "default": default}
    entry |= _file(record.best, builder, settings)
    entry |= _images(saved["training"], settings)
    entry |= _figures(record.best, saved, settings, root)
    entry |= {
        "recipe": origin.recipe,
        "license": "BSD-3-Clause",
        "docs": _docs(settings, cycles, origin),
        "training": _training(settings, result, cycles, record.rows(), origin),
    }
    shutil.copyfile(record.best, folder / entry["file"])
    _enter(folder, entry, saved["categories"])
    return entry


def _check(name: str, settings: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse what would leave an index that the package cannot read, or an entry that is not true."""
    if not name.isidentifier() or name.startswith("_") or name == "DEFAULT":
        raise ValueError(f"--name must be that of an enum's member, such as CIFAR10_JPEG_V1, got {name!r}")
    if not settings["data"]["label"]:
        raise ValueError("the run does not say what its images are called: give its command --data.label and --resume")
    if not saved["categories"]:
        raise ValueError("the run has outputs beyond the classes of its images: they have no names")
    if settings["model"]["stoch_depth_probability"] is not None or settings["model"]["ramp_epochs"]:
        raise ValueError("the run's survival probabilities moved, and an entry has room for constant ones only")


def _file(path: Path, builder: str, settings: dict[str, Any]) -> dict[str, Any]:
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    depth = "stodepth"
    if _is_constant(settings):
        depth = "constant"
    return {
        "file": f"{builder}_{depth}-{sha256[:8]}.safetensors",
        "url": None,  # the file ships with the package
        "sha256": sha256,
        "file_size": round(len(content) / 2**20, 3),
    }


def _images(training: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": settings["data"]["label"],
        "size": training["image_size"],
        "mean": training["mean"],
        "std": training["std"],
        "min_size": [1, 1],  # the networks pool over whatever size is left
    }


def _figures(path: Path, saved: Mapping[str, Any], settings: dict[str, Any], root: Path) -> dict[str, Any]:
    """Size and cost of the network, and its figures on the test images, evaluated in float32."""
    model = rebuild(saved, {})
    side = saved["training"]["image_size"]
    flops = expected_flops(model, (1, 3, side, side)).full
    images = {**settings["data"], "root": root, "cache": Path(settings["data"]["cache"])}
    network = ModelConfig(
        name=settings["model"]["name"],
        weights=str(path),
        options=settings["model"]["options"],
    )
    # The run itself may have evaluated in half precision, or on another device.
    config = EvaluateConfig(model=network, data=DataConfig(**images), cpu=True)
    figures = evaluate_weights(config)
    return {
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "ops": round(flops / 2e9, 3),  # torchvision counts multiply-adds, of two FLOPs each
        "acc@1": round(100 * figures["top1"], 2),
        "acc@1_interval": [round(100 * bound, 2) for bound in figures["top1_interval"]],
        "nll": round(figures["nll"], 5),
        "ece": round(figures["ece"], 5),
        "measured": True,
    }


def _cycles(record: RunFolder) -> list[dict[str, Any]]:
    """Epochs, processor time and FLOPs of the run and of those whose weights it went on with, the first one first."""
    settings = record.saved()["settings"]
    result = record.read_result()
    cycle = {
        "epochs": settings["epochs"],
        "seconds": result["processor_seconds"],
        "share": flops_share(result),
    }
    start = settings["model"]["weights"]
    if not start:
        return [cycle]
    folder = Path(start)
    if not folder.is_dir():
        folder = folder.parent
    before = RunFolder(folder)
    if not before.result.exists():
        return [cycle]  # the weights come from elsewhere
    return [*_cycles(before), cycle]


def _docs(settings: dict[str, Any], cycles: Sequence[dict[str, Any]], origin: Origin) -> str:
    last = settings["model"]["prob_0_L"][1]
    how = f"with stochastic depth, p_L = {last:g}"
    if _is_constant(settings):
        how = "at constant depth"
    epochs = as_sum([cycle["epochs"] for cycle in cycles])
    return f"Trained {how}, for {epochs} epochs on {settings['data']['label']}: {origin.images}"


def _is_constant(settings: dict[str, Any]) -> bool:
    return settings["model"]["prob_0_L"] == [1.0, 1.0]


def _training(
    settings: dict[str, Any],
    result: dict[str, Any],
    cycles: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    origin: Origin,
) -> dict[str, Any]:
    epochs = [cycle["epochs"] for cycle in cycles]
    seconds = sum(cycle["seconds"] for cycle in cycles)
    # The share of a long cycle counts more than that of a short one.
    share = sum(cycle["share"] * cycle["epochs"] for cycle in cycles) / sum(epochs)
    return {
        "prob_0_L": settings["model"]["prob_0_L"],
        "seed": settings["seed"],
        "epochs": epochs,
        "precision": settings["precision"],
        "commit": origin.commit,
        "machine": origin.machine,
        "processor_seconds": round(seconds),
        "flops_share": round(share, 4),
        "best_epoch": result["best_epoch"],
        "valid_best": round(100 - result["best_valid_error"], 2),
        "valid_last": round(100 * rows[-1]["valid"]["top1"], 2),
        "test_best": round(100 - result["test_error_best"], 2),
        "test_last": round(100 - result["test_error_last"], 2),
    }


def _enter(folder: Path, entry: dict[str, Any], categories: Sequence[str]) -> None:
    path = folder / "index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    index["categories"][entry["dataset"]] = list(categories)
    replaced = []
    kept = []
    for other in index["weights"]:
        if (other["builder"], other["name"]) == (entry["builder"], entry["name"]):
            replaced.append(other)
            continue
        if other["builder"] == entry["builder"] and entry["default"]:
            other["default"] = False
        kept.append(other)
    index["weights"] = [*kept, entry]
    text = json.dumps(index, indent=2) + "\n"
    write_atomically(path, text.encode())
    # The files go last: the index never names one that is gone.
    for other in shipped(replaced):
        if other["file"] != entry["file"]:
            (folder / other["file"]).unlink(missing_ok=True)
