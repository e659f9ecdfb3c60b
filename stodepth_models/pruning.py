"""Depth on demand: a trained network without some of its residual blocks.

A network trained with stochastic depth has learnt to do without any one of its blocks (Huang et al., arXiv:1603.09382,
sec. 3), so that a shallower one can be cut out of it (LayerDrop: Fan et al., arXiv:1909.11556, sec. 3.2).
"""

import copy
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from .blocks.find import gated_blocks_of
from .blocks.removal import left_out, removable_blocks, remove_blocks
from .blocks.surgery import apply_stochastic_depth, remove_stochastic_depth
from .cifar import CifarResNet
from .flops import count_flops
from .layers.modes import restored_modes
from .layers.recompute import Stage
from .layers.residual import gates_of
from .recalibration import images_of, recalibrate_bn, tracking_norms
from .weights.config import Configured

TIMED_PASSES = 5


@dataclass(frozen=True)
class PrunedDepth:
    """What :func:`prune_depth` left of a model: the attribute ``pruned_depth`` of the copy.

    Attributes:
        kept: positions of the blocks that stay, in forward order, counted from 0: what ``keep`` takes.
        left_out: names that the other blocks had; where batches chose them, in the order in which they left.
        flops_share: FLOPs of a pass, as a share in ``[0, 1]`` of those of the whole model.
        time_share: time of an evaluation pass, as a share of that of the whole model; median of five.

    Examples:
        >>> import stodepth_models as sdm
        >>> pruned = sdm.prune_depth(sdm.cifar_resnet20_stodepth_lineardecay(), [0, 2, 3, 4, 6, 8])
        >>> isinstance(pruned.pruned_depth, sdm.PrunedDepth)
        True
        >>> pruned.pruned_depth.left_out
        ('layer1.1', 'layer2.2', 'layer3.1')
    """

    kept: tuple[int, ...]
    left_out: tuple[str, ...]
    flops_share: float
    time_share: float


def prune_depth(
    model: nn.Module,
    keep: float | Sequence[int],
    batches: Iterable[Any] | None = None,
    *,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Return a copy of a trained network without some of its residual blocks.

    A block can be left out whose shortcut is its input; each stage keeps one block at least. With ``batches`` the
    blocks leave one after another, each time the one that moves the predictions least for the FLOPs that it saves, and
    batch norms are re-estimated at the new depth. Without them the blocks that leave are spread evenly.

    The copy of a model of this package's builders is saved and loaded as before: its configuration says how many
    blocks a stage has. For other models ``prune_depth(fresh_model, pruned.pruned_depth.kept)`` makes the network that
    takes the state dict.

    Args:
        model: a classifier whose blocks surgery knows, with stochastic depth or without. It is left as it is.
        keep: at most so much of the FLOPs of a pass, in ``(0, 1]``, or the positions of the blocks that stay, counted
            from 0 in forward order.
        batches: tensors ``(N, C, H, W)``, or tuples that begin with one, such as a DataLoader yields: a thousand
            training images, shuffled and augmented as in training. All are held in memory.
        input_size: ``(N, C, H, W)`` of the pass whose FLOPs and time count; None: the first batch, and without
            ``batches`` one image of 224x224 pixels, in the CIFAR family of 32x32.

    Returns:
        The copy, in the modes of ``model``. Its attribute ``pruned_depth`` is a :class:`PrunedDepth`: what stays, and
        what that saves.

    Raises:
        TypeError: an argument of the wrong type, or a model that returns no logits, ``(N, K)``, to choose blocks by.
        ValueError: no known block, a share or position that is not allowed, more than can be left out, empty
            ``batches``, or a network that computes something else without a block than with its branches dropped.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> model = sdm.cifar_resnet20_stodepth_lineardecay()
        >>> pruned = sdm.prune_depth(model, keep=0.7, batches=[torch.randn(8, 3, 32, 32)])
        >>> len(pruned.pruned_depth.left_out), round(pruned.pruned_depth.flops_share, 2)
        (3, 0.65)
    """
    _check_keep(keep)
    pruned = copy.deepcopy(model)
    was_plain = not gated_blocks_of(pruned)
    if was_plain:
        apply_stochastic_depth(pruned, drop_rate=0.0)
    with restored_modes(pruned):
        pruned.eval()
        images = _images(pruned, batches)
        if images:
            recalibrate_bn(pruned, images)
        report = _leave_out(pruned, keep, images, _example(pruned, images, input_size))
        if images:
            recalibrate_bn(pruned, images)
    _describe(pruned)
    if was_plain:
        remove_stochastic_depth(pruned)
    pruned.pruned_depth = report  # type: ignore[assignment]
    return pruned


def _check_keep(keep: Any) -> None:
    message = f"keep must be a share of the FLOPs in (0, 1], or the positions of the blocks that stay, got {keep!r}"
    if isinstance(keep, (int, float)) and not isinstance(keep, bool):
        if not 0.0 < keep <= 1.0:
            raise ValueError(message)
    elif not isinstance(keep, Sequence) or not all(type(position) is int for position in keep):
        raise TypeError(message)


def _images(model: nn.Module, batches: Iterable[Any] | None) -> list[Tensor]:
    """Return the images of all batches on the device of the model; nothing without batches."""
    if batches is None:
        return []
    device = next(model.parameters()).device
    images: list[Tensor] = []
    for batch in batches:
        x = images_of(batch)
        if len(x) > 1:  # a single one, at the end of a loader, has no statistics
            images.append(x.to(device))
    if not images:
        raise ValueError("batches must hold at least one batch of two images, got none")
    return images


def _example(model: nn.Module, images: list[Tensor], input_size: Sequence[int] | None) -> Tensor:
    """Return the input whose FLOPs and time count."""
    if images and input_size is None:
        return images[0]
    side = 224
    if isinstance(model, CifarResNet):
        side = 32
    weight = next(model.parameters())
    return torch.randn(tuple(input_size or (1, 3, side, side)), dtype=weight.dtype, device=weight.device)


def _leave_out(model: nn.Module, keep: float | Sequence[int], images: list[Tensor], example: Tensor) -> PrunedDepth:
    """Take blocks out of a model in evaluation, and return what that saves."""
    names = [name for name, _ in gated_blocks_of(model)]
    removable = removable_blocks(model, example)
    depth = _Depth(model, example)
    if isinstance(keep, Sequence):
        leaving = _beside(keep, names, removable)
    elif images:
        leaving = _least_moving(depth, keep, removable, images)
    else:
        leaving = _evenly_spread(depth, keep, removable)
    flops_share, time_share = depth.flops_share(leaving), depth.time_share(leaving)
    _remove(depth, leaving)
    kept = tuple(position for position, name in enumerate(names) if name not in leaving)
    return PrunedDepth(kept, tuple(leaving), flops_share, time_share)


class _Depth:
    """What a model in evaluation costs, and what it predicts, where some of its blocks are left out."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model, self.example = model, example
        self.flops = count_flops(model, example)

    def without(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Context in which passes skip the named blocks."""
        return left_out([self.model.get_submodule(name) for name in names])  # type: ignore[misc]

    def flops_share(self, names: Sequence[str]) -> float:
        """FLOPs without the named blocks, as a share of those of the whole model."""
        kept: list[float] = []
        with self.without(names):
            for gate in gates_of(self.model):
                kept.append(float(gate.eval_scale != 0.0))
        return self.flops.expected(kept).share

    @torch.inference_mode()
    def time_share(self, names: Sequence[str]) -> float:
        """Time of a pass without the named blocks, as a share of that of the whole model."""
        whole: list[float] = []
        rest: list[float] = []
        for _ in range(TIMED_PASSES):  # by turns: what else the machine does slows both
            whole.append(self._seconds())
            with self.without(names):
                rest.append(self._seconds())
        return median(rest) / median(whole)

    def _seconds(self) -> float:
        start = time.perf_counter()
        self.model(self.example)
        if self.example.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    @torch.inference_mode()
    def log_probs(self, images: list[Tensor], names: Sequence[str]) -> list[Tensor]:
        """Logarithms of the class probabilities without the named blocks, ``(N, K)`` for each batch."""
        with self.without(names):
            logits = [self.output(x) for x in images]
        if logits[0].dim() != 2:
            raise TypeError(
                f"model must return logits, (N, K), to choose blocks by, got {tuple(logits[0].shape)}: let keep be the "
                "positions of the blocks that stay"
            )
        return [x.float().log_softmax(1) for x in logits]

    @torch.inference_mode()
    def output(self, x: Tensor) -> Tensor:
        """What the model returns for ``x``."""
        return _tensor_of(self.model(x))


def _beside(kept: Sequence[int], names: list[str], removable: list[str]) -> list[str]:
    """Return the names of the blocks beside those at the given positions."""
    is_known = all(0 <= position < len(names) for position in kept)
    if not is_known or len(set(kept)) < len(kept):
        raise ValueError(f"keep must hold positions from 0 to {len(names) - 1}, each once, got {list(kept)}")
    leaving = [name for position, name in enumerate(names) if position not in kept]
    for name in leaving:
        if name not in removable:
            raise ValueError(
                f"keep must hold {names.index(name)}: {name} is the first block of its stage, has a shortcut that is "
                "not its input, or is not in a list of blocks"
            )
    return leaving


def _evenly_spread(depth: _Depth, keep: float, removable: list[str]) -> list[str]:
    """Return as few blocks as the share of FLOPs allows, at equal distances."""
    for count in range(len(removable) + 1):
        leaving = [removable[(2 * number + 1) * len(removable) // (2 * count)] for number in range(count)]
        if depth.flops_share(leaving) <= keep:
            return leaving
    raise _too_low(depth, keep, removable)


def _least_moving(depth: _Depth, keep: float, removable: list[str], images: list[Tensor]) -> list[str]:
    """Return the blocks that leave one after another, each time the one that moves the predictions least."""
    if depth.flops_share(removable) > keep:
        raise _too_low(depth, keep, removable)
    whole = depth.log_probs(images, [])
    leaving: list[str] = []
    staying = list(removable)
    share, moved = 1.0, 0.0
    with restored_modes(depth.model):
        for norm in tracking_norms(depth.model):
            norm.training = True  # the statistics of each batch: nearly those that are estimated in the end
        while share > keep:
            trials = [_Trial(name, depth, [*leaving, name], whole, images) for name in staying]
            chosen = min(trials, key=lambda trial: (trial.moved - moved) / max(share - trial.share, 1e-9))
            share, moved = chosen.share, chosen.moved
            leaving.append(chosen.name)
            staying.remove(chosen.name)
    return leaving


class _Trial:
    """One more block left out: the FLOPs that are left, and how far the predictions move, in nats."""

    def __init__(self, name: str, depth: _Depth, leaving: list[str], whole: list[Tensor], images: list[Tensor]) -> None:
        self.name = name
        self.share = depth.flops_share(leaving)
        self.moved = _distance(whole, depth.log_probs(images, leaving))


def _distance(whole: list[Tensor], rest: list[Tensor]) -> float:
    """Mean Kullback-Leibler divergence of the predictions from those of the whole network, in nats."""
    divergences = [kl_div(b, a, reduction="batchmean", log_target=True) for a, b in zip(whole, rest, strict=True)]
    return torch.stack(divergences).mean().item()


def _tensor_of(output: Any) -> Tensor:
    """Return what a model predicts: its output, or the part of it that transformers' models call so."""
    for name in ("logits", "last_hidden_state"):
        output = getattr(output, name, output)
    if not isinstance(output, Tensor):
        raise TypeError(f"model must return a tensor, or an output with logits, got {type(output).__name__}")
    return output


def _remove(depth: _Depth, leaving: list[str]) -> None:
    """Take blocks out, and see that the others compute what they did.

    Raises:
        ValueError: they do not, since the model counts on the positions of its blocks.
    """
    with depth.without(leaving):
        expected = depth.output(depth.example)
    kind = type(depth.model).__name__
    remove_blocks(depth.model, leaving)
    try:
        actual = depth.output(depth.example)
    except Exception as error:
        raise ValueError(f"{kind} does not work without {', '.join(leaving)}: {error}") from error
    # The passes are the same but for the kernels that a device picks.
    if not torch.allclose(actual, expected, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{kind} computes something else without {', '.join(leaving)} than with their branches dropped"
        )


def _too_low(depth: _Depth, keep: float, removable: list[str]) -> ValueError:
    return ValueError(
        f"keep={keep}: without all {len(removable)} blocks that can be left out, "
        f"{depth.flops_share(removable):.3f} of the FLOPs are left"
    )


def _describe(model: nn.Module) -> None:
    """Let the configuration of a model say how many blocks it has, so that it can be built again."""
    if isinstance(model, Configured) and model.built_with is not None:
        layers = [len(stage) for stage in model.children() if isinstance(stage, Stage)]
        options = {**model.built_with.options, "layers": layers}
        model.built_with = replace(model.built_with, options=options)
