"""Modules that skip work: a gated residual connection, a gated block, drop-path, and stages of blocks."""

from .functional import drop_path
from .residual import DropPath, StochasticResidual
from .stage import Stage
from .stochastic_gate import StochasticGate
from .whole_block import StochasticDepthBlock

__all__ = ["DropPath", "Stage", "StochasticDepthBlock", "StochasticGate", "StochasticResidual", "drop_path"]
