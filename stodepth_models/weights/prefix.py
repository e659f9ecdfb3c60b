"""Where in a file the network stands: the attributes that come before its names."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Size, Tensor

from .checkpoint import Checkpoint, read_mapping
from .errors import CheckpointError
from .names import canonical

MAX_KEYS_SHOWN = 10  # keys that a message shows of each kind

Names = dict[str, str]  # name in the file of each weight of a network, by this package's name


def under_prefix(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    """Return the checkpoint for the network under a prefix; what stands beside it is left out when it is loaded.

    Args:
        checkpoint: weights as they were read.
        prefix: beginning of names, such as ``"encoder_q."``, as the file has it; ``""``: names without a prefix.

    Raises:
        CheckpointError: no name begins with it.
        TypeError: ``prefix`` is no text.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be the beginning of names, such as 'encoder_q.', got {prefix!r}")
    start = ""
    if prefix:
        start = canonical(f"{prefix.rstrip('.')}.")
    if not any(name.startswith(start) for name in checkpoint.state_dict):
        key, _, rest = prefix.partition(".")
        if key in checkpoint.mappings:
            chosen = read_mapping(checkpoint.mappings[key], f"{checkpoint.name} under {key!r}")
            return under_prefix(chosen, rest) if rest else chosen
        names = [*checkpoint.state_dict, *checkpoint.mappings]
        attributes = dict.fromkeys(f"{name.split('.')[0]}." for name in names)
        shown = ", ".join(list(attributes)[:MAX_KEYS_SHOWN])
        raise CheckpointError(f"{checkpoint.name} holds no names under prefix={prefix!r}; its names begin with {shown}")
    if prefix and not start:
        return checkpoint  # `module.` and the like were taken off when the file was read
    return replace(checkpoint, prefix=start)


def find_prefix(checkpoint: Checkpoint, shapes: Mapping[str, Size]) -> str:
    """Return the one prefix under which the body of a network stands.

    Training scripts put an attribute before every name: ``encoder_q.``, ``student.backbone.``.

    Args:
        checkpoint: weights as they were read.
        shapes: of the network's weights but those of its classifier, under this package's names.

    Raises:
        CheckpointError: the names fit under several prefixes.
    """
    networks = _networks(checkpoint, shapes)
    whole: dict[str, Names] = {}
    for prefix, names in networks.items():
        if len(names) == len(shapes):
            whole[prefix] = names
    if len(whole) > 1:
        whole = _of_the_same_size(checkpoint.state_dict, whole, shapes) or whole
    if len(whole) > 1:
        whole = _without_copies(checkpoint.state_dict, whole)
    if len(whole) > 1:
        first, *others = whole
        listed = ", ".join(map(repr, whole))
        # Names without a prefix are rarely what is meant where others have one.
        example = first or others[0]
        raise CheckpointError(
            f"{checkpoint.name} holds {len(whole)} networks that fit, under {listed}: choose one with "
            f"load_pretrained(..., prefix={example!r}) or --model.weights_prefix {example}"
        )
    if whole:
        return next(iter(whole))
    # Names that fit in part are those of another network: the error lists what is missing of the best match.
    best = max(networks, key=lambda prefix: len(networks[prefix]), default="")
    if networks and len(networks[best]) >= len(shapes) / 2:
        return best
    return checkpoint.prefix or ""


def _networks(checkpoint: Checkpoint, shapes: Mapping[str, Size]) -> dict[str, Names]:
    """The weights of the network that stand under each prefix, shorter ones first."""
    found: dict[str, Names] = {}
    for name in checkpoint.state_dict:
        parts = name.split(".")
        for depth in range(len(parts)):
            short = canonical(".".join(parts[depth:]))
            if short in shapes:
                prefix = "".join(f"{part}." for part in parts[:depth])
                found.setdefault(prefix, {}).setdefault(short, name)
    networks: dict[str, Names] = {}
    known: set[frozenset[str]] = set()
    for prefix in sorted(found, key=len):
        # `resnet.` of transformers is part of the rules: the same weights are found with and without it.
        names = frozenset(found[prefix].values())
        if _is_chosen(prefix, checkpoint.prefix) and names not in known:
            networks[prefix] = found[prefix]
            known.add(names)
    return networks


def _is_chosen(prefix: str, chosen: str | None) -> bool:
    if chosen == "":
        return prefix == ""
    return chosen is None or prefix.startswith(chosen)


def _of_the_same_size(
    state: Mapping[str, Tensor], networks: Mapping[str, Names], shapes: Mapping[str, Size]
) -> dict[str, Names]:
    """Those of the networks that have the model's shapes and no further blocks: a teacher may be deeper."""
    stages = {short.split(".")[0] for short in shapes}
    fitting: dict[str, Names] = {}
    for prefix, names in networks.items():
        is_deeper = False
        for name in state:
            own = canonical(name.removeprefix(prefix))
            if name.startswith(prefix) and own.endswith("weight") and own.split(".")[0] in stages:
                is_deeper = is_deeper or own not in shapes
        has_shapes = all(state[name].shape == shapes[short] for short, name in names.items())
        if has_shapes and not is_deeper:
            fitting[prefix] = names
    return fitting


def _without_copies(state: Mapping[str, Tensor], networks: Mapping[str, Names]) -> dict[str, Names]:
    """The networks of which no other has the same values: some trainers register one network twice."""
    different: dict[str, Names] = {}
    for prefix, names in networks.items():
        is_copy = any(_are_equal(state, names, others) for others in different.values())
        if not is_copy:
            different[prefix] = names
    return different


def _are_equal(state: Mapping[str, Tensor], names: Names, others: Names) -> bool:
    for short, name in names.items():
        one, other = state[name], state[others[short]]
        if one is other:
            continue
        try:
            are_equal = one.shape == other.shape and torch.equal(one, other)
        except Exception:  # sparse or quantised tensors, which no network is loaded from
            return False
        if not are_equal:
            return False
    return True
