"""The demo in a tiny form: its table, its picture, its help."""

import re
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "scripts" / "demo.py"
PACKAGE_FOLDER = str(DEMO.parents[1])


def _run(*arguments, cwd):
    program = (
        f"import sys, runpy; sys.path.insert(0, {PACKAGE_FOLDER!r}); runpy.run_path({str(DEMO)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=True)


def test_tiny_demo_prints_the_table_and_draws_the_picture(tmp_path):
    done = _run("--epochs", "1", "--images", "32", "--batch-size", "8", "--picture", "tiny.png", cwd=tmp_path)
    constant, stochastic = re.findall(
        r"(?m)^(?:constant|stochastic) depth +([\d.]+) % +[\d.]+ +([\d.]+) % +([\d.]+) %", done.stdout
    )
    assert constant[1:] == ("100.0", "100.0")
    assert 50.0 < float(stochastic[1]) < 100.0
    assert stochastic[2] == "75.5"  # nine blocks from 1 to 0.5, of which two are a quarter cheaper
    assert "stochastic depth, epoch 1/1" in done.stderr  # the progress bar
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_help(tmp_path):
    assert "--epochs" in _run("--help", cwd=tmp_path).stdout
