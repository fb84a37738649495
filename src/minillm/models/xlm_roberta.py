"""XLM-RoBERTa (Conneau et al. 2020): RoBERTa for a hundred languages, the same but for its name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from minillm.models.encoder_files import from_files, to_files
from minillm.models.family import Family
from minillm.models.roberta import NAMES, Roberta, RobertaConfig


@dataclass(frozen=True)
class XLMRobertaConfig(RobertaConfig):
    """As RobertaConfig, with transformers' other default."""

    model_type: ClassVar[str] = "xlm-roberta"
    family: ClassVar[str] = "XLMRoberta"

    vocab_size: int = 30522


FAMILY = Family(
    ("xlm-roberta",),
    XLMRobertaConfig,
    Roberta,
    partial(from_files, NAMES),
    partial(to_files, NAMES),
)
