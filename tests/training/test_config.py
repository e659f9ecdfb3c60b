"""Settings come from the command line and YAML, and wrong ones end in one line and code 2."""

import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from stodepth_models.training.cli import parse
from stodepth_models.training.config import EvaluateConfig, ModelConfig, TrainConfig
from stodepth_models.training.exits import EXIT_BAD_SETTINGS
from stodepth_models.training.run import model as models
from stodepth_models.training.run.differences import differences

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_flags_files_and_their_order(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("model:\n  prob_0_L: [1, 0.8]\noptim:\n  lr: 0.2\nepochs: 7\n")
    line = ["--config", str(file), "--model.name", "cifar_resnet110", "--optim.lr", "0.3", "--seed", "3", "--resume"]
    config = parse(TrainConfig, line)
    assert config.model.name == "cifar_resnet110_stodepth_lineardecay"
    assert config.model.prob_0_L == (1.0, 0.8)
    assert (config.optim.lr, config.epochs, config.seed, config.resume) == (0.3, 7, 3, True)
    assert parse(TrainConfig, ["--model.prob_0_L", "[1.0,0.5]", "--model.options.shortcut", "B"]).model.options == {
        "shortcut": "B"
    }
    assert parse(EvaluateConfig, ["--json", "--split", "valid"]).json is True


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("--model resnet18 --lr 0.3 --batch-size 7", "--model.name=resnet18 --optim.lr=0.3 --batch_size=7"),
        ("--model=resnet18 --data digits -o a", "--model.name=resnet18 --data.name=digits --output=a"),
        ("--data pets --valid-size 3", "--data.name=folder --data.root=pets --data.valid_size=3"),
        ("--prob-0-l 1 0.8 --trackers wandb", "--model.prob_0_L=[1,0.8] --trackers=[wandb]"),
        ("--prob_0_L [1.0, 0.8]", "--model.prob_0_L=[1.0,0.8]"),
        ("--prob_0_L 1,0.8 --mean null", "--model.prob_0_L=[1,0.8]"),
        ("--masked --mode row --rescale train", "--model.masked=true --model.mode=row --model.rescale=train"),
        ("--class-weights balanced", "--optim.class_weights=balanced"),
        ("--class-weights 1 2.5", "--optim.class_weights=[1,2.5]"),
        ("--options.shortcut B --resume", "--model.options.shortcut=B --resume=true"),
    ],
)
def test_short_forms_are_the_long_ones(short, long):
    assert parse(TrainConfig, short.split()) == parse(TrainConfig, long.split()) != TrainConfig()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--data.nme x", "there is no --data.nme; did you mean --data.name?"),
        ("--see 3", "there is no --see; did you mean --seed?"),
        ("--learning-rate 3", "there is no --learning-rate; did you mean --optim.lr?"),
        ("--dataset pets", "there is no --dataset; did you mean --data?"),
        ("--name resnet18", "--name may be --model.name or --data.name: give the whole name"),
        ("--seed x", "seed must be a whole number, got x"),
        ("--epochs 1.5", "epochs must be a whole number, got 1.5"),
        ("--epochs", "--epochs needs a value: a whole number"),
        ("--config", "--config needs a value: a YAML file, or the name of a recipe such as short_digits"),
        ("-c short_digits", "there is no -c: only -o and -h have one dash, whole names have two"),
        ("--epochs 0", "epochs must be at least 1, got 0"),
        ("--batch-size 3 4", "--batch_size takes one value, got 3, 4; quote a value with spaces"),
        (
            "--data.name mnist",
            "data.name must be one of cifar10, cifar100, svhn, cinic10, folder, imagenet, f",
        ),
        ("--data cfar10", "there is no data set, folder or archive cfar10; did you mean cifar10?"),
        ("--model resnet21", "model.name: no model 'resnet21' in the zoo; did you mean resnet"),
        ("--prob_0_L 0.5", "model.prob_0_L must be two numbers such as [1.0,0.5], got [0.5]"),
        ("--model.prob_0_L [1]", "model.prob_0_L must be two numbers such as [1.0,0.5], got [1]"),
        ("--mean 0.5", "data.mean must be three numbers such as [0.5,0.5,0.5], or null, got [0.5]"),
        ("--milestones a", "optim.milestones must be whole numbers such as [30,40], got a"),
        ("--model.rescale no", "model.rescale must be one of eval, train, none, or null, got no"),
        (
            "--class-weights most",
            "optim.class_weights must be one of balanced or numbers such as [0.9,0.999], or null, ",
        ),
        ("--resume maybe", "resume must be true or false, got maybe"),
        ("--options shortcut=B", "model.options must be names and values such as {shortcut: B}, got shortcut=B"),
        ("short_digits", "short_digits stands alone: did you mean --config short_digits?"),
        ("pets --epochs 3", "pets stands alone: settings are given as --name value"),
        ("--model.prob_0_L [1,2]", "model.prob_0_L must be in [0, 1], got 2.0"),
        ("--model.name cifar_resnet21", "did you mean cifar_resnet"),
        ("--model.name cifar_resnet20 --model.sync_batchnorm true", "add model.sync_gates=true"),
        ("--model.ramp_epochs 2 --model.stoch_depth_probability 1.0", "exclude one another"),
        ("--epochs 5 --model.ramp_epochs 6", "model.ramp_epochs must be at most epochs=5, got 6"),
        ("--optim.nesterov true --optim.dampening 0.5", "optim.dampening=0"),
        ("--data.mean [0.5,0.5,0.5]", "data.mean and data.std go together"),
        ("--data.mean [0.5,0.5,128] --data.std [1,1,1]", "data.mean must be in [0, 1], got 128"),
        ("--data.mean [0.5,0.5,0.5] --data.std [1,0,1]", "data.std must be above 0, got 0"),
        ("--data.split_seed -1", "data.split_seed must be in [0, 2147483647], got -1"),
        ("--seed -1", "seed must be in [0, 2147483647], got -1"),
        ("--seed 2147483648", "seed must be in [0, 2147483647], got 2147483648"),
        ("--model.num_classes 0", "model.num_classes must be at least 1, got 0"),
        ("--model.num_classes -3", "model.num_classes must be at least 1, got -3"),
        ("--model.options.num_classes 3", "model.options.num_classes is given as model.num_classes"),
        ("--model.options.mode row", "model.options.mode is given as model.mode"),
        ("--model.options.prob_0_L [1,1]", "model.options.prob_0_L is given as model.prob_0_L"),
        ("--model.options.pretrained true", "model.options.pretrained is given as model.weights"),
        ("--config missing.yaml", "missing.yaml"),
    ],
)
def test_a_wrong_setting_is_one_line_and_code_2(arguments, named, capsys):
    with pytest.raises(SystemExit, match=str(EXIT_BAD_SETTINGS)):
        parse(TrainConfig, arguments.split())
    line = capsys.readouterr().err
    assert named in line
    assert line.startswith("error: ")
    assert line.count("\n") == 1


def test_every_argument_that_a_model_is_built_with_is_a_setting_of_its_own(monkeypatch):
    given = {}
    monkeypatch.setattr(models, "get_model", lambda name, **arguments: given.update(arguments))
    models.build_model(ModelConfig(), 10)
    assert len(given) == 9
    for name in given:
        with pytest.raises(ValueError, match=rf"^model\.options\.{name} is given as model\.{name}$"):
            ModelConfig(options={name: 1})


def test_a_ramp_may_last_as_long_as_the_run():
    assert parse(TrainConfig, ["--epochs=5", "--model.ramp_epochs=5"]).model.ramp_epochs == 5


@pytest.mark.parametrize(
    ("content", "typed", "meant"),
    [("optim:\n  momentun: 1\n", "optim.momentun", "optim.momentum"), ("epoch: 2\n", "epoch", "epochs")],
)
def test_a_mistyped_key_in_a_file_names_the_nearest(content, typed, meant, tmp_path, capsys):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(SystemExit, match="2"):
        parse(TrainConfig, ["--config", str(tmp_path / "a.yaml")])
    line = capsys.readouterr().err
    assert line == f"error: there is no setting {typed}; did you mean {meant}?; --help lists what there is\n"


def test_a_recipe_is_for_training(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(EvaluateConfig, ["--config=short_digits"])
    assert "there is no setting optim.lr; it is one of stodepth train, as are those of the" in capsys.readouterr().err


def test_an_unknown_key_in_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("optim:\n  learning_rate: 1\n")
    with pytest.raises(SystemExit, match="2"):
        parse(TrainConfig, ["--config", str(tmp_path / "a.yaml")])
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("optim: 3", "a.yaml: optim must hold settings, one 'name: value' a line, got 3"),
        ("data:", "a.yaml: data must hold settings, one 'name: value' a line, got None"),
        ("", "a.yaml is empty: it must hold settings, one 'name: value' a line"),
        (
            "settings: {}\nprocesses: 1",
            "a.yaml is the record of a run, not a file of settings: give a file that holds wh",
        ),
        ("lr: 0.1", "there is no setting lr; a file needs its whole name, optim.lr; --help lists what there is"),
        ("name: a", "a file needs its whole name, model.name or data.name"),
        ("- 1", "a.yaml must hold settings, one 'name: value' a line, got [1]"),
        ("a: [", "a.yaml is no YAML"),
        ("\udcff", "a.yaml is no YAML"),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_a_file_that_holds_no_settings_is_named(tmp_path, capsys, content, named, joined):
    path = tmp_path / "a.yaml"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(SystemExit, match=str(EXIT_BAD_SETTINGS)):
        parse(TrainConfig, [f"--config={path}"] if joined else ["--seed=1", "--config", str(path)])
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert named in line
    assert line.count("\n") == 1


def run_train(*arguments, before="pass"):
    code = f"import sys, runpy; {before}; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(CONFIGS.parent / "scripts" / "train.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_help_describes_the_settings():
    shown = run_train("--help").stdout
    assert re.search(r"--epochs EPOCHS +Passes over the training images\. Default: 30\.\n", shown)
    assert re.search(r"--optim\.lr LR +Peak learning rate", shown)
    assert not re.search(r":class:|``|Optional|Literal|tuple|<class|Path to a configuration", shown)


@pytest.mark.parametrize("package", ["jsonargparse", "accelerate", "matplotlib"])
def test_without_the_extra_the_last_line_names_the_remedy(package):
    done = run_train("--help", before=f"sys.modules['{package}'] = None")
    assert done.returncode != 0
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: this command needs {package}: pip install -e '.[train]' in a checkout")
    assert "stodepth_models[train] @ git+https://" in line  # not the bare name, which no index has


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read_by_its_path_and_by_its_name(path):
    assert parse(TrainConfig, ["--config", str(path)]).epochs > 0
    assert parse(TrainConfig, [f"--config={path.stem}"]) == parse(TrainConfig, ["--config", str(path)])


def test_a_file_goes_before_a_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("finetune").write_text("epochs: 77")
    assert parse(TrainConfig, ["--config", "finetune"]).epochs == 77
    assert parse(TrainConfig, ["--config", "finetune.yaml"]).epochs == 3


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("finetun", "no recipe of that name; did you mean finetune?; recipes: few_images, finetune, "),
        ("configs/fintune.yaml", "there is no file configs/fintune.yaml and no recipe"),
        ("nothing like it", "no recipe of that name; recipes: "),
    ],
)
def test_a_wrong_recipe_lists_the_recipes(name, hint, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(TrainConfig, ["--config", name])
    line = capsys.readouterr().err
    assert hint in line
    assert "short_digits" in line


def test_recipes_of_the_paper_have_its_settings_and_a_twin_of_constant_depth():
    papers = [path for path in CONFIGS.glob("paper_*.yaml") if not path.stem.endswith("_constant")]
    assert len(papers) >= 10
    for path in papers:
        config = parse(TrainConfig, ["--config", str(path)])
        twin = parse(TrainConfig, ["--config", str(path.with_stem(f"{path.stem}_constant"))])
        assert config.model.prob_0_L == (1.0, 0.5)
        assert twin.model.prob_0_L == (1.0, 1.0)
        assert (config.optim.lr, config.optim.weight_decay, config.optim.momentum) == (0.1, 1e-4, 0.9)
        assert (config.optim.nesterov, config.optim.dampening, config.optim.schedule) == (True, 0.0, "step")
        assert config.optim == twin.optim
        assert config.data == twin.data
        assert config.epochs == twin.epochs


def test_differences_name_what_changes_the_computation():
    saved = {"seed": 0, "output": "a", "model": {"prob_0_L": [1.0, 0.5]}, "optim": {"lr": 0.1}}
    found = differences(saved, parse(TrainConfig, ["--optim.lr=0.2", "--output=b", "--seed=0"]))
    assert "optim.lr was 0.1, is 0.2" in found
    assert not any(phrase.startswith(("seed", "output", "model.prob_0_L")) for phrase in found)


def test_no_argument_at_all_is_the_defaults():
    assert parse(TrainConfig, []) == TrainConfig()


def test_an_option_that_came_or_went_is_a_difference():
    shortcut, plain = parse(TrainConfig, ["--model.options.shortcut=B"]), parse(TrainConfig, [])
    assert differences(asdict(shortcut), plain) == ["model.options.shortcut was B, is not given"]
    assert differences(asdict(plain), shortcut) == ["model.options.shortcut was not given, is B"]
    assert differences(asdict(shortcut), shortcut) == []


def test_the_core_imports_nothing_of_training():
    code = (
        "import sys, stodepth_models; "
        "print([m for m in sys.modules if m.split('.')[0] in ('accelerate', 'jsonargparse', 'matplotlib', 'tqdm')"
        " or m.startswith('stodepth_models.training')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CONFIGS.parent)
    loaded = out.stdout.strip()
    assert "accelerate" not in loaded
    assert "jsonargparse" not in loaded
    assert "stodepth_models.training" not in loaded
