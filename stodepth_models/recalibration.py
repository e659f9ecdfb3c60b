"""Batch-norm statistics of the network that is evaluated: at full depth."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["recalibrate_bn"]


@torch.no_grad()
def recalibrate_bn(model: nn.Module, batches: Iterable[Any]) -> None:
    """Re-estimate all batch-norm statistics at full depth, as the mean over ``batches``.

    In training a deep block saw fewer batches, and each block inputs of a shallower network than the one that is
    evaluated. Gates, dropout and the like stay in evaluation: the result is deterministic. Modes are restored.

    Args:
        model: any model; its running means and variances are overwritten, but for a pass that fails: then all are
            as before.
        batches: tensors ``(N, C, H, W)``, or tuples that begin with one, such as a DataLoader yields; moved to the
            device of the model's parameters. Shuffled: batches of one class each have other statistics than the mixed
            ones of training.

    Raises:
        ValueError: ``batches`` is empty.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    before = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    seen = False
    try:
        model.eval()
        for batch in batches:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not seen:
                _start_cumulative(norms)
            seen = True
            model(x.to(next(model.parameters()).device))
    except BaseException:
        for buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
    if not seen:
        raise ValueError("batches must hold at least one batch, got none")


def _start_cumulative(norms: list[_BatchNorm]) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
