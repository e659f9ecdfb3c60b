"""What a gate must know of the branch it skips: the modules behind the callable, their dtype and their collectives."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from .functional import keep_in_graph

__all__ = ["Branch", "call_with_one_row", "keep_in_ddp_graph", "modules_of", "output_dtype", "refuse_collectives"]

Branch = Callable[[Tensor], Tensor]


@torch.compiler.disable
def call_with_one_row(branch: Branch, row: Tensor) -> Tensor:
    """Call the branch; a batch norm that sees one value a channel takes its running statistics and leaves them."""
    frozen: list[nn.Module] = []

    def freeze(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if norm.training and inputs[0].numel() == inputs[0].size(1):
            norm.training = False
            frozen.append(norm)

    norms = [m for root in modules_of(branch) for m in root.modules() if isinstance(m, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(freeze) for norm in norms if norm.track_running_stats]
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
    if any(isinstance(m, nn.SyncBatchNorm) for root in modules_of(branch) for m in root.modules()):
        raise RuntimeError(
            "a SyncBatchNorm in a stochastic branch waits for the ranks that drop the branch; "
            "build the model with sync_gates=True"
        )


def keep_in_ddp_graph(x: Tensor, branch: Branch) -> Tensor:
    """Give the branch's parameters gradients of zeros where DistributedDataParallel waits for them."""
    if DistributedDataParallel._get_active_ddp_module() is None:
        return x
    parameters = [p for module in modules_of(branch) for p in module.parameters() if p.requires_grad]
    return keep_in_graph(x, parameters) if parameters else x


def modules_of(branch: Branch) -> list[nn.Module]:
    """Modules behind a callable: itself, the owner of a method, or what a closure or partial holds."""
    held: list[Any] = [branch, getattr(branch, "__self__", None)]
    held += [cell.cell_contents for cell in getattr(branch, "__closure__", None) or ()]
    held += [
        getattr(branch, "func", None),
        *getattr(branch, "args", ()),
        *(getattr(branch, "keywords", None) or {}).values(),
    ]
    return [module for module in held if isinstance(module, nn.Module)]


def output_dtype(x: Tensor) -> torch.dtype:
    """Dtype of a convolution's output for ``x``: what the branch would have returned."""
    kind = x.device.type
    castable = x.dtype in (torch.float16, torch.bfloat16, torch.float32) and not x.is_meta  # meta knows no autocast
    return torch.get_autocast_dtype(kind) if castable and torch.is_autocast_enabled(kind) else x.dtype
