"""From a finished run to published weights: the file, its entry in the index, and the tables made from the index."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..flops import expected_flops
from ..weights.checkpoint import read_file
from ..weights.files import write_atomically
from ..weights.rebuild import rebuild
from ..zoo import SUFFIX
from .config import DataConfig, EvaluateConfig, ModelConfig
from .evaluation import evaluate_weights
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
    if not record.result.exists():
        raise ValueError(f"{run} is not a finished run: go on with --resume")
    settings = record.saved()["settings"]
    result = json.loads(record.result.read_text(encoding="utf-8"))
    if result["test_error_best"] is None:
        raise ValueError(f"{run} held no test images")
    cycles = _cycles(record)
    saved = read_file(record.best, str(record.best)).config
    assert saved is not None  # the run wrote it
    _check(name, settings, saved)
    builder = settings["model"]["name"]
    entry = {
        "builder": builder.removesuffix(SUFFIX), "name": name, "default": default,
        **_file(record.best, builder.removesuffix(SUFFIX), settings),
        **_images(saved["training"], settings),
        **_figures(record.best, saved, settings, root),
        "recipe": origin.recipe, "license": "BSD-3-Clause", "docs": _docs(settings, cycles, origin),
        "training": _training(settings, result, cycles, record.rows(), origin),
    }  # fmt: skip
    shutil.copyfile(record.best, folder / entry["file"])
    _enter(folder, entry, saved["categories"])
    return entry


def model_table(entries: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of the models whose files ship: size, cost, accuracy, and how to load them."""
    rows: list[tuple[str, ...]] = [
        ("model", "weights", "parameters", "GFLOPs (multiply-adds)", "top-1 %", "data", "MiB", "how to load"),
        ("---", "---", "---:", "---:", "---:", "---", "---:", "---"),
    ]
    for entry in _shipped(entries):
        how = "pretrained=True" if entry["default"] else f'weights="{entry["name"]}"'
        rows.append((
            f"`{entry['builder']}`", f"`{entry['name']}`", f"{entry['num_params']:,}", f"{entry['ops']:.3f}",
            f"{entry['acc@1']:.2f}", entry["dataset"], f"{entry['file_size']:.1f}",
            f"`sdm.{entry['builder']}{SUFFIX}({how})`",
        ))  # fmt: skip
    return _markdown(rows)


def training_table(entries: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of how the models were trained whose files ship."""
    heads = ("file", "p_L", "seed", "epochs of each cycle", "best epoch of the last", "validation top-1 %, best / last",
             "test top-1 %, best / last", "processor min", "FLOPs", "commit")  # fmt: skip
    rows: list[tuple[str, ...]] = [heads, ("---", *["---:"] * 8, "---")]
    for entry in _shipped(entries):
        done = entry["training"]
        rows.append((
            f"`{entry['file']}`", f"{done['prob_0_L'][1]:g}", str(done["seed"]), _sum(done["epochs"]),
            str(done["best_epoch"]), f"{done['valid_best']:.2f} / {done['valid_last']:.2f}",
            f"{done['test_best']:.2f} / {done['test_last']:.2f}", f"{done['processor_seconds'] / 60:.0f}",
            f"{done['flops_share']:.1%}", done["commit"],
        ))  # fmt: skip
    return _markdown(rows)


def _check(name: str, settings: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Refuse what would leave an index that the package cannot read, or an entry that is not true."""
    if not name.isidentifier() or name.startswith("_") or name == "DEFAULT":
        raise ValueError(f"name must be that of an enum's member, such as CIFAR10_JPEG_V1, got {name!r}")
    if not settings["data"]["label"]:
        raise ValueError("the run does not say what its images are called: train with data.label")
    if not saved["categories"]:
        raise ValueError("the run has outputs beyond the classes of its images: they have no names")
    if settings["model"]["stoch_depth_probability"] is not None or settings["model"]["ramp_epochs"]:
        raise ValueError("the run's survival probabilities moved, and an entry has room for constant ones only")


def _file(path: Path, builder: str, settings: dict[str, Any]) -> dict[str, Any]:
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    depth = "constant" if _is_constant(settings) else "stodepth"
    return {
        "file": f"{builder}_{depth}-{sha256[:8]}.safetensors", "url": None, "sha256": sha256,
        "file_size": round(len(content) / 2**20, 3),
    }  # fmt: skip


def _images(training: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset": settings["data"]["label"], "size": training["image_size"], "mean": training["mean"],
        "std": training["std"], "min_size": [1, 1],
    }  # fmt: skip


def _figures(path: Path, saved: Mapping[str, Any], settings: dict[str, Any], root: Path) -> dict[str, Any]:
    """Size and cost of the network, and its accuracy on the test images, evaluated in float32."""
    model, side = rebuild(saved, {}), saved["training"]["image_size"]
    data = DataConfig(**{**settings["data"], "root": root, "cache": Path(settings["data"]["cache"])})
    network = ModelConfig(name=settings["model"]["name"], weights=str(path), options=settings["model"]["options"])
    figures = evaluate_weights(EvaluateConfig(model=network, data=data, cpu=True))
    return {
        "num_params": sum(parameter.numel() for parameter in model.parameters()),
        "ops": round(expected_flops(model, (1, 3, side, side)).full / 2e9, 3),
        "acc@1": round(100 * figures["top1"], 2), "measured": True,
    }  # fmt: skip


def _cycles(record: RunFolder) -> list[dict[str, Any]]:
    """Epochs, processor time and FLOPs of the run and of those whose weights it went on with, the first one first."""
    settings = record.saved()["settings"]
    result = json.loads(record.result.read_text(encoding="utf-8"))
    cycle = {"epochs": settings["epochs"], "seconds": result["processor_seconds"], "share": flops_share(result)}
    start = settings["model"]["weights"]
    if not start:
        return [cycle]
    path = Path(start)
    before = RunFolder(path if path.is_dir() else path.parent)
    if not before.result.exists():  # weights of another origin
        return [cycle]
    return [*_cycles(before), cycle]


def _sum(epochs: Sequence[int]) -> str:
    return " + ".join(map(str, epochs))


def _docs(settings: dict[str, Any], cycles: Sequence[dict[str, Any]], origin: Origin) -> str:
    last = settings["model"]["prob_0_L"][1]
    how = "at constant depth" if _is_constant(settings) else f"with stochastic depth, p_L = {last:g}"
    epochs = _sum([cycle["epochs"] for cycle in cycles])
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
    return {
        "prob_0_L": settings["model"]["prob_0_L"],
        "seed": settings["seed"],
        "epochs": epochs,
        "precision": settings["precision"],
        "commit": origin.commit,
        "machine": origin.machine,
        "processor_seconds": round(sum(cycle["seconds"] for cycle in cycles)),
        "flops_share": round(sum(cycle["share"] * cycle["epochs"] for cycle in cycles) / sum(epochs), 4),
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
    key = (entry["builder"], entry["name"])
    replaced = [other for other in index["weights"] if (other["builder"], other["name"]) == key]
    others = [other for other in index["weights"] if other not in replaced]
    for other in others:
        if other["builder"] == entry["builder"] and entry["default"]:
            other["default"] = False
    index["weights"] = [*others, entry]
    text = json.dumps(index, indent=2) + "\n"
    write_atomically(path, text.encode())
    for other in _shipped(replaced):
        if other["file"] != entry["file"]:
            (folder / other["file"]).unlink(missing_ok=True)


def _shipped(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    shipped = [entry for entry in entries if entry["url"] is None]
    return sorted(shipped, key=lambda entry: (entry["num_params"], not entry["default"]))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
