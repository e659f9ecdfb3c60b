"""Image files: formats, orientation and ranges that cameras and programs write."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from stodepth_models.training.data.decoding import open_image
from stodepth_models.training.data.images import is_image, open_rgb, warn_of_unused_bits

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


def pixels(shape=(8, 12, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "jpeg", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_camera_was_held(tmp_path, suffix, orientation):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(pixels()).save(path, exif=exif(orientation))
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(open_rgb(path)), np.asarray(expected))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # which Pillow says itself
@pytest.mark.parametrize("options", [{"format": "png"}, {"format": "webp", "lossless": True}, {"format": "jpeg"}])
@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0garbage",
        exif(6)[:12],
        exif(6)[:20],
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    ],
)
def test_a_damaged_exif_block_leaves_the_pixels(tmp_path, options, block):
    path, whole = tmp_path / "damaged", tmp_path / "whole"
    Image.fromarray(pixels()).save(path, exif=block, **options)
    Image.fromarray(pixels()).save(whole, **options)
    assert np.array_equal(np.asarray(open_rgb(path)), np.asarray(open_rgb(whole)))


@pytest.mark.parametrize(
    ("name", "saved_as", "expected"),
    [
        ("a.jfif", "jpeg", True), ("a.jpe", "jpeg", True), ("a.JPG", "jpeg", True), ("a.avif", "avif", True),
        ("a.PNG", "png", True), ("a", "png", True), ("a.image", "webp", True), ("a.1", "tiff", True),
        ("a.jp2", "jpeg2000", True), ("a.tga", "tga", True), ("a", "tga", False),
        (".a.png", "png", False), ("Thumbs.db", "png", False), ("desktop.ini", "png", False),
    ],
)  # fmt: skip
def test_images_are_known_by_suffix_or_content(tmp_path, name, saved_as, expected):
    path = tmp_path / name
    Image.fromarray(pixels()).save(path, saved_as)
    assert is_image(path) == expected
    if expected:
        assert open_rgb(path).size == (12, 8)


@pytest.mark.parametrize("name", ["labels.txt", "boxes.csv", "README", "movie.mpg", "drawing.svg", ".DS_Store"])
def test_other_files_are_no_images(tmp_path, name):
    (tmp_path / name).write_bytes(b"0 1 2 3\n" * 40)
    assert not is_image(tmp_path / name)


def sixteen_bits(values, kind):
    """A file of 16 bits a channel with the values ``(H, W)`` or ``(H, W, 3)``; Pillow writes no such colours."""
    if kind == "tiff":
        file = io.BytesIO()
        Image.fromarray(values.astype("<u2")).save(file, "tiff")
        return file.getvalue()
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


@pytest.mark.parametrize(("kind", "shape"), [("png", (8, 8)), ("png", (8, 8, 3)), ("tiff", (8, 8))])
@pytest.mark.parametrize(("bits", "levels"), [(8, 1), (10, 4), (12, 16), (14, 64), (16, None)])
def test_an_unused_part_of_sixteen_bits_is_reported_once(tmp_path, caplog, kind, shape, bits, levels):
    values = np.random.default_rng(0).integers(0, 2**bits, shape)
    values[0, 0] = 2**bits - 1
    paths = [tmp_path / f"{number}.{kind}" for number in range(3)]
    for path in paths:
        path.write_bytes(sixteen_bits(values, kind))
    Image.fromarray(pixels()).save(tmp_path / "eight.png")
    with caplog.at_level(logging.WARNING):
        warn_of_unused_bits([tmp_path / "eight.png", *paths])
    expected = [f"images of 16 bits, such as {paths[0]}, use values from 0 to {2**bits - 1} of 65535: {levels} of 256"]
    assert [record.getMessage().split(" levels")[0] for record in caplog.records] == (expected if levels else [])


def test_twelve_bits_in_a_tiff_are_scaled(tmp_path):
    values = np.arange(64).reshape(8, 8) * 65
    bits = "".join(f"{value:012b}" for value in values.flat)
    data = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))
    entries = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 8, 279: len(data)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    path = tmp_path / "twelve.tif"
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + data)
    assert (np.asarray(open_rgb(path)) == (values // 16)[..., None]).all()
