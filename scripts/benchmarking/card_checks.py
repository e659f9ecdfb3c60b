"""What a card could break: synchronisation at gates, equality with a CPU, ranks, and float16."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import stodepth_models as sdm
from stodepth_models.layers.draw import MODES, _cpu_group

from .checks import Finding, NotRunError
from .networks import Network

STEPS = 2
BATCH = 4
TOLERANCE = 1e-8  # of gradients in float64


def no_synchronisation(network: Network, device: str) -> Finding:
    """A forward and backward pass in training never waits for the card, in any mode."""
    if device == "cpu":
        raise NotRunError("needs CUDA")
    x = network.images(device)[:BATCH]
    labels = torch.zeros(len(x), dtype=torch.long, device=device)
    for mode in MODES:
        model = network.gated(mode).to(device, memory_format=network.memory_format).train()
        # The first passes prepare kernels, and may wait.
        for _ in range(STEPS):
            _loss(model, x, labels).backward()
        with waiting_is_an_error():
            for _ in range(STEPS):
                _loss(model, x, labels).backward()
    if not _is_waiting_refused(x):
        return Finding("x.sum().item() was not refused: this release does not watch for waits", passed=False)
    return Finding(f"{network.name}, modes {', '.join(MODES)}: {STEPS} passes each without a wait for the card")


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Within its context PyTorch raises a RuntimeError where the CPU would wait for the card."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _is_waiting_refused(x: Tensor) -> bool:
    try:
        with waiting_is_an_error():
            x.sum().item()
    except RuntimeError:
        return True
    return False


def same_as_on_a_cpu(device: str) -> Finding:
    """With the same seed, gates, outputs and gradients are those of a CPU, in float64."""
    if device == "cpu":
        raise NotRunError("needs CUDA")
    largest = 0.0
    for mode in MODES:
        on_cpu, on_card = _small(mode).double(), _small(mode).double().to(device)
        x, labels = torch.randn(BATCH, 3, 16, 16, dtype=torch.float64), torch.arange(BATCH)
        torch.manual_seed(0)
        _loss(on_cpu, x, labels).backward()
        torch.manual_seed(0)
        _loss(on_card, x.to(device), labels.to(device)).backward()
        for expected, actual in zip(on_cpu.parameters(), on_card.parameters(), strict=True):
            if (expected.grad is None) != (actual.grad is None):
                return Finding(f"mode {mode}: other gates than on the CPU", passed=False)
            if expected.grad is not None and actual.grad is not None:
                largest = max(largest, (expected.grad - actual.grad.cpu()).abs().max().item())
    reason = f"modes {', '.join(MODES)}: gradients differ from those of the CPU by {largest:.1e} at most"
    return Finding(reason, passed=largest < TOLERANCE)


def one_rank(device: str) -> Finding:
    """DistributedDataParallel on one rank gives the gradients of the bare model, and zeros for dropped branches."""
    backend = "gloo" if device == "cpu" else "nccl"
    if not dist.is_available():
        raise NotRunError("needs torch.distributed")
    with process_group(backend):
        for mode in MODES:
            bare, wrapped = _small(mode).double().to(device), _small(mode).double().to(device)
            parallel = DistributedDataParallel(wrapped)
            for step in range(STEPS):
                difference = _compare_gradients(bare, parallel, device, step)
                if difference > TOLERANCE:
                    return Finding(f"mode {mode}: gradients differ by {difference:.1e}", passed=False)
        # What sync_gates=True draws with: a group that carries tensors of the CPU, beside NCCL.
        seed = torch.tensor([7])
        dist.broadcast(seed, src=0, group=_cpu_group())
    return Finding(f"{backend}, one rank, modes {', '.join(MODES)}: gradients are those of the bare model")


@contextmanager
def process_group(backend: str) -> Iterator[None]:
    """A default process group of this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "rendezvous").as_uri()
        dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _compare_gradients(bare: nn.Module, parallel: nn.Module, device: str, step: int) -> float:
    """Run a step of both with the same gates, and return the largest difference between their gradients."""
    x, labels = torch.randn(BATCH, 3, 16, 16, device=device).double(), torch.arange(BATCH, device=device)
    for model in (bare, parallel):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(step)
        _loss(model, x, labels).backward()
    largest = 0.0
    for expected, actual in zip(bare.parameters(), parallel.parameters(), strict=True):
        if actual.grad is None:
            return float("inf")
        of_bare = torch.zeros_like(expected) if expected.grad is None else expected.grad
        largest = max(largest, (of_bare - actual.grad).abs().max().item())
    return largest


def float16(device: str) -> Finding:
    """GradScaler steps a model with dropped branches, and skips a step whose gradients overflow."""
    for mode in MODES:
        model = _small(mode).to(device)
        if not _steps_are_taken(model, device, scale=2.0**10):
            return Finding(f"mode {mode}: a step was not taken, or left weights that are not finite", passed=False)
        sdm.set_survival_probs(model, 0.0)
        if not _steps_are_taken(model, device, scale=2.0**10):
            return Finding(f"mode {mode}: with every branch dropped a step was not taken", passed=False)
        sdm.set_survival_probs(model, 0.5)
        if _steps_are_taken(model, device, scale=2.0**60):
            return Finding(f"mode {mode}: gradients that overflow were not skipped", passed=False)
    return Finding(f"modes {', '.join(MODES)}: steps are taken, and skipped where gradients overflow")


def _steps_are_taken(model: nn.Module, device: str, scale: float) -> bool:
    """Whether some steps under float16 autocast all move the classifier and leave finite weights."""
    scaler = torch.amp.GradScaler(device, init_scale=scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, labels = torch.randn(BATCH, 3, 16, 16, device=device), torch.arange(BATCH, device=device)
    weight: Any = model.fc.weight
    for _ in range(STEPS):
        before = weight.detach().clone()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.float16):
            loss = _loss(model, x, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if torch.equal(before, weight):
            return False
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def _small(mode: str) -> nn.Module:
    torch.manual_seed(0)
    return sdm.cifar_resnet20_stodepth_lineardecay(prob_0_L=(1.0, 0.2), mode=mode)


def _loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(model(x), labels)
