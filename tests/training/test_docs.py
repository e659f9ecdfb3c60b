"""The page on training and the README name settings, recipes and scripts that exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import stodepth_models as sdm
from stodepth_models.training.cli import parse
from stodepth_models.training.commands import predict
from stodepth_models.training.config import EvaluateConfig, TrainConfig
from stodepth_models.weights.checkpoint import write_file
from stodepth_models.weights.config import config_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOUND = re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE) + README.split("```")[1::2]
BLOCKS = re.sub(r" *#.*", "", "\n".join(FOUND)).replace("\\\n", " ")
COMMANDS = [line.strip() for line in BLOCKS.splitlines() if re.search(r"stodepth(_models)? (train|evaluate) ", line)]


def test_commands_are_found():
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    name = next(number for number, word in enumerate(words) if word in ("train", "evaluate"))
    parse(EvaluateConfig if words[name] == "evaluate" else TrainConfig, words[name + 1 :])


def python_block(heading):
    return re.search(rf"^## {heading}\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)[1]


def test_the_block_on_channels_runs():
    exec(python_block("Grey images and other channels"), {})


def test_the_block_on_predictions_runs(tmp_path, monkeypatch, capsys):
    model = sdm.cifar_resnet20_stodepth_lineardecay(num_classes=2)
    training = {"image_size": 8, "mean": [0.5] * 3, "std": [0.2] * 3, "resize": 16}
    config = {**config_of(model), "categories": ["zero", "one"], "training": training}
    (tmp_path / "runs" / "short_digits").mkdir(parents=True)
    write_file(tmp_path / "runs" / "short_digits" / "best.safetensors", model.state_dict(), config)
    Image.radial_gradient("L").resize((24, 20)).save(tmp_path / "digit.png")
    monkeypatch.chdir(tmp_path)
    exec(python_block("Pictures named by a run"), {})
    name, share = capsys.readouterr().out.split()
    predict.main(["--weights", "runs/short_digits", "digit.png", "--json", "--top", "1"])
    result = json.loads(capsys.readouterr().out)
    assert (result["classes"], result["probabilities"]) == ([name], [pytest.approx(float(share), abs=1e-6)])


def test_every_setting_named_exists():
    known = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "stodepth_models" / "training").glob("*.py"))
    for section, name in re.findall(r"--(?:(model|data|optim)\.)?(\w+)[` ]", PAGE):
        if section and not name.startswith("options"):
            assert re.search(rf"^    {name}: ", known, re.MULTILINE), name
    for script in set(re.findall(r"scripts/\w+\.py", PAGE)):
        assert (ROOT / script).is_file(), script
