"""Drop-path: a mask on rows that have been computed (Larsson et al., arXiv:1605.07648)."""

import torch
import torch.fx
from torch import Tensor, nn

from ..checks import check_probability

torch.fx.wrap("drop_path")  # one node of an FX graph, which would freeze its draw


def drop_path(x: Tensor, keep_prob: float = 1.0, inplace: bool = False) -> Tensor:
    """Zero random rows of ``x`` and divide the others by ``keep_prob`` (Larsson et al., arXiv:1605.07648).

    One independent gate a row, scaled in training. The branch that made ``x`` has been computed by then; where it can
    be given as a function, :class:`StochasticResidual` saves that work.

    Args:
        x: ``(N, ...)``, floating point, at least one dimension.
        keep_prob: chance in ``[0, 1]`` that a row is kept; 0 gives zeros. Drawn from the default CPU generator.
        inplace: overwrite ``x``.

    Returns:
        Same shape, dtype and device. A dropped row is exactly zero, whatever it held.

    Raises:
        TypeError: ``keep_prob`` is no number, or ``x`` is no tensor.
        ValueError: ``keep_prob`` outside ``[0, 1]`` or nan, or ``x`` without rows.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> rows = sdm.drop_path(torch.ones(1000, 1), keep_prob=0.8)
        >>> rows.unique().tolist()  # dropped, and kept and divided by 0.8
        [0.0, 1.25]
    """
    keep_prob = check_probability("keep_prob", keep_prob)
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}")
    if x.dim() == 0:
        raise ValueError("x must have a dimension of rows, (N, ...), got a tensor of no dimension")
    if keep_prob == 1.0:
        return x
    dropped = torch.rand(x.shape[0], dtype=torch.float64, device="cpu") >= keep_prob
    shape = (-1,) + (1,) * (x.dim() - 1)
    dropped = dropped.to(x.device, non_blocking=True).view(shape)
    divisor = keep_prob or 1.0  # at 0 every row is zeroed
    # A division rounds once; a factor of 1 / keep_prob would be rounded to the dtype of `x` first.
    if inplace:
        scaled = x.div_(divisor)
    else:
        scaled = x / divisor
    # A mask as a factor would turn an inf of a dropped row into nan.
    return scaled.masked_fill_(dropped, 0.0)


class DropPath(nn.Module):
    """Zero random rows in training (Larsson et al., arXiv:1605.07648); see :func:`drop_path`.

    Args:
        p: chance in ``[0, 1]`` that a row is *kept*.
        inplace: overwrite the input.

    Raises:
        TypeError: ``p`` is no number.
        ValueError: ``p`` outside ``[0, 1]`` or nan.

    Examples:
        >>> import torch, stodepth_models as sdm
        >>> layer = sdm.DropPath(p=0.8).eval()
        >>> layer(torch.ones(2, 1)).tolist()
        [[1.0], [1.0]]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = check_probability("p", p)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        """Return ``drop_path(x, p)`` in training, ``x`` in evaluation; ``x`` is ``(N, ...)``."""
        if not self.training:
            return x
        return drop_path(x, self.p, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}, inplace={self.inplace}"
