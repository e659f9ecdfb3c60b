"""Residual blocks of Hugging Face transformers' vision models, by the full names of their classes; imports nothing.

Their layers take keyword arguments, and some return a tuple. Most have one drop-path module for two connections.
"""

from ..spec import BlockSpec
from .convolutions import CONVOLUTIONS
from .encoders import ENCODERS
from .maps import MAPS
from .pyramids import PYRAMIDS
from .swin import SWINS

TRANSFORMERS_BLOCKS: dict[str, BlockSpec] = {**CONVOLUTIONS, **ENCODERS, **MAPS, **PYRAMIDS, **SWINS}
