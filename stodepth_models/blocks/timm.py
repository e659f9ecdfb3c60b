"""timm's residual blocks, by the full name of their class: timm is an optional dependency and is not imported here."""

from .spec import BlockSpec
from .timm_convnets import CONVNETS
from .timm_inverted import INVERTED
from .timm_resnets import RESNETS
from .timm_transformers import TRANSFORMERS

TIMM_BLOCKS: dict[str, BlockSpec] = {}
for _family in (RESNETS, CONVNETS, INVERTED, TRANSFORMERS):
    for _name, _spec in _family.items():
        TIMM_BLOCKS[f"timm.models.{_name}"] = _spec
