"""What ``benchmark.py`` compares: models, the gates that they draw, and networks that no gate can beat."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

import stodepth_models as sdm
from stodepth_models.layers.draw import count_rows, draw_batch, draw_rows

try:
    from timm.layers import DropPath as TimmDropPath
except ImportError:
    TimmDropPath = None  # type: ignore[assignment, misc]

Gates = list[float]
"""Share of the rows that survives each gate of a model, in forward order."""

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def images(args: argparse.Namespace) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(args.batch_size, 3, args.image_size, args.image_size)
    return x.to(args.device, memory_format=FORMATS[args.memory_format])


def precision(args: argparse.Namespace) -> AbstractContextManager[Any]:
    return torch.autocast(args.device, torch.bfloat16) if args.dtype == "bfloat16" else nullcontext()


def ours(args: argparse.Namespace, p_last: float, mode: str = "batch", checkpoint: bool = False) -> nn.Module:
    """Our model in training."""
    name = f"{args.model}_stodepth_lineardecay"
    return _build(args, name, prob_0_L=(1.0, p_last), mode=mode, checkpoint_stages=checkpoint)


def baselines(args: argparse.Namespace) -> dict[str, nn.Module]:
    """The baseline, first, and our model at constant depth: one and the same where torchvision has no such model."""
    twin = {"ours, survival 1": ours(args, 1.0)}
    return twin if _is_ours_alone(args) else {"torchvision": _build(args, args.model), **twin}


def candidates(args: argparse.Namespace) -> dict[str, tuple[nn.Module, list[Gates]]]:
    """Name, model, and the gates of its passes; the baseline is first. Gates of a mask count with their mean."""
    survival = sdm.survival_probs(ours(args, args.p_last))
    stochastic = {f"ours, {mode}": ours(args, args.p_last, mode) for mode in args.modes}
    constant = {name: (model, [[1.0] * len(survival)] * args.repeats) for name, model in baselines(args).items()}
    skipping = {name: (model, record_gates(model)) for name, model in stochastic.items()}
    masking = {name: (model, [survival] * args.repeats) for name, model in _masked(args, survival).items()}
    return constant | skipping | {"blocks taken out": _taken_out(args, survival)} | masking


def gates_of(model: nn.Module) -> list[sdm.StochasticResidual]:
    return [module for module in model.modules() if isinstance(module, sdm.StochasticResidual)]


def record_gates(model: nn.Module) -> list[Gates]:
    """Return a list to which every forward pass from now on adds what its gates drew."""
    gates = gates_of(model)
    log: list[Gates] = []

    def watch(index: int, gate: sdm.StochasticResidual) -> Callable[..., Any]:
        draw = gate._draw

        def drawn(batch: int) -> Any:
            rows = draw(batch)
            log[-1][index] = gate.last_share
            return rows

        return drawn

    model.register_forward_pre_hook(lambda *_: log.append([1.0] * len(gates)))
    for index, gate in enumerate(gates):
        gate._draw = watch(index, gate)
    return log


def _taken_out(args: argparse.Namespace, survival: Gates) -> tuple[nn.Module, list[Gates]]:
    """A network without gates, from which other blocks are missing in each pass: what no gate of a batch can beat."""
    model = next(iter(baselines(args).values()))
    blocks = _blocks(model)
    log: list[Gates] = []

    def take_out(*_: Any) -> None:
        log.append([float(p == 1 or draw_batch(p)) for p in survival])  # the gates of `ours, batch`
        for block, survives in zip(blocks, log[-1], strict=True):
            block.forward = partial(_whole if survives else _shortcut, block)  # type: ignore[method-assign]

    model.register_forward_pre_hook(take_out)
    return model, log


def blocks_apart(args: argparse.Namespace) -> tuple[nn.Module, list[Gates]]:
    """A network cut behind the stem and behind each block, without gates: what no gate of rows can beat.

    Each block runs on the first rows of an input of its own, as many as the gates of ``ours, row`` leave. No row is
    picked or added back, and the shortcut sees no other rows either.
    """
    survival = sdm.survival_probs(ours(args, args.p_last))
    model = next(iter(baselines(args).values()))
    blocks = _blocks(model)
    inputs, features = _features(model, blocks, args)
    log: list[Gates] = []
    ends: list[Tensor] = []  # what the loss does not reach through the classifier

    def draw(*_: Any) -> None:
        batch = args.batch_size
        log.append([1.0 if p == 1 else count_rows(draw_rows("row", p, batch)) / batch for p in survival])

    def alone(index: int, x: Tensor) -> Tensor:
        if index == 0:
            ends.append(x)
        kept = round(log[-1][index] * args.batch_size)
        if kept:
            ends.append(_whole(blocks[index], inputs[index][:kept].detach().requires_grad_()))
        return features

    def join(_: nn.Module, __: Any, logits: Tensor) -> Tensor:
        total = logits + sum(_End.apply(end) for end in ends)
        ends.clear()
        return total

    for index, block in enumerate(blocks):
        block.forward = partial(alone, index)  # type: ignore[method-assign]
    model.register_forward_pre_hook(draw)
    model.register_forward_hook(join)
    return model, log


class _End(torch.autograd.Function):
    """Where a block ends: 0, with half the sum of squares of ``x`` in its place in the backward pass.

    That gradient is ``x`` itself, in its own memory format, and costs nothing.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x


def _features(model: nn.Module, blocks: list[nn.Module], args: argparse.Namespace) -> tuple[list[Tensor], Tensor]:
    """What enters each block, and what leaves the last one."""
    seen: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(lambda _, __, out: seen.append(out)))
    with torch.no_grad(), precision(args):
        model(images(args))
    for hook in hooks:
        hook.remove()
    return seen[:-1], seen[-1]


def _blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, (BasicBlock, Bottleneck))]


def _whole(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    return (BasicBlock if isinstance(block, BasicBlock) else Bottleneck).forward(block, x)  # type: ignore[arg-type]


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    """A ReLU behind a ReLU would change nothing."""
    return x if block.downsample is None else torch.relu(block.downsample(x))


def _masked(args: argparse.Namespace, survival: Gates) -> dict[str, nn.Module]:
    """What computes every branch and masks it: our own drop-path, torchvision's, and timm's, on the same network."""
    masks: dict[str, Callable[[float], nn.Module]] = {
        "torchvision.ops, row": lambda p: torchvision.ops.StochasticDepth(1 - p, "row"),
        "torchvision.ops, batch": lambda p: torchvision.ops.StochasticDepth(1 - p, "batch"),
    }
    if TimmDropPath is None:
        print("timm is not installed: its drop_path is left out")
    else:
        masks["timm drop_path"] = lambda p: TimmDropPath(1 - p)
    masked = {"masked twin": put_masks(ours(args, 1.0), survival, sdm.DropPath)}
    for name, mask in masks.items():
        masked[name] = put_masks(next(iter(baselines(args).values())), survival, mask)
    return masked


def put_masks(model: nn.Module, survival: Gates, mask: Callable[[float], nn.Module]) -> nn.Module:
    """Put a mask where timm has it: behind the last normalisation of each branch."""
    for block, survival_prob in zip(_blocks(model), survival, strict=True):
        last = "bn3" if isinstance(block, Bottleneck) else "bn2"
        block.add_module(last, nn.Sequential(block.get_submodule(last), mask(survival_prob)))
    return model


def _build(args: argparse.Namespace, name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)  # the same weights for every model
    model = torchvision.models.get_model(name, **options)
    return model.to(args.device, memory_format=FORMATS[args.memory_format])


def _is_ours_alone(args: argparse.Namespace) -> bool:
    return args.model not in torchvision.models.list_models(module=torchvision.models)
