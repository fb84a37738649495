"""One tokenizer for both sides of a translation, which ends each text with an end token."""

from __future__ import annotations

from collections.abc import Iterable

from minillm import tokenizers
from minillm.tokenizers import Tokenizer
from minillm.tokenizers.description import Description
from minillm.tokenizers.loading import from_document
from minillm.tokenizers.post_processors import around

KINDS = ("bpe", "unigram")
ROLES = {"pad": "<pad>", "eos": "</s>"}


def learn(kind: str, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of the texts of both sides; `encode` with special tokens ends with </s>."""
    specials = tuple(ROLES.values())
    learnt = tokenizers.train(kind, texts, vocab_size=vocab_size, special_tokens=specials)
    document = learnt.to_dict()
    names = {id: name for name, id in learnt.special_tokens.items()}
    end = learnt.special_tokens[ROLES["eos"]]
    document["post_processor"] = around([], [end]).document(names)
    roles = ROLES | ({"unk": "<unk>"} if "<unk>" in learnt.special_tokens else {})
    return from_document(document, Description({}, roles, [], None))
