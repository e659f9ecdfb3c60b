"""Figures of an evaluation: sums that processes add up, so that uneven last batches count as they should."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...layers.modes import restored_modes

_BINS = 15


@dataclass(frozen=True)
class Figures:
    """What a model does on a set of images.

    Attributes:
        nll: mean negative log-likelihood, in nats.
        top1: share of images whose class has the highest score, in [0, 1].
        top5: share of images whose class is among the five highest.
        ece: expected calibration error over 15 bins of confidence (Guo et al., arXiv:1706.04599), in [0, 1].
        count: images.
    """

    nll: float
    top1: float
    top5: float
    ece: float
    count: int

    @property
    def error(self) -> float:
        """Top-1 error in percent."""
        return 100 * (1 - self.top1)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator,
    observe: Callable[[Tensor, Tensor], None] | None = None,
) -> Figures:  # fmt: skip
    """Evaluate a model on the images of all processes. Draws no random number; the model's modes are restored.

    Args:
        model: not wrapped for data parallelism: processes may have different numbers of batches.
        batches: standardised images ``(B, 3, H, W)`` and labels ``(B,)`` of this process.
        accelerator: adds up the sums of all processes.
        observe: is called with the logits ``(B, C)``, float32, and the labels ``(B,)`` of each batch of this process.
    """
    sums = torch.zeros(4 + 3 * _BINS, dtype=torch.float64, device="cpu")
    with restored_modes(model):
        model.eval()
        for images, labels in batches:
            with accelerator.autocast():
                logits = model(images)
            sums += _sums(logits.float(), labels).cpu()
            if observe is not None:
                observe(logits.float(), labels)
    sums = accelerator.reduce(sums.to(accelerator.device, _widest(accelerator.device)), "sum").cpu().double()
    return _figures(sums)


def figures_of(logits: Tensor, labels: Tensor) -> Figures:
    """Return the figures of predictions that were made before: logits ``(N, K)`` and labels ``(N,)``."""
    return _figures(_sums(logits, labels))


def chance(labels: Tensor) -> float:
    """Return the accuracy of always naming the commonest class, in [0, 1]."""
    return (labels.bincount().max() / len(labels)).item()


def near_chance(labels: Tensor) -> float:
    """Return the accuracy that guessing reaches one time in forty: two standard deviations above chance."""
    level = chance(labels)
    return level + 2 * (level * (1 - level) / len(labels)) ** 0.5


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    nll = cross_entropy(logits, labels, reduction="sum").double()
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    right = ranked[:, 0].double()
    confidence = logits.softmax(1).amax(1).double()
    bins = (confidence * _BINS).long().clamp(0, _BINS - 1)
    counts = [torch.bincount(bins, w, minlength=_BINS).double() for w in (torch.ones_like(right), right, confidence)]
    return torch.cat([torch.stack([nll, right.sum(), ranked.double().sum(), nll.new_tensor(len(labels))]), *counts])


def _figures(sums: Tensor) -> Figures:
    nll, right, among, count = sums[:4].tolist()
    if count == 0:
        raise ValueError("there are no images to evaluate on")
    _, correct, confidence = sums[4:].view(3, _BINS)
    ece = (correct - confidence).abs().sum().item() / count
    return Figures(nll / count, right / count, among / count, ece, int(count))


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
