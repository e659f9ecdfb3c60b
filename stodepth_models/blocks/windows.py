"""Maps of tokens cut into windows: attention that sees one window at a time."""

from collections.abc import Callable

from torch import Tensor, nn

Size = tuple[int, int]


def cut(grid: Tensor, size: Size) -> Tensor:
    """Return the windows of ``grid``, ``(N, H, W, C)``, as ``(N * windows, h, w, C)``; they divide it."""
    batch, height, width, channels = grid.shape
    rows, columns = size
    grid = grid.view(batch, height // rows, rows, width // columns, columns, channels)
    return grid.transpose(2, 3).contiguous().view(-1, rows, columns, channels)


def join(windows: Tensor, across: Size) -> Tensor:
    """Return the map that :func:`cut` has cut into windows, ``across[0]`` below and ``across[1]`` beside each other."""
    _, rows, columns, channels = windows.shape
    grid = windows.reshape(-1, *across, rows, columns, channels)
    return grid.transpose(2, 3).contiguous().view(-1, across[0] * rows, across[1] * columns, channels)


def in_windows(grid: Tensor, size: Size, attend: Callable[[Tensor], Tensor]) -> Tensor:
    """Return attention within windows.

    Args:
        grid: ``(N, H, W, C)``; zeros are put to its right and below until windows divide it.
        size: height and width of a window.
        attend: function of all windows, ``(N * windows, h, w, C)``, which may make them smaller.

    Returns:
        The map of what ``attend`` returns, which may be larger than that of ``grid``.
    """
    padding = (-grid.shape[1] % size[0], -grid.shape[2] % size[1])
    if any(padding):
        grid = nn.functional.pad(grid, (0, 0, 0, padding[1], 0, padding[0]))
    across = (grid.shape[1] // size[0], grid.shape[2] // size[1])
    return join(attend(cut(grid, size)), across)
