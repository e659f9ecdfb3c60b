"""Batch-norm statistics of the network that is evaluated: at full depth."""

import logging
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from .layers.branch import BATCH_NORMS
from .layers.modes import restored_modes

logger = logging.getLogger("stodepth_models")


@torch.no_grad()
def recalibrate_bn(model: nn.Module, batches: Iterable[Any]) -> None:
    """Re-estimate all batch-norm statistics at full depth, as the mean over ``batches``.

    In training a deep block saw fewer batches, and each block inputs of a shallower network than the one that is
    evaluated. Gates, dropout and the like stay in evaluation: the result is deterministic. Modes are restored.

    Args:
        model: any model; the running means and variances of every norm that the batches reach are overwritten, but for
            a pass that fails: then all are as before.
        batches: tensors ``(N, C, H, W)``, or tuples that begin with one, such as a DataLoader yields; moved to the
            device of the model's weights. A batch of one image, which leaves a norm a single value a channel, is passed
            over with a line of the log. Shuffled: batches of one class each have other statistics than the mixed
            ones of training.

    Raises:
        TypeError: a batch does not begin with a tensor.
        ValueError: ``batches`` is empty, or all of them were passed over.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay()
        >>> sdm.recalibrate_bn(model, [torch.randn(8, 3, 32, 32) for _ in range(2)])
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    momenta = {norm: norm.momentum for norm in norms}
    before = {norm: [buffer.clone() for buffer in norm.buffers()] for norm in norms}
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), None)
    started = False
    used = passed_over = 0
    with restored_modes(model):
        try:
            for module in model.modules():
                module.training = False  # `eval()` would warn of the statistics that are about to be replaced
            for batch in batches:
                x = batch[0] if isinstance(batch, (tuple, list)) else batch
                if not isinstance(x, Tensor):
                    raise TypeError(f"batches must hold tensors, or tuples that begin with one, got {type(x).__name__}")
                if not started:
                    _start_cumulative(norms)
                started = True
                is_used = _feed(model, x.to(device), norms)
                used += is_used
                passed_over += not is_used
            if not used:
                got = f"{passed_over} of one image" if passed_over else "none"
                raise ValueError(f"batches must hold at least one batch that norms can use, got {got}")
        except BaseException:
            _put_back(before)
            raise
        finally:
            for norm, momentum in momenta.items():
                norm.momentum = momentum
    if passed_over:
        logger.warning("recalibrate_bn passed over %d batches of one image: norms need two values", passed_over)
    _put_back({norm: values for norm, values in before.items() if norm.num_batches_tracked == 0})  # dropped for good


def unfed_norms(model: nn.Module) -> list[str]:
    """Return the names of the batch norms that have seen no batch although others of the model have.

    ``torch.optim.swa_utils.update_bn`` resets all statistics; a branch that is dropped in every batch since keeps
    mean 0 and variance 1, which are not its statistics.
    """
    counters: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        is_tracking = isinstance(module, BATCH_NORMS) and module.track_running_stats
        if is_tracking and module.num_batches_tracked is not None and not module.num_batches_tracked.is_meta:
            counters[name] = module.num_batches_tracked
    if not counters:
        return []
    device = next(iter(counters.values())).device
    counts = torch.stack([counter.to(device) for counter in counters.values()]).tolist()  # one synchronisation
    if max(counts) == 0:
        return []
    return [name for name, count in zip(counters, counts, strict=True) if count == 0]


def _feed(model: nn.Module, x: Tensor, norms: list[Any]) -> bool:
    """Return whether a batch could be used: one image may leave a norm a single value a channel."""
    if len(x) != 1:
        model(x)
        return True
    before = {norm: [buffer.clone() for buffer in norm.buffers()] for norm in norms}
    try:
        model(x)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        _put_back(before)  # norms before that one have counted the image
        return False
    return True


def _put_back(statistics: Mapping[Any, list[Tensor]]) -> None:
    for norm, values in statistics.items():
        for buffer, value in zip(norm.buffers(), values, strict=True):
            buffer.copy_(value)


def _start_cumulative(norms: list[Any]) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
