"""Modules that skip work: a gated residual connection, a gated block, drop-path, and stages of blocks."""

from .drop_path import DropPath, drop_path
from .residual import StochasticDepthBlock, StochasticGate, StochasticResidual
from .stage import Stage

__all__ = ["DropPath", "Stage", "StochasticDepthBlock", "StochasticGate", "StochasticResidual", "drop_path"]
