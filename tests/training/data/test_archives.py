"""Archives: unpacked once, within limits, and refused where they are damaged or lead outside."""

import io
import logging
import os
import random
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from stodepth_models.training.data.archives import unpacked
from stodepth_models.training.data.datasets import load_data
from stodepth_models.training.data.extraction import Limits, _check_count, extract

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


LIMITS = Limits(gigabytes=1.0, files=1000)


def content(folder):
    """Bytes by relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def member(name, size=0, **attributes):
    info = tarfile.TarInfo(name)
    info.size = size
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def tarred(path, members, mode="w"):
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def files(count=8):
    random.seed(0)
    return {f"train/{('cat', 'dog')[number % 2]}/{number}.png": random.randbytes(20) for number in range(count)}


def test_a_zip_with_backslashes_in_its_names_is_unpacked(tmp_path):
    archive = tmp_path / "windows.zip"
    expected = files()
    archive.write_bytes(zipped({"train\\": b""} | {name.replace("/", "\\"): data for name, data in expected.items()}))
    assert content(unpacked(archive, tmp_path / "cache", LIMITS)) == expected


@pytest.mark.parametrize("name", ["..\\outside", "train\\..\\..\\outside", "\\outside", "/outside", "a/../../outside"])
def test_a_zip_that_leads_outside_is_refused_with_either_slash(tmp_path, name):
    archive = tmp_path / "bad.zip"
    archive.write_bytes(zipped({name: b"x"}))
    with pytest.raises(ValueError, match=r"bad\.zip is refused: .* would be outside the destination"):
        unpacked(archive, tmp_path / "cache", LIMITS)
    assert list(tmp_path.rglob("outside")) == []


@pytest.mark.parametrize("where", ["directory", "end"])
def test_a_flipped_bit_of_a_zip_loses_no_image_in_silence(tmp_path, where):
    expected = files(5)
    whole, archive = zipped(expected), tmp_path / "flipped.zip"
    directory, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    # The lengths of name, extra field and comment of each entry; and the whole record at the end.
    lengths = [whole.index(name.encode(), directory) - 18 + byte for name in expected for byte in range(6)]
    for position in lengths if where == "directory" else range(end, len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            archive.write_bytes(damaged)
            out = tmp_path / f"{position}-{bit}"
            out.mkdir()
            try:
                extract(archive, out, LIMITS)
            except ValueError as error:
                assert re.search("flipped.zip (is damaged|cannot be unpacked)", str(error))  # noqa: PT017
            else:
                assert content(out) == expected


def test_entries_hidden_by_a_damaged_length_are_counted(tmp_path):
    names = [f"train/cat/{number:04}.png" for number in range(22)]  # of 18 letters: entries of 64 bytes
    whole, archive = bytearray(zipped(dict.fromkeys(names, b"x"))), tmp_path / "short.zip"
    first = whole.index(b"PK\1\2")
    whole[first + 33] ^= 1  # the length of a comment, which now covers four entries
    archive.write_bytes(whole)
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == [names[0], *names[5:]]
    with pytest.raises(ValueError, match=r"damaged or cut short \(18 of 22 files are listed\)"):
        unpacked(archive, tmp_path / "cache", LIMITS)


@pytest.mark.parametrize("count", [0xFFFF, 0x10000, 0x10003])
def test_large_zips_are_counted_too(tmp_path, count):
    archive = tmp_path / "many.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(count):
            file.writestr(f"{number:x}", b"")
    _check_count(archive, count)
    with pytest.raises(zipfile.BadZipFile, match=rf"{count - 5} of {count} files"):
        _check_count(archive, count - 5)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_the_checksum_at_the_end_of_a_compressed_archive_is_checked(tmp_path, mode):
    archive = tarred(tmp_path / f"a.tar.{mode[2:]}", [member(name, 20) for name in files()], mode)
    whole = archive.read_bytes()
    for position in (-1, -6, -9, -14):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        archive.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.tar\...? is damaged or cut short"):
            unpacked(archive, tmp_path / "cache", LIMITS)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (member("link", type=tarfile.LNKTYPE, linkname="nothing"), r"is damaged or cut short \(KeyError: .*nothing"),
        (
            member("x" * 300),
            r"cannot be unpacked into .*\(File name too long\): pack it again with shorter",
        ),
        (member("train", type=tarfile.FIFOTYPE), r"is refused: .*; unpack it by hand"),
        (member("train/x", type=tarfile.CHRTYPE), r"is refused: .*; unpack it by hand"),
        (member("link", type=tarfile.SYMTYPE, linkname="../../outside"), r"is refused: .*outside"),
        (member("link", type=tarfile.LNKTYPE, linkname="/etc/passwd"), r"is refused: .*"),
        (
            member("first/below"),
            r"cannot be unpacked into data\.cache=.*\((Not a directory|File exists)\): give an",
        ),
    ],
)
def test_a_strange_member_of_a_tar_is_one_line(tmp_path, info, message):
    archive = tarred(tmp_path / "strange.tar", [member("first", 3), info])
    with pytest.raises(ValueError, match=rf"^[^\n]*strange\.tar {message}[^\n]*$"):
        unpacked(archive, tmp_path / "cache", LIMITS)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("seconds", [2**70, 2**33, -5])
def test_a_strange_time_of_a_member_does_not_matter(tmp_path, seconds):
    archive = tarred(tmp_path / "old.tar", [member("train/x", 3, mtime=seconds)])
    assert content(unpacked(archive, tmp_path / "cache", LIMITS)) == {"train/x": bytes(3)}


def test_a_header_is_not_read_before_its_size_is_looked_at(tmp_path):
    info = member("x", 2**33, type=tarfile.XHDTYPE)
    (tmp_path / "bomb.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(ValueError, match=r"bomb\.tar is damaged or cut short \(.*a header of 8589934592 bytes.*\)"):
        unpacked(tmp_path / "bomb.tar", tmp_path / "cache", LIMITS)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(1.0, 3), "it holds more than data.max_files=3 files; raise"),
        (Limits(0.0025, 100), "it unpacks to more than data.max_unpacked_gb=0.0025 GB; raise"),
        (Limits(1.0, 5), None),
    ],
)
def test_what_is_unpacked_is_limited(tmp_path, kind, limits, message):
    archive = tmp_path / f"zeros.{kind}"
    if kind == "zip":
        archive.write_bytes(zipped({str(number): bytes(600_000) for number in range(5)}))
    else:
        mode = {"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[kind]
        tarred(archive, [member(str(number), 600_000) for number in range(5)], mode)
    if message is None:
        assert len(content(unpacked(archive, tmp_path / "cache", limits))) == 5
        return
    with pytest.raises(ValueError, match=rf"zeros\.{kind} is refused: {message}"):
        unpacked(archive, tmp_path / "cache", limits)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_zip_over_its_limit_is_not_begun(tmp_path, monkeypatch):
    archive = tmp_path / "zeros.zip"
    archive.write_bytes(zipped({str(number): bytes(600_000) for number in range(5)}))
    monkeypatch.setattr(zipfile.ZipFile, "extract", lambda *arguments: pytest.fail("a file was unpacked"))
    with pytest.raises(ValueError, match="is refused: it unpacks to more"):
        unpacked(archive, tmp_path / "cache", Limits(0.0025, 100))


def test_a_full_disk_is_seen_beforehand(tmp_path, monkeypatch):
    archive = tarred(tmp_path / "large.tar", [member("x", 3000)])
    usage = type("Usage", (), {"free": 2000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match=r"it unpacks to more than the 0\.0 GB that are free; make room or give"):
        unpacked(archive, tmp_path / "cache", LIMITS)


def test_limits_are_settings(tmp_path):
    root, archive = make_folder(tmp_path / "set"), tmp_path / "images.tar"
    with tarfile.open(archive, "w") as file:
        file.add(root, "set")
    with pytest.raises(ValueError, match=r"data\.max_files=20 files"):
        load_data(folder(archive, max_files=20))
    with pytest.raises(ValueError, match=r"data\.max_unpacked_gb=1e-06 GB"):
        load_data(folder(archive, max_unpacked_gb=1e-6))


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path):
    archive = tarred(tmp_path / "a.tar", [member("x", 3)])
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match=r"a\.tar cannot be unpacked into .*file/cache \(Not a directory\)"):
        unpacked(archive, tmp_path / "file" / "cache", LIMITS)


@pytest.fixture
def old_python(monkeypatch):
    """tarfile of Python 3.11.3 and older, and of 3.10.11 and older, which has no filters."""
    names = ["data_filter", "FilterError", "tar_filter", "fully_trusted_filter"]
    for name in names:
        monkeypatch.delattr(tarfile, name)
    plain = tarfile.TarFile.extract

    def extract_without_filter(self, member, path="", set_attrs=True, *, numeric_owner=False):
        self.extraction_filter = lambda member, path: member
        return plain(self, member, path, set_attrs, numeric_owner=numeric_owner)

    monkeypatch.setattr(tarfile.TarFile, "extract", extract_without_filter)


@pytest.mark.usefixtures("old_python")
def test_a_python_without_filters_unpacks_files_and_folders(tmp_path):
    members = [member("train", type=tarfile.DIRTYPE, mode=0o700), member("train/x", 3, uid=4711, mode=0o4777)]
    folder = unpacked(tarred(tmp_path / "a.tar", members), tmp_path / "cache", LIMITS)
    assert content(folder) == {"train/x": bytes(3)}
    assert (folder / "train" / "x").stat().st_mode & 0o7000 == 0
    assert (folder / "train" / "x").stat().st_uid == os.getuid()


@pytest.mark.usefixtures("old_python")
@pytest.mark.parametrize(
    ("info", "message"),
    [
        (member("../outside"), "would be outside the destination"),
        (member("/outside"), "would be outside the destination"),
        (member("link", type=tarfile.SYMTYPE, linkname="x"), "is a link or a device, which Python 3"),
        (member("link", type=tarfile.LNKTYPE, linkname="x"), "is a link or a device, which Python 3"),
        (member("pipe", type=tarfile.FIFOTYPE), "is a link or a device, which Python 3"),
    ],
)
def test_a_python_without_filters_refuses_the_rest(tmp_path, info, message):
    archive = tarred(tmp_path / "a.tar", [member("x", 3), info])
    with pytest.raises(ValueError, match=rf"a\.tar is refused: .*{message}"):
        unpacked(archive, tmp_path / "cache", LIMITS)


def test_leftovers_of_killed_unpackings_are_removed(tmp_path):
    archive, other = (tarred(tmp_path / name, [member("x", 3)]) for name in ("a.tar", "b.tar"))
    cache = tmp_path / "cache"
    name, other_name = (unpacked(path, cache, LIMITS).name for path in (archive, other))
    (cache / name / "x").unlink()
    (cache / name).rmdir()
    own, young, old = f".{name}-abcdefgh.partial", f".{other_name}-12345678.partial", f".c-{'0' * 12}-12345678.partial"
    foreign = [".settings", ".a-1.partial", f"{name}-abcdefgh.partial"]
    for leftover in (own, young, old, *foreign):
        (cache / leftover / "train").mkdir(parents=True)
        past = time.time() - (10 * 24 * 3600 if leftover not in (own, young) else 60)
        os.utime(cache / leftover, (past, past))
    unpacked(archive, cache, LIMITS)
    assert {path.name for path in cache.iterdir()} == {name, other_name, young, *foreign}


def test_a_killed_unpacking_is_followed_by_a_whole_one(tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(files(200)))
    program = """
import os, sys, zipfile
from pathlib import Path
from stodepth_models.training.data.archives import unpacked
from stodepth_models.training.data.extraction import Limits
plain = zipfile.ZipFile.extract
def extract(self, member, path):
    if member.filename.endswith("/100.png"):
        os.kill(os.getpid(), 9)
    return plain(self, member, path)
zipfile.ZipFile.extract = extract
unpacked(Path(sys.argv[1]), Path(sys.argv[2]), Limits(1, 1000))
"""
    result = subprocess.run([sys.executable, "-c", program, archive, tmp_path / "cache"], check=False)
    assert result.returncode == -9
    [leftover] = (tmp_path / "cache").iterdir()
    assert leftover.name.endswith(".partial")
    folder = unpacked(archive, tmp_path / "cache", LIMITS)
    assert content(folder) == files(200)
    assert list((tmp_path / "cache").iterdir()) == [folder]


@pytest.mark.parametrize("has_locks", [True, False])
def test_many_unpack_at_the_same_time(tmp_path, monkeypatch, caplog, has_locks):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(files(100)))
    if not has_locks:

        def refuse(file, operation):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", refuse)
    unpackings = []
    monkeypatch.setattr(
        "stodepth_models.training.data.archives.extract",
        lambda *arguments: (unpackings.append(arguments[1]), extract(*arguments)),
    )
    with caplog.at_level(logging.INFO), ThreadPoolExecutor(32) as pool:
        folders = set(pool.map(lambda _: unpacked(archive, tmp_path / "cache", LIMITS), range(32)))
    [folder] = folders
    assert content(folder) == files(100)
    assert list((tmp_path / "cache").iterdir()) == [folder]
    if has_locks:
        assert len(unpackings) == 1
