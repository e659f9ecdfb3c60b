"""Small folders of images that the tests of this folder read."""

import numpy as np
from PIL import Image

from stodepth_models.training.config import DataConfig


def make_folder(root, splits=("train", "test"), classes=("cat", "dog"), count=6, side=8):
    rng = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def folder(root, **settings):
    return DataConfig(name="folder", root=root, cache=root.parent / "cache", **settings)
