"""What a gate must know of the branch it skips: the modules behind the callable, their dtype and their collectives."""

from collections.abc import Callable, Iterator
from functools import partial
from types import CellType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from .functional import keep_in_graph

__all__ = [
    "Branch",
    "call_with_one_row",
    "keep_in_ddp_graph",
    "last_norm",
    "modules_of",
    "output_dtype",
    "refuse_collectives",
]

Branch = Callable[[Tensor], Tensor]


@torch.compiler.disable
def call_with_one_row(branch: Branch, row: Tensor) -> Tensor:
    """Call the branch, in which a batch norm may see one value a channel.

    Such a norm takes its running statistics and leaves them, and one that keeps none returns its bias: the value less
    itself, scaled.
    """
    frozen: list[nn.Module] = []
    doubled: list[nn.Module] = []

    def prepare(norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if inputs[0].numel() != inputs[0].size(1):
            return None
        if not norm.track_running_stats:
            doubled.append(norm)
            return (torch.cat([inputs[0], inputs[0]]),)  # alone it would be refused
        if norm.training:
            norm.training = False
            frozen.append(norm)
        return None

    def halve(norm: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if norm not in doubled:
            return None
        doubled.remove(norm)
        return out[:1]

    norms: list[nn.Module] = [m for root in modules_of(branch) for m in root.modules() if isinstance(m, _BatchNorm)]
    hooks: list[RemovableHandle] = []
    for norm in norms:
        hooks.append(norm.register_forward_pre_hook(prepare))
        if not norm.track_running_stats:
            hooks.append(norm.register_forward_hook(halve))
    try:
        return branch(row)
    finally:
        for hook in hooks:
            hook.remove()
        for norm in frozen:
            norm.training = True


def refuse_collectives(branch: Branch) -> None:
    """Refuse a SyncBatchNorm among ranks that draw their own gates, which would hang.

    Raises:
        RuntimeError: the branch has one, and there is more than one rank.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    if any(isinstance(m, nn.SyncBatchNorm) and m.training for root in modules_of(branch) for m in root.modules()):
        raise RuntimeError(
            "a SyncBatchNorm in a stochastic branch waits for the ranks that drop the branch; "
            "build the model with sync_gates=True"
        )


def keep_in_ddp_graph(x: Tensor, branch: Branch, alias: bool = False) -> Tensor:
    """Give the branch's parameters gradients of zeros where DistributedDataParallel waits for them.

    There the result is a copy of ``x``, or with ``alias`` a view.
    """
    if DistributedDataParallel._get_active_ddp_module() is None:
        return x
    parameters = [p for module in modules_of(branch) for p in module.parameters() if p.requires_grad]
    return keep_in_graph(x, parameters, alias) if parameters else x


def modules_of(branch: Branch) -> list[nn.Module]:
    """Modules behind a callable: itself, the owner of a method, or what a closure or partial holds, however deep."""
    return list(dict.fromkeys(_held_modules(branch, set())))


def _held_modules(held: Any, seen: set[int]) -> Iterator[nn.Module]:
    if isinstance(held, nn.Module):
        yield held
    elif id(held) not in seen and (callable(held) or isinstance(held, (tuple, list, dict))):
        seen.add(id(held))
        for part in _parts(held):
            yield from _held_modules(part, seen)


def _parts(held: Any) -> list[Any]:
    """The owner of a method, what a function closes over, what a partial binds, what a container holds."""
    if isinstance(held, (tuple, list)):
        return list(held)
    if isinstance(held, dict):
        return list(held.values())
    if isinstance(held, partial):
        return [held.func, held.args, held.keywords]
    cells = [cell for cell in getattr(held, "__closure__", None) or () if cell != CellType()]  # but empty ones
    return [getattr(held, "__self__", None), *(cell.cell_contents for cell in cells)]


def last_norm(branch: Branch) -> nn.Module | None:
    """Return the normalisation that ends the branch of a block that names it."""
    norms = (getattr(module, "last_norm", None) for module in modules_of(branch))
    return next((norm for norm in norms if isinstance(norm, nn.Module)), None)


def output_dtype(x: Tensor, branch: Branch | None = None) -> torch.dtype:
    """Dtype of a convolution's output for ``x``, or of the normalisation that ends the branch of a block."""
    kind = x.device.type
    castable = x.dtype in (torch.float16, torch.bfloat16, torch.float32) and not x.is_meta  # meta knows no autocast
    dtype = torch.get_autocast_dtype(kind) if castable and torch.is_autocast_enabled(kind) else x.dtype
    if branch is None or dtype == x.dtype or torch.compiler.is_compiling():
        return dtype
    norm = last_norm(branch)
    if norm is None or isinstance(norm, _NormBase):
        return dtype
    training = [module for module in norm.modules() if module.training]
    try:
        for module in training:
            module.training = False  # a norm of its own kind may keep statistics, which must not see this
        with torch.no_grad():
            return norm.forward(x.new_empty((0, *x.shape[1:]), dtype=dtype)).dtype  # past the hooks
    finally:
        for module in training:
            module.training = True
