"""Wrong words after a command: one line that names them, what is allowed, and the way on."""

import sys
from pathlib import Path

import pytest
from PIL import Image

import stodepth
import stodepth_models as sdm
from stodepth_models.training.cli import parse
from stodepth_models.training.commands import evaluate
from stodepth_models.training.config import DataConfig, TrainConfig
from stodepth_models.weights.checkpoint import write_file
from stodepth_models.weights.config import config_of


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
        ("sweep short_digits --print --slurm job.sh", "--print and --slurm exclude one another"),
        ("publish --name A", "the folder of a run is missing: name it first, or leave out all flags"),
        ("publish --default", "the folder of a run is missing"),
    ],
)
def test_words_that_contradict_one_another(words, expected, monkeypatch, capsys):
    line, code = said(words.split(), monkeypatch, capsys)
    assert code == 2
    assert expected in line


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run and an image."""
    folder = tmp_path_factory.mktemp("place")
    model = sdm.cifar_resnet20_stodepth_lineardecay()
    (folder / "runs" / "pets").mkdir(parents=True)
    write_file(folder / "runs" / "pets" / "best.safetensors", model.state_dict(), config_of(model))
    (folder / "runs" / "pets" / "config.json").touch()
    Image.new("RGB", (8, 8)).save(folder / "cat.png")
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "train --config short_folder --data runz",
            "data.root: there is no file or folder runz; did you mean runs?: ",
        ),
        ("train --config runs/pets", "to go on with it, give its recipe, --output runs/pets and --resume"),
        ("train --model vit_b_16", "did you mean torchvision:vit_b_16?"),
        (
            "train --model resnet18 --weights IMAGENET1K_V3",
            "no weights 'IMAGENET1K_V3' for resnet18_stodepth",
        ),
        (
            "train --weights resnet18",
            "there are no weights resnet18; resnet18 is a model: give it as --model",
        ),
        (
            "train --drop_rate 0.2",
            "timm:NAME and torchvision:NAME: give cifar_resnet20_stodepth_lineardecay",
        ),
        ("train --data digits --trackers tensorbord", "got tensorbord; did you mean tensorboard?"),
        ("train --gpu 1", "there is no --gpu; a GPU is used where there is one, and --cpu leaves it alone"),
        ("train --in_chans 1", "there is no --in_chans; images are read as RGB, grey ones too"),
        ("train --max-epochs 3", "there is no --max-epochs; did you mean --epochs?"),
        ("train --no-download", "there is no --no-download; did you mean --data.download false?"),
        (
            "train --data.root here --download false",
            "cifar10 cannot be read from data.root=here (not found there, or damaged): leave out --data.download false",
        ),
        ("evaluate --weights runs/pet", "model.weights: there is no file or folder runs/pet; did you mean runs/pets?"),
        ("evaluate --weights runs", "model.weights: the folder runs holds no weights, looked for model.safetensors, "),
        ("evaluate --weights runs", "best.safetensors, last.safetensors; did you mean runs/pets?"),
        (
            "evaluate --weights CIFAR10_JPEG_V2",
            "no weights CIFAR10_JPEG_V2; did you mean CIFAR10_JPEG_V1?; stodep",
        ),
        ("evaluate --model runs/pets", "runs/pets is a file or folder: give it as --weights"),
        ("predict cat.pgn --weights runs/pets", "there is no file or folder cat.pgn; did you mean cat.png?"),
        ("predict cat.png --weights runs/pets --top 0", "--top: must be a whole number from 1 on, got 0"),
        ("predict cat.png --weights runs/pets --batch-size x", "--batch-size: must be a whole number from 1 on, got x"),
        ("sweep short_digits --launcher nope", "--launcher: there is no program nope"),
        (
            "sweep short_digits --slurm no/job.sh",
            "no/job.sh cannot be read or written (No such file or directory)",
        ),
        ("report nope", "there is no folder nope: give the one that holds the folders of the runs"),
        ("report runs -o cat.png", "holds no run"),
        ("convert IMAGENET1K_V1 out.pth", "IMAGENET1K_V1 are weights of resnet18, resnet34, "),
        ("convert runs/pets cat.png/out.pth", "cat.png cannot be read or written (File exists): check the path"),
    ],
)
def test_wrong_words(words, expected, monkeypatch, capsys, place):
    monkeypatch.chdir(place)
    line, _ = said(words.split(), monkeypatch, capsys)
    assert expected in line


def test_names_of_gates_are_those_of_builders_and_of_surgery():
    modes = {mode: parse(TrainConfig, ["--mode", mode]).model.mode for mode in ("block", "sample", "subset")}
    assert modes == {"block": "batch", "sample": "row", "subset": "subset"}


def test_a_size_beside_the_weights_of_a_run_keeps_its_images(place, monkeypatch):
    seen = []
    data = DataConfig(name="fake", fake_images=20, image_size=8)
    monkeypatch.setattr(evaluate, "data_of_run", lambda weights: data)
    monkeypatch.setattr(evaluate, "evaluate_weights", seen.append)
    monkeypatch.setattr(evaluate, "report", lambda result, as_json: "")
    for words in ([], ["--image-size=9"], ["--data=digits", "--image-size=9"], ["--data.root=a"]):
        evaluate.main(["--weights", str(place / "runs" / "pets"), *words])
    found = [(config.data.name, config.data.fake_images, config.data.image_size) for config in seen]
    assert found == [("fake", 20, 8), ("fake", 20, 9), ("digits", 500, 9), ("fake", 20, 8)]
    assert seen[-1].data.root == Path("a")
