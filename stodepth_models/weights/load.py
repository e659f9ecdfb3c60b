"""Loading weights from any source, so that the model computes what the network they come from computed."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from ..blocks.fold import gated_blocks
from .checkpoint import Checkpoint
from .config import Configured
from .errors import CheckpointError
from .guess import guess_builder
from .names import CLASSIFIER, OPTIONAL_BUFFERS, canonical
from .network import BIAS, WEIGHT, find_network, match_names
from .prefix import MAX_KEYS_SHOWN, under_prefix
from .scales import fold_into, own_scales, with_scales
from .sources import Source, read_checkpoint, resolve_source
from .tensors import as_weight, check_dense, warn_of_nan

MAX_NAMES_LOGGED = 3  # of what is left out

logger = logging.getLogger("stodepth_models")


def builder_source(builder: str, enum: type[WeightsEnum], pretrained: bool, weights: Any) -> Source | None:
    """Turn a builder's ``pretrained`` and ``weights`` into one source, or None.

    Raises:
        ValueError: both are given, nothing is published as the default, or no weights have that name.
    """
    if not pretrained:
        return None if weights is None else resolve_source(weights, enum, builder)
    if weights is not None:
        raise ValueError(f"pretrained=True and weights={weights!r} are two sources: give one of them")
    default = next((name for name in ("IMAGENET1K_V1", "DEFAULT") if name in enum.__members__), None)
    if default is None or not enum[default].meta.get("pretrained", True):
        known = ", ".join(f"weights={name!r}" for name in enum.__members__) or "none"
        raise ValueError(
            f"pretrained=True: no stochastic-depth weights of {builder} are published yet; weights of others: {known}"
        )
    return enum[default]


def load_pretrained(
    model: nn.Module,
    source: Any,
    *,
    strict: bool = True,
    check_hash: str | bool | None = None,
    prefix: str | None = None,
) -> None:
    """Load weights so that the model's evaluation outputs are those of the network they come from.

    Where the two scale their residual branches differently in evaluation, the ratio is folded into the last batch norm
    of each branch. A file of this package, and a state dict of a model with its gates, say how their network scaled
    them; any other one is of constant depth. ``load_state_dict`` is the literal copy.

    Wrappers (``state_dict``, ``model``, averages first), names of other libraries (``linear`` or ``head`` for ``fc``,
    ``shortcut`` for ``downsample``, those of transformers and of CIFAR zoos) and the one prefix under which the names
    of the network fit are mapped. Where the number of classes differs, or the file has no classifier, all but the
    classifier is loaded, and the log says so.

    Args:
        model: a model of this package, or any one whose names follow torchvision's ResNets.
        source: member of a weights enum or its name, path of a ``.safetensors``, ``.pth``, ``.pt`` or ``.th`` file, URL
            (``http``, ``https``, ``file``), ``hf://org/repo[/file][@revision]``, or a state dict.
        strict: False: keys that are missing or unexpected are logged instead of refused, unless none fits.
        check_hash: SHA-256 of the file, or at least its first 8 digits; True: those in its name must hold. None: those
            in the name of a URL; False: none. The hash of weights that ship with this package is checked in any case.
        prefix: beginning of the names of the network in a file that holds several, such as ``"encoder_q."``; None: the
            one under which the names fit.

    Raises:
        CheckpointError: the file is damaged, has another hash, is no checkpoint, or does not fit. The model is left as
            it was, and no damaged download stays in the cache.
        DownloadError: network, server or disk.
        FileNotFoundError: no such file.
        TypeError: ``model`` or ``source`` is of another kind.
        ValueError: no weights have that name, the model is on the meta device, or it scales a branch by 0 that the
            source uses.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> trained = sdm.cifar_resnet20_stodepth_lineardecay(pretrained=True).eval()
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 0.5)).eval()
        >>> sdm.load_pretrained(model, "CIFAR10_JPEG_V1")
        >>> x = torch.randn(1, 3, 32, 32)
        >>> torch.allclose(model(x), trained(x), atol=1e-4)  # whatever the survival probabilities
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError(
            f"{type(model).__name__} is on the meta device, which holds no values: call model.to_empty(device='cpu') "
            "before load_pretrained"
        )
    bare = _unwrapped(model)
    recipe = bare.recipe if isinstance(bare, Configured) else None
    enum = None if recipe is None else get_model_weights(recipe.builder)
    owner = type(bare).__name__ if recipe is None else recipe.builder
    found = resolve_source(source, enum, owner, "source")
    checkpoint = read_checkpoint(found, check_hash=check_hash)
    if prefix is not None:
        checkpoint = under_prefix(checkpoint, prefix)
    load_checkpoint(model, checkpoint, strict)


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint, strict: bool = True) -> None:
    """Load what has been read; see :func:`load_pretrained`."""
    held = model.state_dict()
    names = match_names(held, checkpoint)
    target = {key: held[key] for key in names.values()}
    checkpoint = find_network(checkpoint, {name: held[key].shape for name, key in names.items()})
    state = {names.get(key, key): tensor for key, tensor in checkpoint.state_dict.items()}
    classifier = [names.get(name, name) for name in (WEIGHT, BIAS)]
    remark = _remark_on_classifier(classifier[0], target, state)
    if remark is None:
        classifier = []
    for key in classifier:
        state.pop(key, None)
    _check_fit(checkpoint, target, state, classifier, strict)
    state = {key: tensor for key, tensor in state.items() if key in target}
    for key, tensor in state.items():
        check_dense(key, tensor, checkpoint.name, target[key].dtype)
        state[key] = as_weight(tensor, target[key])
    warn_of_nan(state, checkpoint.name, stacklevel=3)
    gates = [gate for _, _, gate in gated_blocks(model)]
    if not checkpoint.scales_known and any(gate.eval_scale != 1.0 for gate in gates):
        logger.warning(
            "%s does not say how its network scales its branches and is taken for constant depth; for the weights of a "
            "stochastic-depth network of these survival probabilities, use load_state_dict",
            checkpoint.name,
        )
    state = fold_into(state, model, checkpoint.saved_scales or {})
    _log_what_is_left_out(checkpoint, remark)
    bare = _unwrapped(model)
    if remark is None and isinstance(bare, Configured):
        bare.categories = checkpoint.categories
    # The scales of the model are in the weights now: none that are saved are missing.
    model.load_state_dict(with_scales(state, own_scales(model)), strict=False)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model within ``torch.compile``, data parallelism and averages."""
    inner = getattr(model, "_orig_mod", getattr(model, "module", None))
    return model if isinstance(model, Configured) or not isinstance(inner, nn.Module) else _unwrapped(inner)


def _remark_on_classifier(weight: str, target: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """Why the classifier is left as it is; None where the one of the file fits."""
    if weight not in target:
        return "the model has no classifier" if weight in state else None
    if weight not in state:
        return f"the file has none of {target[weight].shape[-1]} inputs that is clearly one"
    ours, given = target[weight].shape, state[weight].shape
    if given == ours:
        return None
    if given[1:] == ours[1:]:
        return "the number of classes differs"
    return f"that of the file is of another shape: {tuple(given)}, the model has {tuple(ours)}"


def _log_what_is_left_out(checkpoint: Checkpoint, remark: str | None) -> None:
    """Say in one line what of a file is not loaded."""
    parts: list[str] = []
    if remark is not None:
        parts.append(f"all but the classifier is loaded, {remark}")
    others = checkpoint.left_out
    if others:
        if checkpoint.found_under:
            parts.insert(0, f"the network is under {checkpoint.found_under!r}")
        more = ", ..." if len(others) > MAX_NAMES_LOGGED else ""
        shown = ", ".join(others[:MAX_NAMES_LOGGED])
        parts.append(f"{len(others)} other tensors are left out: {shown}{more}")
    if parts:
        logger.warning("%s: %s", checkpoint.name, "; ".join(parts))


def _check_fit(
    checkpoint: Checkpoint,
    target: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    classifier: list[str],
    strict: bool,
) -> None:
    missing = [k for k in target if k not in state and k not in classifier and not k.endswith(OPTIONAL_BUFFERS)]
    unexpected = [k for k in state if k not in target and not k.endswith(OPTIONAL_BUFFERS)]
    shapes = [
        f"{k} {tuple(v.shape)}, the model has {tuple(target[k].shape)}"
        for k, v in state.items()
        if k in target and v.shape != target[k].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    report = "".join(
        f"\n  {len(keys)} {kind}: {', '.join(keys[:MAX_KEYS_SHOWN])}{', ...' if len(keys) > MAX_KEYS_SHOWN else ''}"
        for kind, keys in found.items()
        if keys
    )
    fitting = sum(key in target and not key.endswith(OPTIONAL_BUFFERS) for key in state)
    fits_in_body = any(key in target and not canonical(key).startswith(CLASSIFIER) for key in state)
    if shapes or (report and strict) or not fits_in_body:
        raise CheckpointError(f"{checkpoint.name} does not fit the model{_hint(checkpoint)}{report}")
    if report:
        logger.warning("%s: %d of %d tensors are loaded%s", checkpoint.name, fitting, len(target), report)


def _hint(checkpoint: Checkpoint) -> str:
    guess = guess_builder(checkpoint.state_dict)
    if guess is None:
        return ""
    options = "".join(f" with {key}={value!r}" for key, value in guess[1].items())
    return f": its keys match {guess[0]}{options}"
