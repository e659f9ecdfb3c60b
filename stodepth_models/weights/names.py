"""Names of weights: how other people's files call them, and how this package does."""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..layers.residual import EVAL_SCALE, SCHEDULED_SCALE
from .errors import CheckpointError

# Keys under which training scripts nest the weights. Averages come first: they are what such scripts evaluate.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "shadow"),
    *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "module", "weights", "params"),
)

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]


_STAGE = r"^(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\."  # of transformers


def _layer_of_transformers(match: re.Match[str]) -> str:
    is_norm = match[4] == "normalization"
    block = f"layer{int(match[1]) + 1}.{match[2]}"
    if not match[3]:
        return f"{block}.downsample.{int(is_norm)}."
    kind = "bn" if is_norm else "conv"
    return f"{block}.{kind}{int(match[3]) + 1}."


def _layer_of_residual_function(match: re.Match[str]) -> str:
    # conv, norm, ReLU, conv, norm, ReLU, conv, norm
    kind = "bn" if int(match[3]) % 3 else "conv"
    return f"layer{int(match[1]) - 1}.{match[2]}.{kind}{int(match[3]) // 3 + 1}."


def _shortcut_of_residual_function(match: re.Match[str]) -> str:
    return f"layer{int(match[1]) - 1}.{match[2]}.downsample."


WRAPPER_ATTRIBUTES: Rule = (
    re.compile(r"^(?:(?:model|network|net|backbone)\.)+"),
    "",
)  # attributes of Lightning and others

# Applied in this order to every name, of the file and of the model alike.
RULES: tuple[Rule, ...] = (
    (
        re.compile(
            r"(?:^|(?<=\.))(?:module|_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
        ),
        "",
    ),
    WRAPPER_ATTRIBUTES,
    # Hugging Face transformers.
    (re.compile(r"^(?:resnet\.)?embedder\.embedder\.convolution\."), "conv1."),
    (re.compile(r"^(?:resnet\.)?embedder\.embedder\.normalization\."), "bn1."),
    (re.compile(_STAGE + r"layer\.(\d+)\.(convolution|normalization)\."), _layer_of_transformers),
    (re.compile(_STAGE + r"shortcut()\.(convolution|normalization)\."), _layer_of_transformers),
    # CIFAR zoos that name stages conv2_x to conv5_x.
    (re.compile(r"^conv([2-5])_x\.(\d+)\.residual_function\.(\d)\."), _layer_of_residual_function),
    (re.compile(r"^conv([2-5])_x\.(\d+)\.shortcut\."), _shortcut_of_residual_function),
    (re.compile(r"\.shortcut\."), ".downsample."),
    (re.compile(r"^(?:linear|classifier)\."), "fc."),
)
# Applied where a file has no other classifier.
HEADS: Rule = (re.compile(r"^(?:head\.fc|head)\.(?=(?:weight|bias)$)"), "fc.")
RULES_WITHIN_WRAPPERS = tuple(rule for rule in RULES if rule is not WRAPPER_ATTRIBUTES)

PROFILER_BUFFERS = re.compile(r"(?:^|\.)(?:n_averaged|total_ops|total_params)$")  # of averaging and profiling tools

CLASSIFIER = "fc."
# In the metadata of a state dict: the evaluation scale of a gate, and those of all gates where no gates are named.
EVAL_SCALES = "eval_scales"

OPTIONAL_BUFFERS = "num_batches_tracked"  # neither files from before PyTorch 0.4.1 nor frozen batch norms have it


MAX_WRAPPERS = 20  # mappings within one another; a mapping that holds itself has no end


def unwrap(content: Any) -> tuple[Any, list[str]]:
    """Return the innermost mapping of weights and the wrapper keys that led there.

    Raises:
        CheckpointError: mappings lie deeper than ``MAX_WRAPPERS``, or one holds itself.
    """
    path: list[str] = []
    while isinstance(content, Mapping):
        inner = next((key for key in WRAPPERS if _holds_tensors(content.get(key))), None)
        if inner is None:
            break
        content = content[inner]
        path.append(inner)
        if len(path) > MAX_WRAPPERS:
            raise CheckpointError(f"weights lie in more than {MAX_WRAPPERS} mappings, or in one that holds itself")
    return content, path


def _holds_tensors(content: Any, depth: int = MAX_WRAPPERS) -> bool:
    """Whether weights lie in a mapping: an average that was switched off leaves an empty one."""
    if not isinstance(content, Mapping) or depth < 0:
        return False
    values = content.values()
    return any(isinstance(value, Tensor) for value in values) or any(
        _holds_tensors(value, depth - 1) for value in values
    )


def noted_scales(state: Mapping[str, Any]) -> dict[str, float] | list[float] | None:
    """Return the evaluation scale of each gate that PyTorch's state dict notes; None without notes.

    By the names of the gates, or in forward order where :func:`with_notes` wrote them. A network of constant depth has
    no gates. Notes are lost where a script copies the weights to a plain dict.
    """
    metadata = getattr(state, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return None
    notes = {name: note for name, note in metadata.items() if isinstance(note, Mapping)}
    listed = notes.get("", {}).get(EVAL_SCALES)
    if isinstance(listed, list):
        return listed if all(map(_is_scale, listed)) else None
    # An average is a copy with the scales of the moment it was made; its weights were trained with the scheduled ones.
    is_average = any(str(key).endswith("n_averaged") for key in state)
    named = {}
    for name, note in notes.items():
        if EVAL_SCALE in note:
            own = note[EVAL_SCALE]
            named[name] = note.get(SCHEDULED_SCALE, own) if is_average else own
    return named if all(map(_is_scale, named.values())) else None


def _is_scale(value: Any) -> bool:
    return isinstance(value, float) and 0.0 <= value <= 1.0


def with_notes(weights: Mapping[str, Any], scales: Sequence[float]) -> OrderedDict[str, Any]:
    """Return the weights as a state dict that notes the evaluation scales of all gates, in forward order."""
    state = OrderedDict(weights)
    state._metadata = {"": {EVAL_SCALES: list(scales)}}  # type: ignore[attr-defined]
    return state


def canonical(name: str, rules: Sequence[Rule] = RULES) -> str:
    """Return this package's name of a weight: torchvision's, such as ``layer1.0.downsample.0.weight``."""
    for pattern, replacement in rules:
        name = pattern.sub(replacement, name)
    return name


def under_attribute(name: str) -> bool:
    """Return whether a name begins with an attribute of a wrapper, such as ``model.`` of Lightning."""
    return canonical(name) != canonical(name, RULES_WITHIN_WRAPPERS)


def canonical_names(names: Iterable[str], owner: str) -> dict[str, str]:
    """Map canonical names to the names they come from; counters that are no weights are left out.

    A model can have ``backbone.fc`` beside ``fc``: the attribute that tells the two apart stays in the names.

    Raises:
        CheckpointError: two names are the same weight.
    """
    weights = [name for name in names if not PROFILER_BUFFERS.search(name)]
    stem = _names_of_stem(weights)
    shared = {short for short, count in Counter(map(canonical, weights)).items() if count > 1}
    originals: dict[str, str] = {}
    for name in weights:
        short = canonical(name)
        if short in shared:
            short = canonical(name, RULES_WITHIN_WRAPPERS)
        known = originals.setdefault(stem.get(short, short), name)
        if known != name:
            raise CheckpointError(f"{owner} holds the same weight twice, as {known!r} and as {name!r}")
    return originals


def _names_of_stem(names: Sequence[str]) -> dict[str, str]:
    """Names of first and last layer that only the rest of the file explains."""
    found: dict[str, str] = {}
    short = {canonical(name) for name in names}
    if any("residual_function" in name for name in names):
        # There the stem is a sequence, as is the deep stem of other networks, whose names stay.
        for name in short:
            if name.startswith(("conv1.0.", "conv1.1.")):
                found[name] = name.replace("conv1.0.", "conv1.").replace("conv1.1.", "bn1.")
    if not any(name in short for name in ("fc.weight", "fc.0.weight")):
        for name in short:
            if canonical(name, [HEADS]) != name:
                found[name] = canonical(name, [HEADS])
    numbers = {match[1] for name in short if (match := re.match(r"fc\.(\d+)\.(?:weight|bias)$", name))}
    if len(numbers) == 1:  # dropout before the one linear layer; several are a projection head
        (number,) = numbers
        found.update({f"fc.{number}.{part}": f"fc.{part}" for part in ("weight", "bias")})
    return found
