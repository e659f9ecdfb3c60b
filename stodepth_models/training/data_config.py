"""Settings of the images."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .limits import at_least, positive, within

DATASETS = Literal[
    "cifar10", "cifar100", "svhn", "cinic10", "folder", "imagenet", "fashion_mnist", "digits", "hfds", "fake"
]  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Attributes:
        name: data set; ``folder`` is any folder or archive with ``train/`` (``valid/``, ``test/``) and in each a
            folder a class; ``hfds`` is one of Hugging Face's library, ``root`` its name or folder.
        root: folder that holds the data set or receives its download; for ``folder``, ``cinic10`` and ``imagenet``
            the folder or archive (.tar, .tar.gz, .tar.xz, .zip) itself.
        input_key: column of the images of ``hfds``; none given: the only one of images.
        target_key: column of the labels of ``hfds``; none given: the only one of class labels.
        cache: folder that archives are unpacked into, once.
        max_unpacked_gb: most gigabytes that an archive may unpack to.
        max_files: most files that an archive may hold.
        download: fetch a torchvision data set that is not in ``root``.
        valid_size: training images held back for validation where the data set has no such split; none given: 5,000
            (CIFAR), 6,000 (SVHN), else a tenth.
        split_seed: chooses the images held back.
        images_per_class: train on so many images of each class alone, chosen by ``split_seed``; none given: on all.
        image_size: side in pixels; none given: that of the images up to 64 pixels, else 224.
        resize: shorter side in pixels that images above 64 pixels are scaled to in evaluation, before the middle is cut
            out; none given: ``image_size / 0.875``, or in an evaluation what the weights ask for.
        padding: zero padding in pixels before the random crop of small images; none given: 4, less for
            images below 32 pixels, 0 for SVHN.
        flip: mirror at random; none given: yes, except for digits and SVHN.
        aa: policy of timm, such as ``rand-m9-mstd0.5-inc1`` (RandAugment) or ``augmix-m5``, or ``ta_wide``
            (TrivialAugment); none given: none.
        color_jitter: strength of random brightness, contrast and saturation; none given: none.
        reprob: chance that a rectangle of an image is erased.
        remode: erase with ``"const"`` (the mean), ``"rand"`` (one random colour) or ``"pixel"`` (noise).
        transform_args: further arguments of ``timm.data.create_transform``, such as ``scale`` or ``vflip``.
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of CutMix; 0: none.
        mixup_prob: chance that a batch is mixed.
        mixup_switch_prob: chance of CutMix where both are on.
        mixup_mode: one mixture a ``"batch"``, ``"pair"`` or ``"elem"`` (image).
        mixup_off_epoch: epochs after which nothing is mixed; 0: never.
        sampling: ``"shuffled"``: each image once an epoch; ``"balanced"``: each class as often as the others.
        mean: mean of each channel, in [0, 1]; none given: measured on the training images, or in an evaluation what the
            weights were trained with, where their file says so.
        std: standard deviation of each channel; goes with ``mean``.
        unreadable: ``"stop"`` at an image that cannot be read, or ``"skip"`` it with a warning.
        changed: with ``resume``, ``"stop"`` where the images are not those that the run began with, or ``"accept"``
            as many others with a warning: a mended image, say.
        workers: processes that decode large images.
        label: what tables and plots call the data set; none given: its usual name, or that of ``root``.
        fake_images: number of images of ``fake``; a fifth as many for validation and for the test.
        fake_classes: number of classes of ``fake``.
    """

    name: DATASETS = "cifar10"
    root: Path = Path("data")
    input_key: str | None = None
    target_key: str | None = None
    cache: Path = Path("~/.cache/stodepth_models")
    max_unpacked_gb: float = 500.0
    max_files: int = 20_000_000
    download: bool = True
    valid_size: int | None = None
    split_seed: int = 0
    images_per_class: int | None = None
    image_size: int | None = None
    resize: int | None = None
    padding: int | None = None
    flip: bool | None = None
    aa: str | None = None
    color_jitter: float | None = None
    reprob: float = 0.0
    remode: Literal["const", "rand", "pixel"] = "pixel"
    transform_args: dict[str, Any] = field(default_factory=dict)
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    mixup_off_epoch: int = 0
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    unreadable: Literal["stop", "skip"] = "stop"
    changed: Literal["stop", "accept"] = "stop"
    workers: int = 2
    label: str | None = None
    fake_images: int = 500
    fake_classes: int = 10

    def __post_init__(self) -> None:
        for name in ("valid_size", "images_per_class", "image_size", "resize", "fake_images", "fake_classes"):
            if getattr(self, name) is not None:
                at_least(f"data.{name}", getattr(self, name), 1)
        at_least("data.workers", self.workers, 0)
        at_least("data.max_files", self.max_files, 1)
        positive("data.max_unpacked_gb", self.max_unpacked_gb)
        within("data.split_seed", self.split_seed, 0, 2**31 - 1)
        if self.padding is not None:
            at_least("data.padding", self.padding, 0)
        for name in ("mixup", "cutmix", "mixup_off_epoch"):
            at_least(f"data.{name}", getattr(self, name), 0)
        for name in ("reprob", "mixup_prob", "mixup_switch_prob"):
            within(f"data.{name}", getattr(self, name), 0.0, 1.0)
        if (self.mean is None) != (self.std is None):
            raise ValueError("data.mean and data.std go together: give both or none")
        for mean, std in zip(self.mean or (), self.std or (), strict=True):
            within("data.mean", mean, 0.0, 1.0)
            positive("data.std", std)

    @property
    def uses_timm(self) -> bool:
        """Whether training images pass timm's transform instead of the crop and flip alone."""
        return bool(self.aa or self.color_jitter or self.reprob or self.transform_args)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0
