"""Each token from those before it: a GPT-2."""

from __future__ import annotations

from typing import Any

from minillm.data import Facts
from minillm.models import GPT2, GPT2Config
from minillm.tokenizers import Tokenizer
from minillm.tokenizers.tokenizer import END_OF_TEXT
from minillm.tokenizers.training import KINDS
from minillm.training.language import LanguageModelling
from minillm.training.plan import SHORT_TEXT
from minillm.training.pretraining import Pretraining
from minillm.training.settings import Settings

MANY_CHARACTERS = 512


def choose_tokenizer(settings: Settings, facts: Facts) -> str:
    if facts.bytes >= SHORT_TEXT or settings.vocab_size is not None:
        return "bpe"
    return "char" if facts.distinct_characters <= MANY_CHARACTERS else "byte"


def specials(kind: str, facts: Facts) -> tuple[str, ...]:
    return (END_OF_TEXT,) if facts.documents > 1 or kind != "char" else ()


def check(settings: Settings, tokenizer: Tokenizer) -> None:
    if settings.prompt is None:
        return
    try:
        length = len(tokenizer.encode(settings.prompt))
    except ValueError as error:
        raise ValueError(f"prompt: {error}") from error
    assert settings.context is not None
    least = 1 if tokenizer.eos_id is None else 0
    if not least <= length <= settings.context:
        raise ValueError(
            f"prompt: {length} tokens, {least} to {settings.context} (the context) are needed"
        )


def config_of(settings: Settings, tokenizer: Tokenizer) -> GPT2Config:
    s: Any = settings
    return GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=s.context,
        n_embd=s.width,
        n_layer=s.layers,
        n_head=s.heads,
        dropout=s.dropout or 0.0,
        eos_token_id=tokenizer.eos_id,
    )


PRETRAINING = Pretraining(
    family="GPT-2",
    tokenizers=(*KINDS, "word"),
    choose_tokenizer=choose_tokenizer,
    specials=specials,
    check=check,
    config=config_of,
    model=GPT2,
    objective=LanguageModelling.of,
    next_command='generate {run} --prompt "..."',
)
