"""What a model predicted for each image of an evaluation, and what follows from it class by class."""

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.nn.functional import cross_entropy

_LEVEL = 0.95


@dataclass(frozen=True)
class Predictions:
    """A row for each image, in the order of the split.

    Attributes:
        labels: output that stands for the class of the image, ``(N,)``.
        predicted: output with the highest score, ``(N,)``.
        confidence: probability of the predicted output, ``(N,)``, in [0, 1].
        nll: negative log-likelihood of the label, ``(N,)``, in nats.
        names: of all outputs.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    nll: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def present(self) -> list[int]:
        """Outputs that are the label or the prediction of an image, in their order."""
        return [int(output) for output in np.union1d(self.labels, self.predicted)]

    @property
    def wrong(self) -> int:
        """Number of images whose prediction is not their label."""
        return int((self.labels != self.predicted).sum())

    def worst(self, count: int) -> list[int]:
        """Return the images with a wrong prediction whose label was the least likely, at most ``count``."""
        wrong = np.flatnonzero(self.labels != self.predicted)
        order = np.argsort(-self.nll[wrong], kind="stable")
        return [int(image) for image in wrong[order[:count]]]


@dataclass(frozen=True)
class ClassFigures:
    """How a class fared.

    Attributes:
        output: number of the model's output.
        name: of the class.
        images: of this class.
        predicted: images predicted as this class.
        right: images of this class that were predicted as it.
        accuracy: ``right / images``, the recall, in [0, 1]; nan for a class without images.
        interval: 95 % interval of the accuracy; nan bounds for a class without images.
        precision: ``right / predicted``, in [0, 1]; nan where nothing was predicted as this class.
        mistaken_for: the class that most of the others were predicted as, and how many; None where all are right.
    """

    output: int
    name: str
    images: int
    predicted: int
    right: int
    accuracy: float
    interval: tuple[float, float]
    precision: float
    mistaken_for: tuple[str, int] | None


class PredictionRecorder:
    """Collects predictions batch by batch, for :func:`~.run.metrics.evaluate` to call."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []

    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        """Record a batch: logits ``(B, C)``, float32, and labels ``(B,)``."""
        # The first of the five highest, as top-1 accuracy takes it: max may choose another of two equal scores.
        predicted = logits.topk(min(5, logits.shape[1]), dim=1).indices[:, 0]
        confidence = logits.softmax(1).amax(1)
        nll = cross_entropy(logits, labels, reduction="none")
        row = torch.stack([labels.double(), predicted.double(), confidence.double(), nll.double()])
        self._rows.append(row.cpu())

    def gather(self, names: tuple[str, ...], accelerator: Accelerator) -> Predictions:
        """Return the predictions of all processes; a process took every n-th image, as ``EvaluationBatches`` deals."""
        mine = torch.cat(self._rows, dim=1) if self._rows else torch.zeros(4, 0, dtype=torch.float64)
        parts = [mine]
        if accelerator.num_processes > 1:
            parts = gather_object(parts)
        merged = torch.zeros(4, sum(part.shape[1] for part in parts), dtype=torch.float64)
        for rank, part in enumerate(parts):
            merged[:, rank :: len(parts)] = part
        labels, predicted, confidence, nll = merged.numpy()
        return Predictions(labels.astype(np.int64), predicted.astype(np.int64), confidence, nll, names)


def accuracy_interval(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of an accuracy, in [0, 1]; nan bounds for no images.

    Args:
        right: images whose prediction is right.
        count: all images.
    """
    if count == 0:
        return float("nan"), float("nan")
    interval = stats.binomtest(right, count).proportion_ci(_LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def class_figures(predictions: Predictions) -> list[ClassFigures]:
    """Return the figures of each class that has an image or a prediction, the least accurate first."""
    present = predictions.present
    names = [predictions.names[output] for output in present]
    counts = confusion_matrix(predictions.labels, predictions.predicted, labels=present)
    figures = []
    for place, output in enumerate(present):
        right, images, predicted = counts[place, place], counts[place].sum(), counts[:, place].sum()
        figures.append(
            ClassFigures(
                output=output,
                name=names[place],
                images=int(images),
                predicted=int(predicted),
                right=int(right),
                accuracy=_share(right, images),
                interval=accuracy_interval(int(right), int(images)),
                precision=_share(right, predicted),
                mistaken_for=_most_mistaken(counts[place], place, names),
            )
        )
    # Classes without images have no accuracy, and stand last.
    return sorted(figures, key=lambda figure: (figure.images == 0, figure.accuracy))


def _share(part: int, whole: int) -> float:
    if whole == 0:
        return float("nan")
    return float(part / whole)


def _most_mistaken(row: NDArray[np.int64], place: int, names: list[str]) -> tuple[str, int] | None:
    """Return the largest entry of a row of the confusion matrix beside the diagonal, and its name."""
    others = row.copy()
    others[place] = 0
    largest = int(others.argmax())
    if others[largest] == 0:
        return None
    return names[largest], int(others[largest])
