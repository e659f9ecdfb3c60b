"""Checkpoints are whole or passed over, whatever happens to their bytes."""

import random
import resource
import signal

import pytest
import torch

from stodepth_models.training.run.state import checkpoints, load_last_checkpoint, save_checkpoint


def load(folder, said=None):
    """What the newest good checkpoint holds; ``said`` receives the lines about the others."""
    loaded = []
    load_last_checkpoint(folder, loaded.append, print if said is None else said.append)
    return loaded[0] if loaded else None


def test_a_full_disk_leaves_the_checkpoint_before_intact(tmp_path):
    save_checkpoint(tmp_path, 1, {"x": torch.ones(3)})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(
            OSError, match=r"step_000000002\.pt could not be written .*; the checkpoint before is intact"
        ):
            save_checkpoint(tmp_path, 2, {"x": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001.pt"]
    assert torch.equal(load(tmp_path)["x"], torch.ones(3))


def test_the_last_two_checkpoints_are_kept_and_all_damaged_is_an_error(tmp_path):
    for step in (5, 20, 100):
        save_checkpoint(tmp_path, step, {"step": step})
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000000100.pt", "step_000000020.pt"]
    for path in checkpoints(tmp_path):
        path.write_bytes(b"PK")
    said = []
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used"):
        load(tmp_path, said)
    assert len(said) == 2
    assert load(tmp_path / "none") is None


def test_a_flipped_bit_anywhere_is_noticed_and_the_checkpoint_before_is_taken(tmp_path):
    save_checkpoint(tmp_path, 1, {"x": torch.ones(3), "note": "before"})
    path = save_checkpoint(tmp_path, 2, {"x": torch.arange(200.0), "note": "a", "sums": [0.5, 2]})
    content, numbers = path.read_bytes(), random.Random(0)
    # Besides random places: the first and last bytes, and each byte of the seal and of the record before it.
    places = [0, len(content) - 1, *range(len(content) - 100, len(content))]
    places += [numbers.randrange(len(content)) for _ in range(400 - len(places))]
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << numbers.randrange(8)
        path.write_bytes(flipped)
        said = []
        assert load(tmp_path, said)["note"] == "before", place
        assert said == [f"checkpoint {path} is damaged (its SHA-256 is another one): trying the one before"]
    path.write_bytes(content)
    assert load(tmp_path)["note"] == "a"


@pytest.mark.parametrize("size", [0, 1, 21, 22, 71, 93, -1, -71, -72, -93])
def test_a_checkpoint_cut_short_anywhere_is_noticed(tmp_path, size):
    path = save_checkpoint(tmp_path, 2, {"x": torch.arange(200.0)})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used"):
        load(tmp_path, [])


def test_a_checkpoint_is_a_file_that_torch_load_reads(tmp_path):
    path = save_checkpoint(tmp_path, 2, {"x": torch.arange(20.0)})
    assert torch.equal(torch.load(path, weights_only=True)["x"], torch.arange(20.0))


def test_a_checkpoint_of_version_0_1_0_has_no_seal_and_is_checked_by_its_crc(tmp_path):
    path = tmp_path / "step_000000007.pt"
    torch.save({"x": torch.arange(200.0)}, path)
    assert torch.equal(load(tmp_path)["x"], torch.arange(200.0))
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(200.0).numpy().tobytes()) + 100] ^= 4
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["x"].shape == (200,)  # torch itself does not notice
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be used"):
        load(tmp_path, [])


def test_a_checkpoint_that_was_passed_over_does_not_push_out_good_ones(tmp_path):
    (tmp_path / "step_000000900.pt").write_bytes(b"damaged")
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"step": step})
    assert [path.name for path in checkpoints(tmp_path)] == [f"step_{step:09}.pt" for step in (900, 3, 2)]
    assert load(tmp_path)["step"] == 3


def test_what_cannot_be_loaded_is_said_and_the_one_before_is_loaded(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step})

    def refuse_the_second(state):
        if state["step"] == 2:
            raise KeyError("model")

    said = []
    assert load_last_checkpoint(tmp_path, refuse_the_second, said.append).name == "step_000000001.pt"
    (line,) = said
    assert line == (
        f"checkpoint {tmp_path}/step_000000002.pt does not belong to this run ('model'): trying the one before"
    )
