"""The command ``stodepth``: what it lists, what it starts, and what it says of a wrong word."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import stodepth

ROOT = Path(__file__).resolve().parents[1]


def call(*words, module="stodepth", cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_has_a_sentence_a_command(words):
    done = call(*words)
    assert done.returncode == 0
    for name, sentence in stodepth.COMMANDS.items():
        assert f"  {name:<10}{sentence}\n" in done.stdout
        assert sentence.endswith(".")


def test_help_does_not_wait_for_pytorch():
    code = "import sys, stodepth; sys.argv = ['stodepth', '--help']; stodepth.main()"
    listed = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("False\n")


def test_a_wrong_command_is_one_line_and_code_2():
    done = call("tain")
    assert done.returncode == 2
    assert done.stderr == (
        "error: there is no command 'tain'; did you mean train? "
        "Known: train, evaluate, predict, sweep, report, convert, publish, weights\n"
    )


def test_the_package_is_the_command_and_lists_the_weights(tmp_path):
    done = call("weights", module="stodepth_models", cwd=tmp_path)
    assert done.returncode == 0
    assert "CIFAR10_JPEG_V1" in done.stdout
    assert "sdm.cifar_resnet20_stodepth_lineardecay(weights=" in done.stdout


def test_predictions_need_no_extra(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    extra = "('accelerate', 'jsonargparse', 'matplotlib', 'scipy', 'sklearn', 'tensorboard', 'timm')"
    words = ["stodepth", "predict", "--weights", "CifarResNet20_Weights.CIFAR10_JPEG_V1", str(tmp_path / "a.png")]
    code = f"import sys; sys.modules |= dict.fromkeys({extra}); sys.argv = {words}; import stodepth; stodepth.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize("name", stodepth.COMMANDS)
def test_each_command_has_help_under_its_own_name(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stodepth", name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        stodepth.main()
    assert capsys.readouterr().out.startswith(f"usage: stodepth {name} ")


SCRIPTS = ["train", "evaluate", "predict", "sweep", "report", "convert_weights", "publish_weights"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_thin_calls_of_a_command(name):
    tree = ast.parse((ROOT / "scripts" / f"{name}.py").read_text())
    (called,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert called.func.id == "main"
    assert called.args[0].value in stodepth.COMMANDS
    assert called.args[0].value == name.removesuffix("_weights")
