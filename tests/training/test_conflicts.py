"""Settings that contradict one another: the command line beats a file, and one level may not contradict itself."""

import dataclasses
import json

import pytest

from stodepth_models.training.cli import parse
from stodepth_models.training.config import EvaluateConfig, TrainConfig
from stodepth_models.training.conflicts import _EXCLUSIVE, _NEEDS
from stodepth_models.training.settings import setting_types

FILE = """
model: {prob_0_L: [1.0, 0.8]}
optim: {sched: step, decay_rate: 0.5, opt: lamb, layer_decay: 0.7}
data: {mixup: 0.2, mixup_prob: 0.5}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--prob_0_L 1 0.8 --stoch_depth_probability 0.9",
            "model.prob_0_L=[1.0,0.8] and model.stoch_depth_probability=0.9 exclude one another: leave one of them out",
        ),
        (
            "--model timm:vit_tiny_patch16_224 --prob_0_L 1 0.8 --drop_rate 0.2",
            "model.prob_0_L=[1.0,0.8] and model.drop_rate=0.2 exclude",
        ),
        ("--schedule cosine --sched step", "optim.schedule=cosine and optim.sched=step exclude one another"),
        ("--opt lamb --nesterov", "optim.nesterov=true and optim.opt=lamb exclude one another"),
        (
            "--decay_rate 0.5",
            "optim.decay_rate=0.5 has no effect without optim.sched=step, multistep or poly: change that, or leave",
        ),
        ("--sched cosine --decay_rate 0.5", "optim.decay_rate=0.5 has no effect without optim.sched=step"),
        ("--milestones 30 40", "optim.milestones=[30,40] has no effect without optim.schedule=step"),
        ("--mixup_prob 0.5", "data.mixup_prob=0.5 has no effect without data.mixup or data.cutmix above 0"),
        ("--mixup 0.2 --mixup_switch_prob 0.3", "data.mixup_switch_prob=0.3 has no effect without data.mixup and"),
        ("--model_ema_decay 0.99", "optim.model_ema_decay=0.99 has no effect without optim.model_ema=true"),
        ("--clip_mode norm", "optim.clip_mode=norm has no effect without optim.clip_grad"),
        ("--opt_eps 1e-3", "optim.opt_eps=0.001 has no effect without an optimizer of timm such as optim.opt=sgd"),
        ("--fake_classes 3", "data.fake_classes=3 has no effect without data.name=fake"),
        ("--target_key label", "data.target_key=label has no effect without data.name=hfds"),
        ("--model timm:vit_tiny_patch16_224 --prob_0_L 1 0.8", "no effect without a model of this package; model.drop"),
        (
            "--aa rand-m9 --color_jitter 0.4",
            "data.color_jitter=0.4 has no effect beside data.aa, unless data.tra",
        ),
        ("--final_stoch_depth_probability 0.7", "without model.stoch_depth_probability, where"),
    ],
)
def test_one_level_may_not_contradict_itself(words, said, capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        parse(TrainConfig, words.split())
    assert said in capsys.readouterr().err


def test_the_last_value_on_the_line_counts():
    """Scripts put ``"$@"`` behind their own settings."""
    config = parse(TrainConfig, ["--lr", "0.1", "--optim.lr", "0.2", "--mult_flag", "false", "--rescale", "none"])
    assert config.optim.lr == 0.2
    assert (config.model.mult_flag, config.model.rescale) == (False, "none")  # one says what the other does


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("optim: {sched: step, schedule: onecycle}", "optim.schedule=onecycle and optim.sched=step exclude"),
        ("optim: {model_ema_decay: 0.9}", "optim.model_ema_decay=0.9 has no effect without optim.model_ema=true"),
        ("optim:\n  lr: 0.1\nseed: 3\noptim:\n  gamma: 0.2", "gives optim twice, in lines 1 and 4: leave one"),
        ("optim:\n  lr: 0.1\n  lr: 0.2", "gives lr twice, in lines 2 and 3"),
    ],
)
def test_nor_may_a_file(content, said, tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    file.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        parse(TrainConfig, ["--config", str(file)])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("--stoch_depth_probability 0.9", {"model.prob_0_L": (1.0, 0.5), "model.stoch_depth_probability": 0.9}),
        ("--schedule onecycle", {"optim.sched": None, "optim.decay_rate": 0.1, "optim.schedule": "onecycle"}),
        ("--sched cosine", {"optim.sched": "cosine", "optim.decay_rate": 0.1}),
        ("--nesterov", {"optim.opt": None, "optim.layer_decay": None, "optim.nesterov": True}),
        ("--model timm:vit_tiny_patch16_224 --drop_rate 0.2", {"model.prob_0_L": (1.0, 0.5), "model.drop_rate": 0.2}),
        ("--mixup 0", {"data.mixup": 0.0, "data.mixup_prob": 1.0}),
        ("--decay_rate 0.4", {"optim.sched": "step", "optim.decay_rate": 0.4}),
        ("--sched null", {"optim.sched": None, "optim.schedule": "cosine"}),
    ],
)
@pytest.mark.parametrize("file_first", [True, False])
def test_the_command_line_beats_a_file_wherever_it_stands(words, same, file_first, file):
    config = parse(TrainConfig, ["--config", str(file), *words.split()])
    if not file_first:
        config = parse(TrainConfig, [*words.split(), "--config", str(file)])
    for name, value in same.items():
        section, key = name.split(".")
        assert getattr(getattr(config, section), key) == value


def test_a_later_file_beats_an_earlier_one(file, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("optim: {schedule: onecycle}")
    config = parse(TrainConfig, ["--config", str(file), "--config", str(other)])
    assert (config.optim.sched, config.optim.schedule) == (None, "onecycle")


@pytest.mark.parametrize(
    "words",
    [
        "--lr 0.1 --optim.lr 0.1",
        "--mode row --prob_0_L 1 1",
        "--mixup 0 --mixup_prob 0.5",  # a point of a grid that turns it off
        "--clip_grad null --clip_mode value",
        "--frozen_stem false --freeze layer1",
        "--aa 3a --color_jitter 0.3",
        "--aa rand-m9 --color_jitter 0.4 --data.transform_args.force_color_jitter true",
        "--sched poly --decay_rate 2 --warmup_epochs 2 --warmup_lr 0.1",
    ],
)
def test_what_is_no_contradiction_is_taken(words):
    assert isinstance(parse(TrainConfig, words.split()), TrainConfig)


def test_what_print_config_shows_is_a_file_again(file, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(TrainConfig, ["--config", str(file), "--print_config"])
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out)
    assert parse(TrainConfig, ["--config", str(again)]) == parse(TrainConfig, ["--config", str(file)])


def test_an_evaluation_follows_the_same_rule(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(EvaluateConfig, ["--remode", "rand"])
    assert "data.remode=rand has no effect without data.reprob above 0" in capsys.readouterr().err


def test_the_table_names_settings():
    known = setting_types(TrainConfig)
    for pair in _EXCLUSIVE:
        assert known.keys() >= set(pair)
    for need in _NEEDS:
        assert known.keys() >= {*need.settings, *need.others}


def test_what_a_run_records_is_a_file_of_settings(file, tmp_path):
    config = parse(TrainConfig, ["--config", str(file), "--mode", "row"])
    again = tmp_path / "again.json"
    again.write_text(json.dumps(dataclasses.asdict(config), default=str))
    assert parse(TrainConfig, ["--config", str(again)]) == config
