"""Tables of the published weights, made from the entries of their index."""

from collections.abc import Sequence
from typing import Any

from ..zoo import SUFFIX


def model_table(entries: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of the models whose files ship: size, cost, accuracy, and how to load them."""
    rows: list[tuple[str, ...]] = [
        (
            "model",
            "weights",
            "parameters",
            "GFLOPs (multiply-adds)",
            "top-1 % (95 % interval)",
            "NLL",
            "calibration error",
            "data",
            "MiB",
            "how to load",
        ),
        ("---", "---", *["---:"] * 5, "---", "---:", "---"),
    ]
    for entry in shipped(entries):
        argument = f'weights="{entry["name"]}"'
        if entry["default"]:
            argument = "pretrained=True"
        low, high = entry["acc@1_interval"]
        row = (
            f"`{entry['builder']}`",
            f"`{entry['name']}`",
            f"{entry['num_params']:,}",
            f"{entry['ops']:.3f}",
            f"{entry['acc@1']:.2f} ({low:.2f} to {high:.2f})",
            f"{entry['nll']:.3f}",
            f"{entry['ece']:.3f}",
            entry["dataset"],
            f"{entry['file_size']:.1f}",
            f"`sdm.{entry['builder']}{SUFFIX}({argument})`",
        )
        rows.append(row)
    return _markdown(rows)


def training_table(entries: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table of how the models were trained whose files ship."""
    heads = (
        "file",
        "p_L",
        "seed",
        "epochs of each cycle",
        "best epoch of the last",
        "validation top-1 %, best / last",
        "test top-1 %, best / last",
        "processor min",
        "FLOPs",
        "commit",
    )
    # Numbers stand at the right.
    rule = ("---", *["---:"] * 8, "---")
    rows: list[tuple[str, ...]] = [heads, rule]
    for entry in shipped(entries):
        done = entry["training"]
        row = (
            f"`{entry['file']}`",
            f"{done['prob_0_L'][1]:g}",
            str(done["seed"]),
            as_sum(done["epochs"]),
            str(done["best_epoch"]),
            f"{done['valid_best']:.2f} / {done['valid_last']:.2f}",
            f"{done['test_best']:.2f} / {done['test_last']:.2f}",
            f"{done['processor_seconds'] / 60:.0f}",
            f"{done['flops_share']:.1%}",
            done["commit"],
        )
        rows.append(row)
    return _markdown(rows)


def as_sum(epochs: Sequence[int]) -> str:
    """Return the epochs of each cycle, such as ``"60 + 30"``."""
    return " + ".join(map(str, epochs))


def shipped(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries whose files ship with the package, small networks first."""
    # Others are links to files of other projects.
    of_ours = [entry for entry in entries if entry["url"] is None]
    return sorted(of_ours, key=lambda entry: (entry["num_params"], not entry["default"]))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    table = ""
    for row in rows:
        table += f"| {' | '.join(row)} |\n"
    return table
