"""A vocabulary of whole words: names of things, in texts that are sequences of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .reading import Document
from .tokenizer_json import added_token, whole_document
from .words import count_pieces

UNKNOWN = "[UNK]"
PRE_TOKENIZER: Document = {"type": "WhitespaceSplit"}
NO_PREFIX = " "  # of the pieces inside a word: no word begins with it, so that there are none
LONGEST_WORD = 1 << 20


def word_document(
    texts: Iterable[str], vocab_size: int | None, special_tokens: Sequence[str]
) -> Document:
    """The tokenizer.json of the words of such texts, by WordPiece without pieces.

    Words are what stands between white space, the most frequent first (the smaller one among
    equals); all of them, or as many as make a vocabulary of `vocab_size` with [UNK], which stands
    for every other word, and the control tokens. ValueError for a size that leaves no room.
    """
    specials = [UNKNOWN, *special_tokens]
    words = count_pieces(texts, None, PRE_TOKENIZER)
    for token in specials:
        words.pop(token, None)
    room = len(words) if vocab_size is None else vocab_size - len(specials)
    if room < 1:
        raise ValueError(
            f"tokenizer: a word vocabulary of {vocab_size} for {len(words)} words, at least "
            f"{len(specials) + 1} with 1 word are needed"
        )
    tokens = [*specials, *_frequent(words)[:room]]
    return whole_document(
        [added_token(token, id, True) for id, token in enumerate(specials)],
        None,
        PRE_TOKENIZER,
        None,
        {"type": "WordPiece", "prefix": NO_PREFIX, "cleanup": False},
        {
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": NO_PREFIX,
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": {token: id for id, token in enumerate(tokens)},
        },
    )


def _frequent(words: Counter[str]) -> list[str]:
    return sorted(words, key=lambda word: (-words[word], word))
