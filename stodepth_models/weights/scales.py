"""Evaluation scales of a source folded into its weights, so that a model computes what the source computed."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..blocks.fold import Gated, gated_blocks, scalings_of, times
from ..layers.residual import StochasticResidual
from .names import canonical

__all__ = ["fold_into"]


def fold_into(
    state: dict[str, Tensor], model: nn.Module, scales: Sequence[float] | Mapping[str, float] | None
) -> dict[str, Tensor]:
    """Return weights that give ``model`` the evaluation function they gave their source.

    Args:
        state: weights of the source under the names of ``model``; its tensors are left as they are.
        model: the target.
        scales: evaluation scale of each gated residual of the source, in forward order or by the name of its gate;
            None: 1 for all of them.

    Raises:
        ValueError: other blocks than the target's, a target that scales a living branch by 0, or a branch that does not
            end in a layer, of its own, to fold a scale into.
    """
    blocks = gated_blocks(model)
    sources = _source_scales(model, blocks, scales)
    folded = dict(state)
    names: dict[int, list[str]] = {}
    held = model.state_dict(keep_vars=True)  # alive: ids are compared. Its names are those of `state`, wrapped or not.
    for key, tensor in held.items():
        names.setdefault(id(tensor), []).append(key)
    factors = [_ratio(name, gate, source) for (name, _, gate), source in zip(blocks, sources, strict=True)]
    for scaling, factor in zip(scalings_of(blocks, factors), factors, strict=True):
        for tensor, power in scaling:
            for key in names.get(id(tensor), ()):
                if key in folded:
                    folded[key] = times(folded[key], factor, power)
    return folded


def _source_scales(
    model: nn.Module, blocks: Sequence[Gated], scales: Sequence[float] | Mapping[str, float] | None
) -> list[float]:
    """Scale that the source gives the branch of each gate of ``model``."""
    if scales is None:
        return [1.0] * len(blocks)
    if isinstance(scales, Mapping):
        noted: dict[str, list[float]] = {}
        for gate, scale in scales.items():
            noted.setdefault(_block_name(gate), []).append(scale)
        modules = {_block_name(f"{name}.gate"): module for name, module in model.named_modules(remove_duplicate=False)}
        if noted.keys() <= modules.keys():
            return _scales_by_name(modules, blocks, noted)
        scales = list(scales.values())
    if len(scales) != len(blocks):
        raise ValueError(
            f"the source has {len(scales)} stochastic blocks, the model {len(blocks)}; for a plain model, load into a "
            "stochastic one and use to_torchvision"
        )
    return list(scales)


def _scales_by_name(
    modules: Mapping[str, nn.Module], blocks: Sequence[Gated], noted: Mapping[str, list[float]]
) -> list[float]:
    gates: dict[nn.Module, list[StochasticResidual]] = {}
    for _, block, gate in blocks:
        gates.setdefault(block, []).append(gate)
    found: dict[tuple[nn.Module, StochasticResidual], float] = {}
    for name, scales in noted.items():
        block = modules[name]
        own = gates.get(block, [])
        if len(own) != len(scales) and any(scale != 1.0 for scale in scales):
            raise ValueError(
                f"the source scales {name or 'the model'} by {', '.join(f'{scale:g}' for scale in scales)} in "
                f"evaluation, and the model has {len(own)} stochastic branches there, not {len(scales)}; for a plain "
                "model, load into a stochastic one and use to_torchvision"
            )
        found.update({(block, gate): scale for gate, scale in zip(own, scales, strict=False)})
    return [found.get((block, gate), 1.0) for _, block, gate in blocks]


def _block_name(gate: str) -> str:
    """This package's name of the block that a gate belongs to."""
    return canonical(gate).rpartition(".")[0]


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
