"""The devices and processes that a run computes on."""

import resource
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, LoggerType
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ...checks import did_you_mean
from ..errors import SettingsError

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def make_accelerator(
    cpu: bool, precision: str, trackers: Sequence[str] = (), folder: Path | None = None
) -> Accelerator:  # fmt: skip
    """Return Accelerate's view of the devices and processes that this process was launched with.

    Raises:
        SettingsError: a tracker is unknown or not installed, float16 on a CPU, or launched for FSDP, DeepSpeed or
            Megatron-LM.
    """
    _check_trackers(trackers)
    cpu = cpu or not torch.accelerator.is_available()
    if cpu and precision == "fp16":
        raise SettingsError("precision=fp16 needs a GPU: take bf16, or no, on a CPU")
    accelerator = Accelerator(
        cpu=cpu, mixed_precision=precision, log_with=list(trackers) or None,
        project_dir=folder, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
    )  # fmt: skip
    if accelerator.distributed_type in _SHARDED:
        raise SettingsError(
            f"{accelerator.distributed_type.value} shards a model over GPUs, which checkpoints here cannot resume: "
            "launch with torchrun; every model of the zoo fits on one GPU"
        )
    return accelerator


def _check_trackers(trackers: Sequence[str]) -> None:
    known = [kind.value for kind in LoggerType if kind is not LoggerType.ALL]
    available = {kind.value for kind in get_available_trackers()}
    for name in trackers:
        if name not in known:  # before anybody installs a package of a mistyped name
            message = f"trackers must be of {', '.join(known)}, got {name}"
            hint = did_you_mean(name, known)
            if hint:
                message += f"; {hint}"
            raise SettingsError(message)
        if name not in available:
            raise SettingsError(f"trackers: {name} not installed: pip install it, or leave it out")


def free_group_last(model: nn.Module) -> None:
    """Let a DistributedDataParallel model free its reducer before its process group.

    A reducer that is the group's last owner waits for gloo's threads with Python's lock held. With torch 2.11 they need
    that lock to free their tensors, and the process hangs after its last line.
    """
    if isinstance(model, DistributedDataParallel):
        vars(model)["group_until_last"] = model.process_group  # attributes are freed in the order they were set in


def any_process(accelerator: Accelerator, *flags: bool) -> tuple[bool, ...]:
    """Return for each flag whether any process has raised it; all processes must call."""
    if accelerator.num_processes == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return tuple((accelerator.reduce(votes, "sum") > 0).tolist())


def peak_memory(device: torch.device) -> float:
    """Return the peak in MiB: of tensors on a GPU, of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def device_name(device: torch.device) -> str:
    """Name for the record of a run."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
