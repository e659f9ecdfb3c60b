"""The network's own weights in a file that holds more: found by the attribute that stands before their names."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .checkpoint import Checkpoint
from .errors import CheckpointError
from .names import CLASSIFIER, OPTIONAL_BUFFERS, canonical, canonical_names

MAX_KEYS_SHOWN = 10  # keys that a message shows of each kind

logger = logging.getLogger("stodepth_models")


def without_prefix(checkpoint: Checkpoint, body: Iterable[str]) -> Checkpoint:
    """Return the checkpoint with the one prefix taken off under which the names of a network fit.

    Training scripts put an attribute before every name: ``encoder_q.``, ``student.backbone.``. What lies beside it
    (losses, metrics, queues) is left out, which the log says.

    Args:
        checkpoint: weights under this package's names.
        body: names of the network's weights, but those of its classifier.

    Raises:
        CheckpointError: the names fit under several prefixes.
    """
    wanted = {name for name in body if not name.endswith(OPTIONAL_BUFFERS) and not name.startswith(CLASSIFIER)}
    counts = _count_prefixes(checkpoint.state_dict, wanted)
    whole = [prefix for prefix, count in counts.items() if count == len(wanted)]
    if "" in whole or not counts:
        return checkpoint
    if len(whole) > 1:
        listed = ", ".join(repr(prefix) for prefix in whole)
        raise CheckpointError(
            f"{checkpoint.name} holds {len(whole)} networks that fit, under {listed}: choose one with "
            f"load_pretrained(..., prefix={whole[0]!r})"
        )
    best, count = counts.most_common(1)[0]
    # Names that fit in part are those of another network: the error then lists what is missing of the better match.
    return checkpoint if best == "" or count < len(wanted) / 2 else under_prefix(checkpoint, best)


def under_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """Return what stands under a prefix, without it; the log says what is left out.

    Args:
        checkpoint: weights under this package's names.
        prefix: beginning of names, such as ``"encoder_q."``, as the file has it.

    Raises:
        CheckpointError: no name begins with it.
        TypeError: ``prefix`` is no text.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be the beginning of names, such as 'encoder_q.', got {prefix!r}")
    start = canonical(f"{prefix.rstrip('.')}.") if prefix else ""
    kept: dict[str, str] = {}
    beside: list[str] = []
    for name in checkpoint.state_dict:
        if name.startswith(start):
            kept[name.removeprefix(start)] = name
        else:
            beside.append(name)
    if not kept:
        first = dict.fromkeys(f"{name.split('.')[0]}." for name in checkpoint.state_dict)
        raise CheckpointError(
            f"{checkpoint.name} holds no names under prefix={prefix!r}; its names begin with "
            f"{', '.join(list(first)[:MAX_KEYS_SHOWN])}"
        )
    log_left_out(checkpoint, beside, f"the network is under {start!r}")
    names = canonical_names(kept, checkpoint.name)
    state = {name: checkpoint.state_dict[kept[original]] for name, original in names.items()}
    return replace(checkpoint, state_dict=state, is_wrapped=True)


def log_left_out(checkpoint: Checkpoint, names: list[str], why: str) -> None:
    """Say in one line what of a file is not loaded."""
    if names:
        shown = ", ".join(names[:3])
        more = ", ..." if len(names) > 3 else ""
        logger.warning("%s: %s; %d other tensors are left out: %s%s", checkpoint.name, why, len(names), shown, more)


def _count_prefixes(state: Mapping[str, object], wanted: set[str]) -> Counter[str]:
    """How many of the wanted names stand under each prefix."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        for depth in range(len(parts)):
            if canonical(".".join(parts[depth:])) in wanted:
                start = ".".join(parts[:depth])
                counts[f"{start}." if start else ""] += 1
    return counts
