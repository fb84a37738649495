"""The model families by their `model_type`. A family is one file and one line here."""

from minillm.models import bert, distilbert, gpt2, roberta
from minillm.models.bert import Bert, BertConfig
from minillm.models.distilbert import DistilBert, DistilBertConfig
from minillm.models.family import Family
from minillm.models.gpt2 import GPT2, GPT2Config
from minillm.models.roberta import Roberta, RobertaConfig

FAMILIES: dict[str, Family] = {
    kind: module.FAMILY
    for module in (gpt2, bert, roberta, distilbert)
    for kind in module.FAMILY.model_types
}

__all__ = [
    "FAMILIES",
    "GPT2",
    "Bert",
    "BertConfig",
    "DistilBert",
    "DistilBertConfig",
    "Family",
    "GPT2Config",
    "Roberta",
    "RobertaConfig",
]
