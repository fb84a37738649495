"""The model families by their `model_type`. A family is one file and one line in `_FILES`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

from minillm import lazily
from minillm.models.family import Family

if TYPE_CHECKING:
    from minillm.models.bert import Bert, BertConfig
    from minillm.models.distilbert import DistilBert, DistilBertConfig
    from minillm.models.gpt2 import GPT2
    from minillm.models.gpt2_config import GPT2Config
    from minillm.models.llama import Llama, LlamaConfig
    from minillm.models.roberta import Roberta, RobertaConfig
    from minillm.models.t5 import T5
    from minillm.models.t5_config import T5Config
    from minillm.models.transformer import Transformer
    from minillm.models.transformer_config import TransformerConfig
    from minillm.models.xlm_roberta import XLMRobertaConfig

_FILES = {  # and the values of model_type that each opens
    "gpt2": ("gpt2",),
    "llama": ("llama", "mistral", "qwen2", "qwen3"),
    "bert": ("bert",),
    "roberta": ("roberta",),
    "xlm_roberta": ("xlm-roberta",),
    "distilbert": ("distilbert",),
    "t5": ("t5",),
    "transformer": ("transformer",),
}
_WHERE = {
    "Bert": "bert",
    "BertConfig": "bert",
    "DistilBert": "distilbert",
    "DistilBertConfig": "distilbert",
    "GPT2": "gpt2",
    "GPT2Config": "gpt2_config",
    "Llama": "llama",
    "LlamaConfig": "llama",
    "Roberta": "roberta",
    "RobertaConfig": "roberta",
    "T5": "t5",
    "T5Config": "t5_config",
    "Transformer": "transformer",
    "TransformerConfig": "transformer_config",
    "XLMRobertaConfig": "xlm_roberta",
}
__getattr__, __dir__ = lazily.names(__name__, _WHERE)


class _Families(MutableMapping[str, Family]):
    """Families by model_type; the file of one is imported when it is first asked for."""

    def __init__(self) -> None:
        self._found: dict[str, str | Family] = {
            kind: file for file, kinds in _FILES.items() for kind in kinds
        }

    def __getitem__(self, kind: str) -> Family:
        found = self._found[kind]
        if isinstance(found, str):
            found = self._found[kind] = importlib.import_module(f"{__name__}.{found}").FAMILY
        return found

    def __setitem__(self, kind: str, family: Family) -> None:
        self._found[kind] = family

    def __delitem__(self, kind: str) -> None:
        del self._found[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


FAMILIES: MutableMapping[str, Family] = _Families()

__all__ = [*_WHERE, "FAMILIES", "Family"]
