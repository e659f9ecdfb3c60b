"""Wrong words after a command: one line that names them, what is allowed, and the way on."""

import sys

import pytest

import stodepth


def said(words, monkeypatch, capsys):
    """Run the command, and return its one line and its exit code."""
    monkeypatch.setattr(sys, "argv", ["stodepth", *words])
    with pytest.raises(SystemExit) as end:
        stodepth.main()
    (line,) = capsys.readouterr().err.splitlines()
    return line, end.value.code


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("predict a.png --weights a --top 3 --top 5", "--top: is given twice, as 3 and as 5: leave one of them out"),
        ("predict a.png --weights a --weights=b", "--weights: is given twice, as a and as b"),
        ("report runs -o a --output b", "-o/--output: is given twice, as a and as b"),
        ("sweep short_digits --print --slurm job.sh", "--print and --slurm exclude one another"),
        ("publish --name A", "the folder of a run is missing: name it first, or leave out all flags"),
        ("publish --default", "the folder of a run is missing"),
    ],
)
def test_words_that_contradict_one_another(words, expected, monkeypatch, capsys):
    line, code = said(words.split(), monkeypatch, capsys)
    assert code == 2
    assert expected in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("report nope", "there is no folder nope: give the one that holds the folders of the runs"),
    ],
)
def test_wrong_words(words, expected, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    line, _ = said(words.split(), monkeypatch, capsys)
    assert expected in line
