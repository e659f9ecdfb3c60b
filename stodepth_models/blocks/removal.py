"""Blocks that a network can do without: left out of some passes, or taken out for good."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .find import CONTAINERS, gated_blocks_of
from .gated import GatedBlock


@contextmanager
def left_out(blocks: Sequence[GatedBlock]) -> Iterator[None]:
    """Within, evaluation passes skip all branches of the given blocks."""
    before = []
    for block in blocks:
        before += [(gate, gate.survival_prob, gate.rescale) for gate in block.stodepth_gates]
    try:
        for gate, _, _ in before:
            gate.survival_prob, gate.rescale = 0.0, "eval"
        yield
    finally:
        for gate, survival_prob, rescale in before:
            gate.survival_prob, gate.rescale = survival_prob, rescale


@torch.no_grad()
def removable_blocks(model: nn.Module, x: Tensor) -> list[str]:
    """Return the names of the blocks that :func:`remove_blocks` can take out, in forward order.

    A block qualifies whose output is its input where its branches are dropped, so that its shortcut neither changes the
    shape nor computes anything, and which stands in a list of blocks, not in front: no list becomes empty.

    Args:
        model: a model in evaluation, with stochastic blocks.
        x: its input, ``(N, ...)``.
    """
    blocks = gated_blocks_of(model)
    unchanged: set[nn.Module] = set()

    def compare(block: Any, args: Any, kwargs: Any, output: Any) -> None:
        received, _ = block._stodepth_bind(*args, **kwargs)
        returned = output
        if isinstance(output, tuple):
            returned = output[0]
        if received.shape == returned.shape and torch.equal(received, returned):
            unchanged.add(block)

    hooks = [block.register_forward_hook(compare, with_kwargs=True) for _, block in blocks]
    try:
        with left_out([block for _, block in blocks]):
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    names: list[str] = []
    for name, block in blocks:
        container = _container_of(model, name)
        is_first = next(container.children()) is block
        if block in unchanged and _is_list(container) and not is_first:
            names.append(name)
    return names


def remove_blocks(model: nn.Module, names: Sequence[str]) -> None:
    """Take blocks out of their containers, in place; those behind them move up, and take over their names.

    So the names of its weights are those of a model that was built with fewer blocks.

    Args:
        model: a model with stochastic blocks.
        names: of blocks that :func:`removable_blocks` has returned.
    """
    containers = {_container_of(model, name): None for name in names}
    gone = {model.get_submodule(name) for name in names}
    for container in containers:
        old_names = [name for name, _ in container.named_children()]
        staying = [child for child in container.children() if child not in gone]
        for name in old_names:
            delattr(container, name)
        for name, child in zip(old_names, staying, strict=False):
            container.add_module(name, child)


def _container_of(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _is_list(container: nn.Module) -> bool:
    """Whether children can leave: the others move up, and are all that the container knows of them."""
    children = dict(container.named_children())
    if isinstance(container, CONTAINERS) and all(name.isdigit() for name in children):
        return True
    # Stages of timm and torchvision number their blocks behind a prefix, and run whatever children they have.
    is_numbered = all(name[-1].isdigit() for name in children)
    return is_numbered and all(isinstance(child, GatedBlock) for child in children.values())
