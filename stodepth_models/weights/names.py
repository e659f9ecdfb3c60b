"""Names of weights: how other people's files call them, and how this package does."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from .errors import CheckpointError

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]

CLASSIFIER = "fc."  # beginning of the names of the classifier's weights

OPTIONAL_BUFFERS = "num_batches_tracked"  # neither files from before PyTorch 0.4.1 nor frozen batch norms have it

PROFILER_BUFFERS = re.compile(r"(?:^|\.)(?:n_averaged|total_ops|total_params)$")  # of averaging and profiling tools

_STAGE = r"^(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\."  # of transformers


def _layer_of_transformers(match: re.Match[str]) -> str:
    block = f"layer{int(match[1]) + 1}.{match[2]}"
    is_shortcut = not match[3]
    if is_shortcut:
        place = {"convolution": 0, "normalization": 1}[match[4]]
        return f"{block}.downsample.{place}."
    kind = {"convolution": "conv", "normalization": "bn"}[match[4]]
    return f"{block}.{kind}{int(match[3]) + 1}."


def _layer_of_residual_function(match: re.Match[str]) -> str:
    number, place = divmod(int(match[3]), 3)
    # The sequence is conv, norm, ReLU, conv, norm, ReLU, conv, norm: a ReLU has no weights.
    kind = ("conv", "bn")[place]
    return f"layer{int(match[1]) - 1}.{match[2]}.{kind}{number + 1}."


def _shortcut_of_residual_function(match: re.Match[str]) -> str:
    return f"layer{int(match[1]) - 1}.{match[2]}.downsample."


# Modules that engines (DDP, FSDP, torch.compile, DeepSpeed, checkpointing) put around others, anywhere in a network.
_ENGINES = "module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module"

# Applied in this order to every name, of the file and of the model alike.
RULES: tuple[Rule, ...] = (
    (re.compile(rf"(?:^|(?<=\.))(?:{_ENGINES})\."), ""),
    # Hugging Face transformers.
    (re.compile(r"^(?:resnet\.)?embedder\.embedder\.convolution\."), "conv1."),
    (re.compile(r"^(?:resnet\.)?embedder\.embedder\.normalization\."), "bn1."),
    (re.compile(_STAGE + r"layer\.(\d+)\.(convolution|normalization)\."), _layer_of_transformers),
    (re.compile(_STAGE + r"shortcut()\.(convolution|normalization)\."), _layer_of_transformers),
    # CIFAR zoos that name stages conv2_x to conv5_x.
    (re.compile(r"^conv([2-5])_x\.(\d+)\.residual_function\.([013467])\."), _layer_of_residual_function),
    (re.compile(r"^conv([2-5])_x\.(\d+)\.shortcut\."), _shortcut_of_residual_function),
    (re.compile(r"\.shortcut\."), ".downsample."),
    (re.compile(r"^(?:linear|classifier)\.(?=(?:weight|bias)$)"), CLASSIFIER),
)
# The stem of those zoos is a sequence, as is the deep stem of other networks, whose names stay.
STEM_OF_ZOOS: tuple[Rule, ...] = (
    (re.compile(r"(?:^|(?<=\.))conv1\.0\."), "conv1."),
    (re.compile(r"(?:^|(?<=\.))conv1\.1\."), "bn1."),
)
# The children of a torchvision ResNet in a sequence without names, as fastai and self-supervised trainers keep a body.
_BLOCK_OF_SEQUENCE = re.compile(r"^(|.*\.)(\d)\.\d+\.conv1\.weight$")
# Attributes of Lightning modules and of other classes that hold a network.
HOLDERS: Rule = (re.compile(r"^(?:(?:model|network|net|backbone)\.)+"), "")
# A name by which the weights of another project are known, whose they are, and the next step.
_OTHER_PROJECTS = (
    (
        re.compile(r"(?:^|\.)stem\.conv1\.norm\."),
        "detectron2",
        "rename stem.conv1 to conv1, resN to layerN-1, convN.norm to bnN, shortcut to downsample.0 and shortcut.norm "
        "to downsample.1, if the network was trained with STRIDE_IN_1X1=False",
    ),
    (
        re.compile(r"\._(?:mean|variance)$"),
        "PaddlePaddle",
        "rename _mean to running_mean and _variance to running_var, and transpose the weight of the classifier",
    ),
    (
        re.compile(r"[./](?:kernel|moving_mean)(?::0)?$"),
        "Keras, TensorFlow or Flax",
        "convert them to PyTorch first, whose convolutions have another order of dimensions",
    ),
)


def other_project(names: Iterable[str]) -> str:
    """Return whose names of weights these are and the next step, for the end of a message; empty where unknown."""
    for name in names:
        for pattern, project, remedy in _OTHER_PROJECTS:
            if pattern.search(name):
                return f"its names are those of {project}: {remedy}"
    return ""


def canonical(name: str, rules: Sequence[Rule] = RULES) -> str:
    """Return this package's name of a weight: torchvision's, such as ``layer1.0.downsample.0.weight``."""
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name


def canonical_names(names: Iterable[str], owner: str) -> dict[str, str]:
    """Map canonical names to the names they come from; counters that are no weights are left out.

    Raises:
        CheckpointError: two names are the same weight.
    """
    weights = [name for name in names if not PROFILER_BUFFERS.search(name)]
    rules = (*_rules_of_sequences(weights), *RULES)
    if any("residual_function" in name for name in weights):
        rules = (*rules, *STEM_OF_ZOOS)
    originals: dict[str, str] = {}
    for name in weights:
        known = originals.setdefault(canonical(name, rules), name)
        if known != name:
            raise CheckpointError(f"{owner} holds the same weight twice, as {known!r} and as {name!r}")
    return originals


def _rules_of_sequences(names: Sequence[str]) -> list[Rule]:
    """Rules for bodies whose stem is 0 and 1 in a sequence, with the stages behind it."""
    stages: dict[str, set[int]] = {}
    for name in names:
        match = _BLOCK_OF_SEQUENCE.match(name)
        if match:
            stages.setdefault(match[1], set()).add(int(match[2]))
    held = set(names)
    rules: list[Rule] = []
    for root, places in stages.items():
        # Between stem and stages stand a ReLU and, where it was not left out, a pooling: neither has weights.
        if min(places) >= 2 and {f"{root}0.weight", f"{root}1.weight"} <= held:
            start = re.escape(root)
            rules.append((re.compile(rf"^{start}0\."), f"{root}conv1."))
            rules.append((re.compile(rf"^{start}1\."), f"{root}bn1."))
            for number, place in enumerate(sorted(places), start=1):
                rules.append((re.compile(rf"^{start}{place}\."), f"{root}layer{number}."))
    return rules


def names_of_model(names: Iterable[str]) -> dict[str, str]:
    """Map canonical names, without the attributes of a class that holds the network, to those of a model.

    A model can have ``backbone.fc`` beside ``fc``: the attribute in which the two differ stays in the names.
    """
    originals = canonical_names(names, "the model")
    short = {name: canonical(canonical(name, [HOLDERS])) for name in originals}
    counts = Counter(short.values())
    found: dict[str, str] = {}
    for name, original in originals.items():
        if counts[short[name]] == 1:
            found[short[name]] = original
        else:
            found[name] = original
    return found
