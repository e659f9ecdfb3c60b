"""Tensors of a checkpoint that are copied into a model: dense ones with values of their own."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import CheckpointError
from .opcodes import FREE_VALUES


def check_dense(key: str, tensor: Tensor, name: str, dtype: torch.dtype) -> None:
    """Make sure that a tensor holds the values of a weight.

    Args:
        key: its name.
        tensor: the tensor.
        name: what messages call the file.
        dtype: of the weight in the model.

    Raises:
        CheckpointError: it is sparse, quantised, complex, of integers for a weight of reals, on the meta device, of a
            class that keeps its values elsewhere, or larger than the memory that it stands for.
    """
    # A class that handles the operations itself, as those of quantised and distributed tensors do.
    handles_operations = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    if handles_operations:
        raise CheckpointError(
            f"{name}: {key} must be a dense tensor of {dtype}, got a {type(tensor).__name__}: turn it into a plain one "
            "before saving (dequantize() of quantised, full_tensor() of distributed tensors)"
        )
    reason = _why_not_dense(tensor, dtype)
    if reason is not None:
        raise CheckpointError(f"{name}: {key} must be a dense tensor of {dtype}, got {reason}")
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > max(held, FREE_VALUES):
        raise CheckpointError(
            f"{name}: {key} {tuple(tensor.shape)} is declared over the {held:,} values that there are"
        )


def _why_not_dense(tensor: Tensor, dtype: torch.dtype) -> str | None:
    """What a tensor is that no weight can be, and the next step; None where it is dense."""
    if tensor.is_meta:
        return "one on the meta device, which holds no values: save the model after its weights were loaded"
    if tensor.is_quantized:
        return f"a quantised one of {tensor.dtype}: call dequantize() before saving"
    if tensor.layout != torch.strided:
        return f"one of layout {tensor.layout}: call to_dense() before saving"
    if tensor.is_complex() or (dtype.is_floating_point and not tensor.is_floating_point()):
        return f"{tensor.dtype}: give the weights in floating point, as they were before they were converted"
    return None


def as_weight(tensor: Tensor, target: Tensor) -> Tensor:
    """Return a tensor in the dtype of the model's, so that nothing is rounded before a scale is folded in."""
    return tensor.as_subclass(Tensor).to(target.dtype)


def warn_of_nan(state: Mapping[str, Tensor], name: str, stacklevel: int) -> None:
    """Count values that are nan or infinite in a warning.

    Args:
        state: dense tensors by name.
        name: what the warning calls the file.
        stacklevel: as in ``warnings.warn``, for the caller of this function.
    """
    counts: dict[str, int] = {}
    for key, tensor in state.items():
        if tensor.is_floating_point():
            bad = int((~tensor.isfinite()).sum())
            if bad:
                counts[key] = bad
    if counts:
        warnings.warn(
            f"{name}: {sum(counts.values())} values in {len(counts)} of {len(state)} tensors are nan or infinite, "
            f"first in {next(iter(counts))}",
            stacklevel=stacklevel + 1,
        )
