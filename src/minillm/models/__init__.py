"""The model families by their `model_type`. A family is one file and one line here."""

from types import ModuleType
from typing import Any

from minillm.models import gpt2
from minillm.models.gpt2 import GPT2, GPT2Config

FAMILIES: dict[str, tuple[ModuleType, Any, Any]] = {
    gpt2.MODEL_TYPE: (gpt2, GPT2Config, GPT2),
}

__all__ = ["FAMILIES", "GPT2", "GPT2Config"]
