"""Batch-norm statistics of the network that is evaluated: at full depth."""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .layers.branch import BATCH_NORMS
from .layers.modes import restored_modes


@torch.no_grad()
def recalibrate_bn(model: nn.Module, batches: Iterable[Any]) -> None:
    """Re-estimate all batch-norm statistics at full depth, as the mean over ``batches``.

    In training a deep block saw fewer batches, and each block inputs of a shallower network than the one that is
    evaluated. Gates, dropout and the like stay in evaluation: the result is deterministic. Modes are restored.

    Args:
        model: any model; the running means and variances of every norm that the batches reach are overwritten, but for
            a pass that fails: then all are as before.
        batches: tensors ``(N, C, H, W)``, or tuples that begin with one, such as a DataLoader yields; moved to the
            device of the model's weights. Shuffled: batches of one class each have other statistics than the mixed
            ones of training.

    Raises:
        TypeError: a batch does not begin with a tensor.
        ValueError: ``batches`` is empty.
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    momenta = {norm: norm.momentum for norm in norms}
    before = {norm: [buffer.clone() for buffer in norm.buffers()] for norm in norms}
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)
    seen = False
    with restored_modes(model):
        try:
            model.eval()
            for batch in batches:
                x = batch[0] if isinstance(batch, (tuple, list)) else batch
                if not isinstance(x, Tensor):
                    raise TypeError(f"batches must hold tensors, or tuples that begin with one, got {type(x).__name__}")
                if not seen:
                    _start_cumulative(norms)
                seen = True
                model(x.to(device))
        except BaseException:
            _put_back(before)
            raise
        finally:
            for norm, momentum in momenta.items():
                norm.momentum = momentum
    if not seen:
        raise ValueError("batches must hold at least one batch, got none")
    _put_back({norm: values for norm, values in before.items() if norm.num_batches_tracked == 0})  # dropped for good


def _put_back(statistics: Mapping[Any, list[Tensor]]) -> None:
    for norm, values in statistics.items():
        for buffer, value in zip(norm.buffers(), values, strict=True):
            buffer.copy_(value)


def _start_cumulative(norms: list[Any]) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
