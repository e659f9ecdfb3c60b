"""How images were prepared for weights."""

from typing import NamedTuple

from torchvision.models import WeightsEnum

from .sources import Source, read_checkpoint


class Preprocessing(NamedTuple):
    """How images are prepared.

    Attributes:
        side: in pixels.
        mean: of each channel, in [0, 1].
        std: of each channel.
        resize: shorter side, in pixels, that images are scaled to before the middle is cut out; None: as is usual.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: int | None = None


def saved_preprocessing(source: Source) -> Preprocessing | None:
    """Return how images were prepared for published weights, or those of a training run; None where it is not known."""
    # Published weights carry torchvision's preprocessing, files of a training run their own settings.
    if isinstance(source, WeightsEnum):
        preset = source.transforms()
        return Preprocessing(preset.crop_size[0], tuple(preset.mean), tuple(preset.std), preset.resize_size[0])
    config = read_checkpoint(source, progress=False).config or {}
    saved = config.get("training")
    if saved is None:
        return None
    return Preprocessing(saved["image_size"], tuple(saved["mean"]), tuple(saved["std"]), saved.get("resize"))
