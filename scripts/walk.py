"""What becomes of each model of timm, torchvision or transformers that is converted, on the meta device.

A model is converted when no mask that its forward pass calls is left, but for those that the log names. It is refused
when the error names a class that holds a mask. Anything else is wrong.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import timm
import torch
import torchvision
from torch import nn
from torchvision.models.regnet import BlockParams

import stodepth_models as sdm
from stodepth_models.blocks.gated import GatedBlock
from stodepth_models.blocks.masks import masks_rows

RATE = 0.1


@dataclass
class Outcome:
    """What became of a model: ``kind`` is converted, without masks, refused, without blocks, not built, or wrong."""

    kind: str
    classes: tuple[str, ...] = ()  # of the blocks with gates, or those that the error has named
    faults: list[str] = field(default_factory=list)
    message: str = ""  # of the error


def convert(model: nn.Module, call: Callable[[nn.Module], object] | None) -> Outcome:
    """Convert a model; ``call`` runs its forward pass, and shows which masks it uses."""
    masks = {name: module for name, module in model.named_modules() if masks_rows(module)}
    used = called(model.eval(), masks, call)
    holders = {type(model.get_submodule(name.rpartition(".")[0])).__name__ for name in used}
    log = Log()
    try:
        sdm.apply_stochastic_depth(model, drop_rate=None if masks else RATE)
    except ValueError as error:
        return refused(model, str(error), holders)
    finally:
        log.close()
    classes = {type(block).stodepth_original.__name__ for block in model.modules() if isinstance(block, GatedBlock)}
    left = {name for name in used if masks_rows(model.get_submodule(name))}
    faults = []
    for name in left:
        holder = type(model.get_submodule(name.rpartition(".")[0])).__name__
        if holder not in log.text:
            faults.append(f"{name} is called and stays, and the log does not name {holder}")
    kind = "converted" if masks else "without masks"
    return Outcome("wrong" if faults else kind, tuple(sorted(classes)), faults)


def called(model: nn.Module, masks: dict[str, nn.Module], call: Callable[[nn.Module], object] | None) -> set[str]:
    """Names of the masks that a forward pass calls; all of them where the model does not run on the meta device."""
    found: set[str] = set()
    hooks = [module.register_forward_pre_hook(lambda *_, name=name: found.add(name)) for name, module in masks.items()]
    try:
        if call is None:
            return set(masks)
        with torch.no_grad():
            call(model)
        return found
    except Exception:
        return set(masks)
    finally:
        for hook in hooks:
            hook.remove()


def refused(model: nn.Module, message: str, holders: set[str]) -> Outcome:
    """Whether an error names a class that holds a mask, and leaves the model as it was."""
    if any(isinstance(module, GatedBlock) for module in model.modules()):
        return Outcome("wrong", faults=["the model is half converted behind an error"], message=message)
    if not holders:  # nor a mask that its forward pass calls
        return Outcome("without blocks", message=message)
    containers = {"Sequential", "ModuleList", "ModuleDict"}
    named = {holder for holder in holders if holder in message or holder in containers}
    if not named:
        return Outcome("wrong", faults=[f"the error names none of {sorted(holders)}"], message=message)
    return Outcome("refused", tuple(sorted(named)), message=message)


class Log(logging.Handler):
    """What the package says in the log meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.logger = logging.getLogger("stodepth_models")
        self.propagated, self.logger.propagate = self.logger.propagate, False
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage()

    def close(self) -> None:
        self.logger.removeHandler(self)
        self.logger.propagate = self.propagated
        super().close()


def walk_timm(name: str) -> tuple[str, Outcome]:
    """The module of a timm model, and what becomes of it."""
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    with torch.device("meta"):
        try:
            model = timm.create_model(name, drop_path_rate=RATE)
        except TypeError:
            model = timm.create_model(name)
        size = model.pretrained_cfg.get("input_size") or (3, 224, 224)
        return family, convert(model, lambda model: model(torch.empty(2, *size)))


def walk_torchvision(name: str) -> tuple[str, Outcome]:
    """The module of a torchvision model, and what becomes of it."""
    builder = torchvision.models.get_model_builder(name)
    family = builder.__module__.removeprefix("torchvision.models.")
    options = {"weights": None}
    if family.partition(".")[0] in ("detection", "segmentation"):
        options["weights_backbone"] = None
    with torch.device("meta"), settings_on_cpu():
        model = builder(**options)
        shape = (2, 3, 16, 224, 224) if family.startswith("video.") else (2, 3, 224, 224)
        return family, convert(model, lambda model: model(torch.empty(shape)))


@contextmanager
def settings_on_cpu() -> Iterator[None]:
    """Let torchvision's RegNets compute their widths, which they do with tensors."""
    original = BlockParams.from_init_params.__func__

    def from_init_params(cls: type, *args: object, **settings: object) -> object:
        with torch.device("cpu"):
            return original(cls, *args, **settings)

    BlockParams.from_init_params = classmethod(from_init_params)
    try:
        yield
    finally:
        BlockParams.from_init_params = classmethod(original)


def walk_transformers(name: str) -> tuple[str, Outcome]:
    """A family of transformers, and what becomes of its model with the default configuration."""
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        config = AutoConfig.for_model(name)
        for option in RATE_OPTIONS:
            before = getattr(config, option, None)
            if isinstance(before, (list, tuple)):
                setattr(config, option, [RATE for _ in before])
            elif before is not None:
                setattr(config, option, 1 if isinstance(before, int) else RATE)
        return name, convert(AutoModel.from_config(config), None)


RATE_OPTIONS = ("drop_path_rate", "drop_path")


def transformers_families() -> Iterator[str]:
    """Names of the families whose source has drop path, or whose blocks are known."""
    from pathlib import Path

    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    from stodepth_models.blocks.transformers import TRANSFORMERS_BLOCKS

    known = {name.split(".")[2] for name in TRANSFORMERS_BLOCKS}
    root = Path(transformers.__file__).parent / "models"
    for name in MODEL_MAPPING_NAMES:
        folder = name.replace("-", "_")
        source = "".join(path.read_text() for path in (root / folder).glob("modeling_*.py"))
        if "DropPath" in source or "StochasticDepth" in source or folder in known:
            yield name


def names_of_torchvision() -> list[str]:
    """Names of torchvision's own models."""
    names = torchvision.models.list_models()
    return [name for name in names if torchvision.models.get_model_builder(name).__module__.startswith("torchvision.")]


# For each library the names of its models, and the walk of one.
WALKS: dict[str, tuple[Callable[[], list[str]], Callable[[str], tuple[str, Outcome]]]] = {
    "torchvision": (names_of_torchvision, walk_torchvision),
    "timm": (timm.list_models, walk_timm),
    "transformers": (lambda: list(transformers_families()), walk_transformers),
}
