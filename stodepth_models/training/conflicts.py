"""Settings that exclude or need one another, and which of two counts.

The command line beats files, and a later file beats an earlier one. Two statements of the same rank that exclude one
another are an error, and so is a setting that has no effect because nobody gave the one that it needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import SettingsError
from .model_config import LIBRARIES
from .settings_help import as_typed


@dataclass(frozen=True)
class Need:
    """Settings that have no effect unless others have certain values.

    Attributes:
        settings: their names.
        others: names of what they need.
        holds: takes the values of the others, and returns whether the settings have an effect.
        remedy: what to give, for the end of ``has no effect ...``.
    """

    settings: tuple[str, ...]
    others: tuple[str, ...]
    holds: Callable[..., Any]
    remedy: str


_EXCLUSIVE = (
    ("model.prob_0_L", "model.stoch_depth_probability"),
    ("model.prob_0_L", "model.drop_rate"),
    ("model.drop_rate", "model.stoch_depth_probability"),
    ("model.ramp_epochs", "model.stoch_depth_probability"),
    ("model.frozen_stem", "model.freeze"),
    ("optim.schedule", "optim.sched"),
    ("optim.milestones", "optim.sched"),
    ("optim.gamma", "optim.sched"),
    ("optim.nesterov", "optim.opt"),
    ("optim.dampening", "optim.opt"),
)

_NEEDS = (
    Need(
        ("model.prob_0_L", "model.depth_rule", "model.mult_flag"),
        ("model.name", "model.weights"),
        lambda name, weights: not name.startswith(LIBRARIES),
        "without a model of this package; model.drop_rate is for those of timm and torchvision",
    ),
    Need(
        ("model.final_stoch_depth_probability",),
        ("model.stoch_depth_probability",),
        lambda start: start is not None,
        "without model.stoch_depth_probability, where the survival probability begins",
    ),
    Need(
        ("optim.opt_eps", "optim.opt_betas", "optim.opt_args", "optim.layer_decay"),
        ("optim.opt",),
        bool,
        "without an optimizer of timm such as optim.opt=sgd",
    ),
    Need(
        ("optim.sched_on_updates", "optim.min_lr", "optim.sched_args"),
        ("optim.sched",),
        bool,
        "without a schedule of timm such as optim.sched=cosine",
    ),
    Need(
        ("optim.decay_rate",),
        ("optim.sched",),
        lambda sched: sched in ("step", "multistep", "poly"),
        "without optim.sched=step, multistep or poly",
    ),
    Need(
        ("optim.decay_epochs",),
        ("optim.sched",),
        lambda sched: sched in ("step", "rsqrt"),
        "without optim.sched=step or rsqrt",
    ),
    Need(
        ("optim.milestones", "optim.gamma"),
        ("optim.schedule",),
        lambda schedule: schedule == "step",
        "without optim.schedule=step",
    ),
    Need(("optim.warmup_lr",), ("optim.warmup_epochs",), bool, "without optim.warmup_epochs above 0"),
    Need(("optim.clip_mode",), ("optim.clip_grad",), bool, "without optim.clip_grad, the limit"),
    Need(
        ("optim.model_ema_decay", "optim.model_ema_warmup"), ("optim.model_ema",), bool, "without optim.model_ema=true"
    ),
    Need(
        ("data.mixup_prob", "data.mixup_mode", "data.mixup_off_epoch"),
        ("data.mixup", "data.cutmix"),
        lambda mixup, cutmix: mixup or cutmix,
        "without data.mixup or data.cutmix above 0",
    ),
    Need(
        ("data.mixup_switch_prob",),
        ("data.mixup", "data.cutmix"),
        lambda mixup, cutmix: mixup and cutmix,
        "without data.mixup and data.cutmix above 0",
    ),
    Need(
        ("data.color_jitter",),
        ("data.aa", "data.transform_args"),
        lambda policy, others: not policy or "3a" in policy or "force_color_jitter" in others,
        "beside data.aa, unless data.transform_args.force_color_jitter is true",
    ),
    Need(("data.remode",), ("data.reprob",), bool, "without data.reprob above 0"),
    Need(("data.input_key", "data.target_key"), ("data.name",), lambda name: name == "hfds", "without data.name=hfds"),
    Need(
        ("data.fake_images", "data.fake_classes"), ("data.name",), lambda name: name == "fake", "without data.name=fake"
    ),
)


def without_effect(
    levels: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[str]:
    """Return the settings that a statement of a higher level has made void: they shall have their defaults.

    Args:
        levels: what each file gives and, at the end, what the command line gives, by whole names.
        settings: what results from all of them.
        defaults: of all settings.

    Raises:
        SettingsError: two statements of the same level exclude one another, or one has no effect.
    """
    values = dict(settings)
    ranks: dict[str, int] = {}
    for rank, level in enumerate(levels):
        ranks.update(dict.fromkeys(level, rank))
    stated = []
    for name, rank in ranks.items():
        is_typed = rank == len(levels) - 1
        # A file may list all settings at their defaults, as --print_config does. Null, false or 0 turns a setting off.
        if values[name] != defaults[name] or (is_typed and values[name]):
            stated.append(name)
    void = _beaten(stated, values, ranks)
    for name in void:
        values[name] = defaults[name]
        stated.remove(name)
    for need in _NEEDS:
        if not need.holds(*map(values.get, need.others)):
            void += _in_vain(need, stated, values, ranks)
    return void


def _beaten(stated: Sequence[str], values: Mapping[str, Any], ranks: dict[str, int]) -> list[str]:
    """Return what a setting of a higher level excludes; from now on it has the rank of that setting."""
    beaten = []
    for pair in _EXCLUSIVE:
        if not all(name in stated and name not in beaten for name in pair):
            continue
        loser, winner = sorted(pair, key=ranks.__getitem__)
        if ranks[loser] == ranks[winner]:
            raise SettingsError(
                f"{_shown(pair[0], values)} and {_shown(pair[1], values)} exclude one another: leave one of them out"
            )
        ranks[loser] = ranks[winner]
        beaten.append(loser)
    return beaten


def _in_vain(need: Need, stated: Sequence[str], values: Mapping[str, Any], ranks: Mapping[str, int]) -> list[str]:
    """Return which of the settings a statement of a higher level, or one that turns another off, leaves no effect."""
    void = []
    for name in need.settings:
        if name not in stated:
            continue
        above = [other for other in need.others if ranks.get(other, -1) > ranks[name]]
        turned_off = [other for other in need.others if ranks.get(other) == ranks[name] and not values[other]]
        if not above and not turned_off:
            raise SettingsError(f"{_shown(name, values)} has no effect {need.remedy}: change that, or leave {name} out")
        void.append(name)
    return void


def _shown(name: str, values: Mapping[str, Any]) -> str:
    return f"{name}={as_typed(values[name])}"
