"""The model families by their `model_type`. A family is one file and one line here."""

from minillm.models import gpt2
from minillm.models.family import Family
from minillm.models.gpt2 import GPT2, GPT2Config

FAMILIES: dict[str, Family] = {
    kind: module.FAMILY for module in (gpt2,) for kind in module.FAMILY.model_types
}

__all__ = ["FAMILIES", "GPT2", "Family", "GPT2Config"]
