"""What a training step goes down: the loss of images that may be mixed, of classes that may weigh differently."""

import torch
from timm.data import Mixup
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..config import TrainConfig
from ..data.augmentation import seeded_streams


class Objective:
    """The loss over the images of a micro-batch, after timm has mixed them.

    Args:
        config: settings.
        labels: of all training images, ``(N,)``.
        outputs: length of the model's output.
        device: of the batches.

    Raises:
        ValueError: there are not as many weights as classes.
    """

    def __init__(self, config: TrainConfig, labels: Tensor, outputs: int, device: torch.device) -> None:
        self.seed, self.smoothing = config.seed, config.optim.label_smoothing
        self.weights = _class_weights(config.optim.class_weights, labels, outputs)
        if self.weights is not None:
            self.weights = self.weights.to(device)
        data, self.mixup = config.data, None
        self.epochs_mixed = data.mixup_off_epoch or config.epochs
        if data.mixes:
            self.mixup = Mixup(
                data.mixup, data.cutmix, prob=data.mixup_prob, switch_prob=data.mixup_switch_prob,
                mode=data.mixup_mode, label_smoothing=self.smoothing, num_classes=outputs,
            )  # fmt: skip

    def mix(self, images: Tensor, labels: Tensor, epoch: int, part: int) -> tuple[Tensor, Tensor]:
        """Return images and targets, which are probabilities ``(B, outputs)`` where timm has mixed, else the labels.

        Args:
            images: ``(B, 3, H, W)``, of an even number; written over.
            labels: ``(B,)``.
            epoch: counts from 0.
            part: number of the micro-batch in the epoch, over all processes; chooses the random numbers.
        """
        if self.mixup is None or epoch >= self.epochs_mixed:
            return images, labels
        with seeded_streams(self.seed, epoch, part):
            return self.mixup(images, labels)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over the images of the loss, each times the weight of its class."""
        smoothing = self.smoothing if targets.ndim == 1 else 0.0  # timm has smoothed the targets it mixed
        return cross_entropy(logits, targets, self.weights, reduction="sum", label_smoothing=smoothing)


def _class_weights(setting: str | tuple[float, ...] | None, labels: Tensor, outputs: int) -> Tensor | None:
    if setting is None:
        return None
    if setting == "balanced":
        counts = labels.bincount(minlength=outputs)
        return len(labels) / (counts.count_nonzero() * counts.clamp(min=1))
    if len(setting) != outputs:
        raise ValueError(f"optim.class_weights must be {outputs} numbers, one a class, got {len(setting)}")
    return torch.tensor(setting)
