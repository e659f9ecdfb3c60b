"""Loading weights from any source, so that the model computes what the network they come from computed."""

import logging
from typing import Any

from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from ..blocks.fold import gated_blocks
from .checkpoint import Checkpoint
from .config import Configured
from .fit import check_fit, compare, log_what_is_left_out
from .network import find_network, match_names
from .prefix import under_prefix
from .scales import fold_into, own_scales, with_scales
from .sources import Source, read_checkpoint, resolve_source
from .tensors import as_weight, check_dense, warn_of_nan

logger = logging.getLogger("stodepth_models")


def builder_source(builder: str, enum: type[WeightsEnum], pretrained: bool, weights: Any) -> Source | None:
    """Turn a builder's ``pretrained`` and ``weights`` into one source, or None.

    Raises:
        ValueError: both are given, nothing is published as the default, or no weights have that name.
    """
    if not pretrained and weights is None:
        return None
    if not pretrained:
        return resolve_source(weights, enum, builder)
    if weights is not None:
        raise ValueError(f"pretrained=True and weights={weights!r} are two sources: give one of them")
    # Torchvision's first weights, whose training is that of the papers, or the default of the CIFAR family.
    default = "IMAGENET1K_V1" if "IMAGENET1K_V1" in enum.__members__ else "DEFAULT"
    if default in enum.__members__ and enum[default].meta.get("pretrained", True):
        return enum[default]
    known = ", ".join(f"weights={name!r}" for name in enum.__members__)
    raise ValueError(
        f"pretrained=True: no stochastic-depth weights of {builder} are published yet; weights of others: "
        f"{known or 'none'}"
    )


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
    enum = None
    owner = type(bare).__name__
    if isinstance(bare, Configured) and bare.built_with is not None:
        owner = bare.built_with.builder
        enum = get_model_weights(owner)
    found = resolve_source(source, enum, owner, "source")
    checkpoint = read_checkpoint(found, check_hash=check_hash)
    if prefix is not None:
        checkpoint = under_prefix(checkpoint, prefix)
    load_checkpoint(model, checkpoint, strict)


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint, strict: bool = True) -> None:
    """Load what has been read; see :func:`load_pretrained`."""
    held = model.state_dict()
    names = match_names(held, checkpoint)
    shapes = {name: held[key].shape for name, key in names.items()}
    network = find_network(checkpoint, shapes)
    fit = compare(network, names, shapes)
    check_fit(fit, network, len(names), strict)
    # All is checked before the first weight of the model is changed.
    weights: dict[str, Tensor] = {}
    for key, tensor in fit.weights.items():
        check_dense(key, tensor, network.name, held[key].dtype)
        weights[key] = as_weight(tensor, held[key])
    warn_of_nan(weights, network.name, stacklevel=3)
    _warn_of_scales(model, network)
    weights = fold_into(weights, model, network.saved_scales or {})
    log_what_is_left_out(network, fit.remark)
    bare = _unwrapped(model)
    if fit.remark is None and isinstance(bare, Configured):
        bare.categories = network.categories
    # The scales of the model are in the weights now: none that are saved are missing.
    model.load_state_dict(with_scales(weights, own_scales(model)), strict=False)


def _warn_of_scales(model: nn.Module, network: Checkpoint) -> None:
    """Log where it is not known how the network scaled its branches, and the model scales its own."""
    scales = [gate.eval_scale for _, _, gate in gated_blocks(model)]
    if not network.scales_known and any(scale != 1.0 for scale in scales):
        logger.warning(
            "%s does not say how its network scales its branches and is taken for constant depth; for the weights of a "
            "stochastic-depth network of these survival probabilities, use load_state_dict",
            network.name,
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model within ``torch.compile``, data parallelism and averages."""
    # torch.compile calls it `_orig_mod`, all others `module`.
    inner = getattr(model, "_orig_mod", getattr(model, "module", None))
    if isinstance(model, Configured) or not isinstance(inner, nn.Module):
        return model
    return _unwrapped(inner)
