"""timm's residual blocks, by the full name of their class: timm is an optional dependency and is not imported here."""

from ..spec import BlockSpec
from .bottlenecks import BOTTLENECKS
from .byobnets import BYOBNETS
from .class_attention import CLASS_ATTENTION
from .convnets import CONVNETS
from .hybrids import HYBRIDS
from .inverted import INVERTED
from .pooled import POOLED
from .pyramids import PYRAMIDS
from .resnets import RESNETS
from .transformers import TRANSFORMERS

TIMM_BLOCKS: dict[str, BlockSpec] = {}
_CONVOLUTIONS = (RESNETS, BOTTLENECKS, CONVNETS, BYOBNETS, INVERTED)
_ATTENTION = (TRANSFORMERS, CLASS_ATTENTION, PYRAMIDS, POOLED, HYBRIDS)
for _family in (*_CONVOLUTIONS, *_ATTENTION):
    for _name, _spec in _family.items():
        TIMM_BLOCKS[f"timm.models.{_name}"] = _spec
