"""The picture of the README shows the figures of the page that it is drawn from."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_picture_shows_the_measured_step_times():
    drawing = runpy.run_path(str(ROOT / "scripts" / "draw_step_time.py"))
    page = drawing["PAGE"].read_text(encoding="utf-8")
    shown = [int(number) for number in re.findall(r">(\d+) %<", drawing["PICTURE"].read_text(encoding="utf-8"))]
    expected = []
    for command in drawing["TABLES"]:
        measured = drawing["percentages"](page, command)
        expected += [measured[bar] for bar in drawing["BARS"]]
    assert shown == expected


def test_the_readme_says_how_much_less_time_a_step_takes():
    drawing = runpy.run_path(str(ROOT / "scripts" / "draw_step_time.py"))
    page = drawing["PAGE"].read_text(encoding="utf-8")
    less = []
    for command in drawing["TABLES"]:
        ratios = drawing["ratios"](page, command)
        masks, *ours = [ratios[bar] for bar in drawing["BARS"]]
        less += [round(100 * (1 - ratio / masks)) for ratio in ours]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"**A training step takes {min(less)} to {max(less)} % less time than with masks**" in readme
