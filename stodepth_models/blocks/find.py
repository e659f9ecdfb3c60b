"""What surgery finds in a model: known blocks, stochastic blocks, and gates beside them."""

from collections.abc import Iterator

from torch import nn

from ..checks import did_you_mean
from ..layers.residual import StochasticGate
from .gated import GatedBlock
from .registry import find_spec, known_names, original_class

COMPOSER_NAMES = {"ResNetBottleneck": "Bottleneck"}
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Target = str | type[nn.Module] | None


def find_blocks(model: nn.Module, target: Target) -> list[tuple[str, nn.Module]]:
    """Return names and modules of the blocks to change, in forward order.

    Args:
        model: any model.
        target: class, or name of a class, of the blocks; None: every known block.

    Raises:
        TypeError: ``model`` is no module, or ``target`` no class and no name.
        ValueError: no such block. The message says which classes the model holds.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not (target is None or isinstance(target, (str, type))):
        raise TypeError(f"target_layer_name must be a class, the name of one, or None, got {target!r}")
    known = list(_known_blocks(model))
    blocks = [(name, block) for name, block, cls in known if target is None or _matches(cls, target)]
    if blocks:
        return blocks
    wanted = "a known residual block"
    if target is not None:
        wanted = _wanted(target, [cls for _, _, cls in known])
    raise ValueError(
        f"{type(model).__name__} does not hold {wanted}; {_without_shortcut(model)}{classes_seen(model)}; "
        f"known: {', '.join(known_names())}; teach others with register_block"
    )


def _known_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module, type[nn.Module]]]:
    for name, module in model.named_modules():
        cls = original_class(type(module))
        spec = find_spec(cls)
        if spec is not None and spec.is_residual(module):
            yield name, module, cls


def _without_shortcut(model: nn.Module) -> str:
    """The part of a message that names known classes whose blocks in this model have no residual connection."""
    names: dict[str, None] = {}
    for module in model.modules():
        spec = find_spec(original_class(type(module)))
        if spec is not None and not spec.is_residual(module):
            names[type(module).__name__] = None
    return f"without a shortcut in this model: {', '.join(names)}; " if names else ""


def _matches(cls: type[nn.Module], target: str | type[nn.Module]) -> bool:
    if isinstance(target, str):
        return target in _names_of(cls)
    return cls is original_class(target)


def _names_of(cls: type[nn.Module]) -> list[str]:
    """What ``target_layer_name`` can say of a known class."""
    names = [cls.__name__]
    for composers, ours in COMPOSER_NAMES.items():
        if ours in names:
            names.append(composers)
    gated = getattr(find_spec(cls), "gated", None)
    if gated is not None:
        names.append(gated.__name__)
    return names


def _wanted(target: str | type[nn.Module], classes: list[type[nn.Module]]) -> str:
    """The target that no block of the model matches, the names that would match, and the nearest of them."""
    names: dict[str, None] = {}
    for cls in classes:
        names.update(dict.fromkeys(_names_of(cls)))
    listed = ", ".join(names) or "none"
    wanted = f"target_layer_name={target!r} among its known blocks: {listed}"
    hint = did_you_mean(str(target), names)
    return f"{wanted}; {hint}" if hint else wanted


def classes_seen(model: nn.Module) -> str:
    """Return the part of a message that names the classes that could be blocks: those that hold other modules."""
    names: dict[str, None] = {}
    for module in model.modules():
        holds_others = next(module.children(), None) is not None
        if holds_others and type(module) not in (type(model), *CONTAINERS):
            names[_distinct_name(type(module))] = None
    return f"block classes seen: {', '.join(names) or 'none'}"


def _distinct_name(cls: type[nn.Module]) -> str:
    """The name of a class, with its module where it is that of a known one."""
    if cls.__name__ in known_names() and find_spec(original_class(cls)) is None:
        return f"{cls.__module__}.{cls.__name__}"
    return cls.__name__


def gated_blocks_of(model: nn.Module) -> list[tuple[str, GatedBlock]]:
    """Return names and modules of the stochastic blocks, in forward order."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, GatedBlock)]


def gates_beside(model: nn.Module, blocks: list[tuple[str, GatedBlock]]) -> list[str]:
    """Return the names of the gates that are not those of the given blocks."""
    known: set[nn.Module] = set()
    for _, block in blocks:
        known.update(block.stodepth_gates)
    names: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, StochasticGate) and module not in known:
            names.append(name or "the model")
    return names
