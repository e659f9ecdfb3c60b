"""Modules that skip work: a gated residual connection, a gated block, drop-path, and stages of blocks."""

from .drop_path import DropPath, drop_path
from .recompute import Stage
from .residual import StochasticGate, StochasticResidual
from .whole_block import StochasticDepthBlock

__all__ = ["DropPath", "Stage", "StochasticDepthBlock", "StochasticGate", "StochasticResidual", "drop_path"]
