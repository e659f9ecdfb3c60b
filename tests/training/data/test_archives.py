"""Archives: unpacked once, within limits, and refused where they are damaged or lead outside."""

import tarfile
import zipfile

import pytest
import torch

from stodepth_models.training.data.datasets import load_data

from .samples import folder, make_folder


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".zip"])
def test_an_archive_is_unpacked_once(tmp_path, suffix):
    root, archive = make_folder(tmp_path / "set"), tmp_path / f"images{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in root.rglob("*.png"):
                file.write(path, path.relative_to(tmp_path))
    else:
        with tarfile.open(archive, "w:xz" if suffix == ".tar.xz" else "w") as file:
            file.add(root, "set")
    first = load_data(folder(archive))
    [unpacked] = (tmp_path / "cache").iterdir()
    stamp = unpacked.stat().st_mtime_ns
    assert torch.equal(first.train.images, load_data(folder(root)).train.images)
    load_data(folder(archive))
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()] == [stamp]


def test_an_archive_that_is_cut_short_is_named(tmp_path):
    archive = tmp_path / "images.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        file.add(make_folder(tmp_path / "set"), "set")
    archive.write_bytes(archive.read_bytes()[:-600])
    with pytest.raises(ValueError, match=r"images\.tar\.xz is damaged or cut short"):
        load_data(folder(archive))
    assert list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "images.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(ValueError, match=r"images\.zip is damaged"):
        load_data(folder(tmp_path / "images.zip"))


def test_a_plain_archive_has_to_end_with_its_end_marker(tmp_path):
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w") as file:
        file.add(make_folder(tmp_path / "set"), "set")
    whole = archive.read_bytes()
    with tarfile.open(archive) as file:
        members = file.getmembers()
        boundaries = [member.offset for member in members[-6:]] + [file.offset]
    for cut in [size + past for size in boundaries for past in (0, 1, 200, 511)]:
        archive.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"images\.tar is damaged or cut short"):
            load_data(folder(archive))
    damaged = bytearray(whole)
    damaged[boundaries[2] : boundaries[2] + 512] = b"x" * 512
    archive.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"images\.tar is damaged or cut short"):
        load_data(folder(archive))
    archive.write_bytes(whole)
    assert len(load_data(folder(archive)).test.labels) == 12


def test_a_zip_that_cannot_be_unpacked_is_one_line(tmp_path):
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("train/cat/0.png", b"x")
    whole = archive.read_bytes()
    central = whole.index(b"PK\1\2")
    for flag, reason in ((0x01, "encrypted"), (0x20, "patched data")):
        changed = bytearray(whole)
        changed[6] |= flag
        changed[central + 8] |= flag
        archive.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"^[^\n]*images\.zip cannot be unpacked \([^\n]*{reason}[^\n]*$"):
            load_data(folder(archive))


def test_an_archive_that_leads_outside_is_refused(tmp_path):
    (tmp_path / "x").write_text("x")
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(tmp_path / "x", "../../outside")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as file:
        file.write(tmp_path / "x", "../outside")
    for name in ("a.tar", "b.zip"):
        with pytest.raises(ValueError, match=r"is refused: .*outside"):
            load_data(folder(tmp_path / name))
    assert not (tmp_path / "outside").exists()
    assert list((tmp_path / "cache").iterdir()) == []
