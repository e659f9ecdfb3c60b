"""Image files: formats, orientation and ranges that cameras and programs write."""

import struct

import numpy as np
import pytest
from PIL import Image

from stodepth_models.training.data.decoding import open_image

from .samples import make_folder


def test_sixteen_bits_of_grey_are_scaled_and_other_ranges_refused(tmp_path):
    root = make_folder(tmp_path / "set")
    ramp = (np.arange(64) * 1040).reshape(8, 8)
    for name, dtype in (("0.png", "<u2"), ("1.tif", ">u2")):
        Image.fromarray(ramp.astype(dtype)).save(root / "test" / "cat" / name)
        read = np.asarray(open_image(root / "test" / "cat" / name))
        assert (read == (ramp // 256)[..., None]).all()
    pixels = {"4.pgm": b"P5 8 8 65535\n" + ramp.astype(">u2").tobytes(),
              "5.pgm": b"P2 8 8 65535\n" + " ".join(map(str, ramp.flat)).encode()}  # fmt: skip
    for name, content in pixels.items():
        (root / "test" / "cat" / name).write_bytes(content)
        assert (np.asarray(open_image(root / "test" / "cat" / name)) == (ramp // 256)[..., None]).all()
    for name, dtype, mode in (("2.tif", np.int32, "I"), ("3.tif", np.float32, "F")):
        Image.fromarray(ramp.astype(dtype)).save(root / "test" / "cat" / name)
        with pytest.raises(ValueError, match=rf"cat/{name} cannot .*mode {mode} .*: remove it or use data\.unreadable"):
            open_image(root / "test" / "cat" / name)


@pytest.mark.parametrize("error", [TypeError("a\nb"), struct.error("short"), KeyError(), RecursionError()])
def test_whatever_a_decoder_raises_becomes_one_line(tmp_path, monkeypatch, error):
    def fail(image, mode):
        raise error

    make_folder(tmp_path / "set")
    monkeypatch.setattr("PIL.Image.Image.convert", fail)
    with pytest.raises(ValueError, match=r"^[^\n]*0\.png cannot be read as an image \(\w+\): remove it[^\n]*$"):
        open_image(tmp_path / "set" / "train" / "cat" / "0.png")
