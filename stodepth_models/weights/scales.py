"""Evaluation scales of a source folded into its weights, so that a model computes what the source computed."""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..blocks.fold import Gated, gated_blocks, scalings_of, times
from ..layers.residual import EVAL_SCALE, SCHEDULED_SCALE, StochasticResidual
from .errors import CheckpointError
from .names import HOLDERS, canonical

# In the metadata of state dicts of version 0.1.0: the scales of all gates, in forward order.
LISTED_SCALES = "eval_scales"

_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")  # of the networks of our builders


def read_scales(state: Mapping[str, Any], owner: str = "the state dict") -> dict[str, float] | None:
    """Return the evaluation scale of each gate, by its name, that a state dict of PyTorch has beside its weights.

    A network of constant depth has no gates. None: nothing is known, for a script has copied the weights to a plain
    dict, or the scales are damaged.
    """
    metadata = getattr(state, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return None
    whole_model = metadata.get("")
    if isinstance(whole_model, Mapping) and isinstance(whole_model.get(LISTED_SCALES), list):
        listed = whole_model[LISTED_SCALES]
        if not _are_scales(listed):
            return None
        return scales_by_gate(listed, state, owner)
    # An average is a copy with the scales of the moment it was made; its weights were trained with the scheduled ones.
    is_average = any(str(key).endswith("n_averaged") for key in state)
    scales: dict[str, float] = {}
    for gate, entry in metadata.items():
        if isinstance(entry, Mapping) and EVAL_SCALE in entry:
            scale = entry[EVAL_SCALE]
            if is_average:
                scale = entry.get(SCHEDULED_SCALE, scale)
            scales[canonical(str(gate))] = scale
    if not _are_scales(scales.values()):
        return None
    return scales


def scales_by_gate(listed: Sequence[float], names: Iterable[str], owner: str) -> dict[str, float]:
    """Return evaluation scales in forward order by the names of the gates.

    Args:
        listed: of the blocks of a network that a builder made; empty where its depth is constant.
        names: of the weights of that network.
        owner: what messages call them.

    Raises:
        CheckpointError: the network has another number of blocks.
    """
    blocks: set[tuple[int, int]] = set()
    for name in names:
        match = _BLOCK.match(canonical(name))
        if match:
            blocks.add((int(match[1]), int(match[2])))
    if listed and len(listed) != len(blocks):
        raise CheckpointError(f"{owner} holds {len(listed)} evaluation scales for the weights of {len(blocks)} blocks")
    scales: dict[str, float] = {}
    # By number: files have the names in alphabetical order, layer1.10 before layer1.2.
    for (stage, block), scale in zip(sorted(blocks), listed, strict=False):
        scales[f"layer{stage}.{block}.residual"] = scale
    return scales


def with_scales(weights: Mapping[str, Any], scales: Mapping[str, float]) -> OrderedDict[str, Any]:
    """Return the weights as a state dict that holds the evaluation scales of the gates, as PyTorch keeps versions."""
    state = OrderedDict(weights)
    metadata: dict[str, dict[str, float]] = {}
    for gate, scale in scales.items():
        metadata[gate] = {EVAL_SCALE: scale}
    state._metadata = metadata  # type: ignore[attr-defined]
    return state


def own_scales(model: nn.Module) -> dict[str, float]:
    """Return the evaluation scales of a model's gates, for weights that are known to be made for them."""
    scales: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, StochasticResidual):
            scales[name] = module.eval_scale
    return scales


def _are_scales(values: Iterable[Any]) -> bool:
    return all(isinstance(value, float) and 0.0 <= value <= 1.0 for value in values)


def fold_into(state: dict[str, Tensor], model: nn.Module, scales: Mapping[str, float]) -> dict[str, Tensor]:
    """Return weights that give ``model`` the evaluation function they gave their source.

    Args:
        state: weights of the source under the names of ``model``; its tensors are left as they are.
        model: the target.
        scales: evaluation scale of each gated residual of the source, by the name of its gate; 1 where none is given.

    Raises:
        ValueError: other blocks than the target's, a target that scales a living branch by 0, or a branch that does not
            end in a layer, of its own, to fold a scale into.
    """
    blocks = gated_blocks(model)
    sources = _source_scales(model, blocks, scales)
    # The modules are alive while `held` is: ids are compared. Its names are those of `state`, wrapped or not.
    held = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for key, tensor in held.items():
        names.setdefault(id(tensor), []).append(key)
    factors: list[float] = []
    for (name, _, gate), source in zip(blocks, sources, strict=True):
        factors.append(_ratio(name, gate, source))
    folded = dict(state)
    for scaling, factor in zip(scalings_of(blocks, factors), factors, strict=True):
        for tensor, power in scaling:
            for key in names.get(id(tensor), ()):
                if key in folded:
                    folded[key] = times(folded[key], factor, power)
    return folded


def _source_scales(model: nn.Module, blocks: Sequence[Gated], scales: Mapping[str, float]) -> list[float]:
    """Scale that the source gives the branch of each gate of ``model``."""
    if all(scale == 1.0 for scale in scales.values()):
        return [1.0] * len(blocks)
    saved: dict[str, list[float]] = {}
    for gate, scale in scales.items():
        saved.setdefault(_block_name(gate), []).append(scale)
    modules: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        modules[_block_name(f"{name}.gate")] = module
    if saved.keys() <= modules.keys():
        return _scales_by_name(modules, blocks, saved)
    # The blocks have other names here: their order is what is left.
    if len(scales) != len(blocks):
        raise ValueError(
            f"the source has {len(scales)} stochastic blocks, the model {len(blocks)}; for a plain model, load into a "
            "stochastic one and use to_torchvision"
        )
    return list(scales.values())


def _scales_by_name(
    modules: Mapping[str, nn.Module], blocks: Sequence[Gated], saved: Mapping[str, list[float]]
) -> list[float]:
    gates: dict[nn.Module, list[StochasticResidual]] = {}
    for _, block, gate in blocks:
        gates.setdefault(block, []).append(gate)
    found: dict[tuple[nn.Module, StochasticResidual], float] = {}
    for name, scales in saved.items():
        block = modules[name]
        own = gates.get(block, [])
        if len(own) != len(scales) and any(scale != 1.0 for scale in scales):
            listed = ", ".join(f"{scale:g}" for scale in scales)
            raise ValueError(
                f"the source scales {name or 'the model'} by {listed} in evaluation, and the model has {len(own)} "
                f"stochastic branches there, not {len(scales)}; for a plain model, load into a stochastic one and use "
                "to_torchvision"
            )
        for gate, scale in zip(own, scales, strict=False):
            found[block, gate] = scale
    # Blocks without saved scales have constant depth in the source.
    return [found.get((block, gate), 1.0) for _, block, gate in blocks]


def _block_name(gate: str) -> str:
    """The block that a gate belongs to, without the attributes of a class that holds the network."""
    return canonical(canonical(gate), [HOLDERS]).rpartition(".")[0]


def _ratio(name: str, gate: StochasticResidual, source: float) -> float:
    """Factor between the scale that a source has and that of the gate."""
    if source == gate.eval_scale:
        return 1.0
    if gate.eval_scale == 0.0:
        raise ValueError(
            f"{name} scales its branch by {source:g} in the source and by survival_prob=0 here, which no weights "
            "make up for: choose a survival probability above 0, or rescale='train' or 'none'"
        )
    return source / gate.eval_scale
