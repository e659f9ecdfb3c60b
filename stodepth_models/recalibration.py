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
    norms = tracking_norms(model)
    momenta = [norm.momentum for norm in norms]
    before = _statistics(norms)
    with restored_modes(model):
        try:
            # Not `eval()`, in which our models warn of the statistics that are about to be replaced.
            for module in model.modules():
                module.training = False
            passed_over = _feed_all(model, batches, norms)
        except BaseException:
            _put_back(before)
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if passed_over:
        logger.warning("recalibrate_bn passed over %d batches of one image: norms need two values", passed_over)
    for norm in norms:
        # No batch reaches a branch whose evaluation scale is 0: its norms keep what they had.
        if norm.num_batches_tracked == 0:
            _put_back({norm: before[norm]})


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
    # All counters in one tensor, on one device: reading them one by one would wait for the device as often.
    device = next(iter(counters.values())).device
    counts = torch.stack([counter.to(device) for counter in counters.values()]).tolist()
    if max(counts) == 0:
        return []
    unfed = []
    for name, count in zip(counters, counts, strict=True):
        if count == 0:
            unfed.append(name)
    return unfed


def images_of(batch: Any) -> Tensor:
    """Return the images of a batch: the batch itself, or the first of a tuple.

    Raises:
        TypeError: no tensor is there.
    """
    images = batch
    if isinstance(batch, (tuple, list)):
        images = batch[0]
    if not isinstance(images, Tensor):
        raise TypeError(f"batches must hold tensors, or tuples that begin with one, got {type(images).__name__}")
    return images


def _feed_all(model: nn.Module, batches: Iterable[Any], norms: list[Any]) -> int:
    """Estimate the statistics from all batches, and return how many of these were passed over."""
    device = None  # of a model without weights
    for tensor in chain(model.parameters(), model.buffers()):
        device = tensor.device
        break
    used = 0
    passed_over = 0
    for batch in batches:
        x = images_of(batch)
        if used + passed_over == 0:
            _start_cumulative(norms)
        if _feed(model, x.to(device), norms):
            used += 1
        else:
            passed_over += 1
    if used == 0:
        got = "none"
        if passed_over:
            got = f"{passed_over} of one image"
        raise ValueError(f"batches must hold at least one batch that norms can use, got {got}")
    return passed_over


def _feed(model: nn.Module, x: Tensor, norms: list[Any]) -> bool:
    """Return whether a batch could be used: one image may leave a norm a single value a channel."""
    if len(x) != 1:
        model(x)
        return True
    before = _statistics(norms)
    try:
        model(x)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        _put_back(before)  # norms before that one have counted the image
        return False
    return True


def tracking_norms(model: nn.Module) -> list[Any]:
    """Return the batch norms that keep running statistics."""
    norms = []
    for module in model.modules():
        if isinstance(module, BATCH_NORMS) and module.track_running_stats:
            norms.append(module)
    return norms


def _statistics(norms: list[Any]) -> dict[Any, list[Tensor]]:
    statistics = {}
    for norm in norms:
        statistics[norm] = [buffer.clone() for buffer in norm.buffers()]
    return statistics


def _put_back(statistics: Mapping[Any, list[Tensor]]) -> None:
    for norm, values in statistics.items():
        for buffer, value in zip(norm.buffers(), values, strict=True):
            buffer.copy_(value)


def _start_cumulative(norms: list[Any]) -> None:
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for a cumulative mean
        norm.train()
