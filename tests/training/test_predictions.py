"""Figures of each class, and intervals, against scikit-learn and Wilson's formula."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score
from torch.nn.functional import cross_entropy

from stodepth_models.training import predictions as module
from stodepth_models.training.predictions import (
    PredictionRecorder,
    Predictions,
    accuracy_interval,
    class_figures,
)

NAMES = ("cat", "dog", "eel", "fox", "gnu")


def record(logits, labels, batch=7):
    recorder = PredictionRecorder()
    for rows in range(0, len(labels), batch):
        recorder(logits[rows : rows + batch], labels[rows : rows + batch])
    return recorder.gather(NAMES, Accelerator(cpu=True))


@pytest.fixture(scope="module")
def scores():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (103,), generator=generator)  # no gnu among the images
    logits = 2 * torch.randn(103, 5, generator=generator)
    logits[torch.arange(103), labels] += 1.5
    return logits, labels


def test_predictions_are_those_of_the_logits(scores):
    logits, labels = scores
    found = record(logits, labels)
    assert found.labels.tolist() == labels.tolist()
    assert found.predicted.tolist() == logits.argmax(1).tolist()
    torch.testing.assert_close(torch.tensor(found.confidence), logits.softmax(1).amax(1).double())
    torch.testing.assert_close(torch.tensor(found.nll), cross_entropy(logits, labels, reduction="none").double())
    assert found.wrong == 103 - accuracy_score(labels, logits.argmax(1), normalize=False)


def test_class_figures_are_those_of_scikit_learn(scores):
    logits, labels = scores
    predicted = logits.argmax(1).numpy()
    rows = class_figures(record(logits, labels))
    counts = confusion_matrix(labels, predicted, labels=range(5))
    recall = recall_score(labels, predicted, labels=range(5), average=None, zero_division=np.nan)
    precision = precision_score(labels, predicted, labels=range(5), average=None)
    assert sorted(row.name for row in rows) == sorted(NAMES)
    assert rows[-1].name == "gnu"  # predicted, but without images
    assert [row.accuracy for row in rows[:-1]] == sorted(row.accuracy for row in rows[:-1])
    for row in rows:
        of_class = counts[row.output]
        assert (row.name, row.images, row.right) == (NAMES[row.output], of_class.sum(), of_class[row.output])
        assert row.predicted == counts[:, row.output].sum()
        assert row.accuracy == pytest.approx(recall[row.output], nan_ok=True)
        assert row.precision == pytest.approx(precision[row.output])
        others = {NAMES[i]: n for i, n in enumerate(of_class) if i != row.output}
        if row.images:
            assert row.mistaken_for[1] == max(others.values()) == others[row.mistaken_for[0]]
    assert rows[-1].mistaken_for is None
    assert math.isnan(rows[-1].accuracy)
    assert all(map(math.isnan, rows[-1].interval))


def test_worst_predictions_are_the_wrong_ones_with_the_least_likely_label():
    labels, predicted = np.array([0, 1, 2, 0, 1]), np.array([0, 0, 1, 1, 1])
    nll, confidence = np.array([9.0, 1.0, 5.0, 3.0, 8.0]), np.full(5, 0.9)  # 0 and 4 are right, whatever their loss
    found = Predictions(labels, predicted, confidence, nll, NAMES)
    assert found.worst(2) == [2, 3]
    assert found.worst(10) == [2, 3, 1]
    assert found.present == [0, 1, 2]


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (8503, 10000), (3, 7)])
def test_the_interval_is_wilsons(right, count):
    z, share = 1.959963984540054, right / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    assert accuracy_interval(right, count) == pytest.approx((middle - half, middle + half), abs=1e-9)


def test_images_of_several_processes_come_back_in_the_order_of_the_split(scores, monkeypatch):
    logits, labels = scores
    parts = []
    for rank in range(3):
        recorder = PredictionRecorder()
        recorder(logits[rank::3], labels[rank::3])
        parts.append(torch.cat(recorder._rows, dim=1))
    monkeypatch.setattr(module, "gather_object", lambda mine: parts)

    class ThreeProcesses:
        num_processes = 3

    found = recorder.gather(NAMES, ThreeProcesses())
    assert found.labels.tolist() == labels.tolist()
    assert found.predicted.tolist() == logits.argmax(1).tolist()


def test_of_two_equal_scores_the_one_that_top_1_accuracy_takes_is_predicted():
    logits = torch.zeros(1, 5)
    predicted = int(logits.topk(5).indices[0, 0])
    assert record(logits, torch.tensor([predicted])).wrong == 0
