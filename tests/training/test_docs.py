"""The page on training and the README name settings, recipes and scripts that exist."""

import re
import shlex
from pathlib import Path

import pytest

from stodepth_models.training.cli import parse
from stodepth_models.training.config import EvaluateConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOUND = re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE) + README.split("```")[1::2]
BLOCKS = re.sub(r" *#.*", "", "\n".join(FOUND)).replace("\\\n", " ")
COMMANDS = [line.strip() for line in BLOCKS.splitlines() if "scripts/" in line]


@pytest.mark.parametrize("command", [line for line in COMMANDS if "train.py" in line or "evaluate.py" in line])
def test_commands_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    script = next(number for number, word in enumerate(words) if word.startswith("scripts/"))
    parse(EvaluateConfig if "evaluate" in words[script] else TrainConfig, words[script + 1 :])


def test_every_setting_named_exists():
    known = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "stodepth_models" / "training").glob("*.py"))
    for section, name in re.findall(r"--(?:(model|data|optim)\.)?(\w+)[` ]", PAGE):
        if section and not name.startswith("options"):
            assert re.search(rf"^    {name}: ", known, re.MULTILINE), name
    for script in set(re.findall(r"scripts/\w+\.py", PAGE)):
        assert (ROOT / script).is_file(), script
