"""The loss of mixed images and of weighted classes, against timm and torch."""

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch.nn.functional import cross_entropy

from stodepth_models.training.config import DataConfig, OptimConfig, TrainConfig
from stodepth_models.training.data.augmentation import seeded
from stodepth_models.training.run.objective import Objective

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 0, 1])


def objective(optim=None, **data):
    config = TrainConfig(data=DataConfig(**data), optim=OptimConfig(**(optim or {})), seed=3)
    return Objective(config, LABELS, 4, CPU)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_a_step_is_mixed_and_scored_as_by_timm(mode, alphas):
    ours = objective({"label_smoothing": 0.1}, mixup=alphas[0], cutmix=alphas[1], mixup_mode=mode)
    images, logits = torch.rand(8, 3, 6, 6), torch.randn(8, 4)
    before = np.random.get_state()[1].tolist()
    mixed, targets = ours.mix(images.clone(), LABELS, epoch=2, part=5)
    assert np.random.get_state()[1].tolist() == before
    timms = Mixup(*alphas, prob=1.0, switch_prob=0.5, mode=mode, label_smoothing=0.1, num_classes=4)
    np.random.seed(seeded(3, 2, 5).initial_seed() % 2**32)
    expected, soft = timms(images.clone(), LABELS)
    assert torch.equal(mixed, expected)
    assert torch.equal(targets, soft)
    assert not torch.equal(mixed, images)
    torch.testing.assert_close(ours.loss(logits, targets), 8 * SoftTargetCrossEntropy()(logits, soft))
    assert not torch.equal(ours.mix(images.clone(), LABELS, epoch=2, part=6)[0], mixed)


def test_mixing_ends_after_its_last_epoch_and_the_labels_are_smoothed_as_ever():
    ours, images = objective({"label_smoothing": 0.1}, mixup=1.0, mixup_off_epoch=2), torch.rand(8, 3, 6, 6)
    assert not torch.equal(ours.mix(images.clone(), LABELS, 1, 0)[0], images)
    left, targets = ours.mix(images.clone(), LABELS, 2, 0)
    assert torch.equal(left, images)
    assert torch.equal(targets, LABELS)
    logits = torch.randn(8, 4)
    expected = cross_entropy(logits, LABELS, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(ours.loss(logits, targets), expected)


def test_balanced_weights_make_classes_equal_and_average_one():
    ours, logits = objective({"class_weights": "balanced"}), torch.zeros(8, 4)
    torch.testing.assert_close(ours.weights[LABELS].sum(), torch.tensor(8.0))
    of_class = [ours.loss(logits[label == LABELS], LABELS[label == LABELS]).item() for label in range(3)]
    assert of_class == pytest.approx([of_class[0]] * 3)
    assert objective({"class_weights": (1.0, 2.0, 3.0, 4.0)}).weights.tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"optim\.class_weights must be 4 numbers, one a class, got 2"):
        objective({"class_weights": (1.0, 2.0)})
