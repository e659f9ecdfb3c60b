"""How large a map is behind a pooling layer that a dropped branch did not call."""

from collections.abc import Sequence
from typing import Any


def pooled_size(size: Sequence[int], pool: Any) -> tuple[int, ...]:
    """Return the size of a map behind a convolution or pooling layer without dilation.

    Args:
        size: of the map in front of it, a number for each of its dimensions.
        pool: layer with ``kernel_size``, ``stride`` and ``padding``, each a number or one for each dimension.
    """
    settings = [_each(value, len(size)) for value in (pool.kernel_size, pool.stride, pool.padding)]
    behind: list[int] = []
    for length, kernel, stride, padding in zip(size, *settings, strict=True):
        behind.append((length + 2 * padding - kernel) // stride + 1)
    return tuple(behind)


def _each(value: Any, count: int) -> Sequence[int]:
    if isinstance(value, int):
        return [value] * count
    return value
