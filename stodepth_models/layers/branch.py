"""What a gate must know of the branch it skips: the modules behind the callable, and what they need."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CellType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import Parameter
from torch.utils.hooks import RemovableHandle

Branch = Callable[..., Tensor]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def call_on_single_row(branch: Branch, row: Tensor, *args: Tensor) -> Tensor:
    """Call the branch on one row, of which a batch norm on a 1x1 map sees a single value a channel.

    Such a norm uses its running statistics for this call and does not update them.
    """
    evaluating: list[nn.Module] = []
    is_active = True

    def evaluate(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # A hook that an interrupt left behind finds the call over, and does nothing.
        is_single_value = inputs[0].numel() == inputs[0].size(1)
        if is_active and is_single_value and norm.training and norm.track_running_stats:
            evaluating.append(norm)
            norm.training = False

    hooks: list[RemovableHandle] = []
    try:
        for module in _all_modules(branch):
            if isinstance(module, BATCH_NORMS):
                hooks.append(module.register_forward_pre_hook(evaluate))
        return branch(row, *args)
    finally:
        is_active = False
        for norm in evaluating:
            norm.training = True
        for hook in hooks:
            hook.remove()


def refuse_collectives(branch: Branch) -> None:
    """Refuse what waits for all ranks, inside a branch that several ranks drop by gates of their own.

    Raises:
        RuntimeError: the branch has a SyncBatchNorm or an FSDP2 unit.
    """
    from torch.distributed.fsdp import FSDPModule  # a second of import time

    for module in _all_modules(branch):
        waiting = None
        if isinstance(module, FSDPModule):
            waiting = "an FSDP unit"
        elif isinstance(module, nn.SyncBatchNorm) and module.training:
            waiting = "a SyncBatchNorm"
        if waiting is not None:
            raise RuntimeError(
                f"{waiting} in a stochastic branch waits for the ranks that drop the branch; "
                "build the model with sync_gates=True"
            )


def zero_gradients_for_ddp(x: Tensor, branch: Branch, alias: bool = False) -> Tensor:
    """Give the branch's parameters gradients of zeros where DistributedDataParallel waits for them.

    There the result is a copy of ``x``, or with ``alias`` a view; elsewhere ``x`` itself.
    """
    if not _is_inside_ddp():
        return x
    parameters = [parameter for parameter in _parameters(branch) if parameter.requires_grad]
    if not parameters:
        return x
    return with_zero_gradients(x, parameters, alias)


def with_zero_gradients(x: Tensor, parameters: Iterable[Parameter], alias: bool = False) -> Tensor:
    """Return a copy of ``x`` whose backward pass gives every parameter a gradient of zeros.

    Args:
        x: any tensor.
        parameters: what gets the zeros.
        alias: return a view instead of a copy. Only for callers that write nothing into it, which autograd refuses.
    """
    return _WithZeroGradients.apply(x, alias, *parameters)


class _WithZeroGradients(Function):
    @staticmethod
    def forward(x: Tensor, alias: bool, *parameters: Parameter) -> Tensor:
        # Never `x` itself: autograd takes an input that is returned as it is for one that was changed in place.
        if alias:
            return x.view_as(x)
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.parameters = inputs[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        zeros = [torch.zeros_like(parameter) for parameter in ctx.parameters]
        return grad, None, *zeros


def is_relu_output(x: Tensor) -> bool:
    """Return whether a ReLU made ``x``: another ReLU would change nothing, and save its output for nothing."""
    node: Any = x.grad_fn
    # Among ranks a dropped block adds such a node, which keeps the values.
    while type(node).__name__ == "_WithZeroGradientsBackward":
        node = node.next_functions[0][0]
    return type(node).__name__ == "ReluBackward0"


def _is_inside_ddp() -> bool:
    """Whether the forward pass of a DistributedDataParallel is at work, not merely some process group."""
    from torch.nn.parallel import DistributedDataParallel

    find = getattr(DistributedDataParallel, "_get_active_ddp_module", None)
    if find is None:
        # Without the name, zeros wherever there are ranks: optimizers then decay the parameters of dropped branches.
        return dist.is_available() and dist.is_initialized()
    return find() is not None


def modules_of(branch: Branch) -> list[nn.Module]:
    """Modules behind a callable: itself, the owner of a method, or what a closure or partial holds, however deep."""
    return list(dict.fromkeys(_held_modules(branch, set())))


def _all_modules(branch: Branch) -> Iterator[nn.Module]:
    for root in modules_of(branch):
        yield from root.modules()


def _parameters(branch: Branch) -> Iterator[Parameter]:
    for root in modules_of(branch):
        yield from root.parameters()


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
    parts = [getattr(held, "__self__", None)]
    for cell in getattr(held, "__closure__", None) or ():
        if cell != CellType():  # an empty cell raises
            parts.append(cell.cell_contents)
    return parts
