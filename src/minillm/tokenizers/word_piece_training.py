"""Learning a WordPiece vocabulary and the tokenizer around it, as BERT has them.

Pieces are joined by the frequency of their pairs, as Hugging Face's trainer does it; how Google
chose BERT's was not published. Source of the form: Devlin et al. 2018.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .bpe_training import Progress, merge_pairs
from .models import WORD_PIECE_DEFAULTS
from .reading import Document
from .tokenizer_json import added_token, whole_document
from .words import count_pieces

ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
SPECIALS = tuple(ROLES.values())
PREFIX = str(WORD_PIECE_DEFAULTS["continuing_subword_prefix"])
LONGEST_WORD = int(WORD_PIECE_DEFAULTS["max_input_chars_per_word"])
MOST_CHARACTERS = 1000
PRE_TOKENIZER: Document = {"type": "BertPreTokenizer"}


def word_piece_document(
    texts: Iterable[str], vocab_size: int, lowercase: bool, progress: Progress | None
) -> Document:
    """The tokenizer.json of a vocabulary for texts like these, at most `vocab_size` tokens.

    The 1,000 most frequent characters are known; a word with another one is [UNK]. Raises
    ValueError for a size that the characters and control tokens alone fill.
    """
    normalizer: Document = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": lowercase,
    }
    words = count_pieces(texts, normalizer, PRE_TOKENIZER)
    tokens = [*SPECIALS, *_pieces(words, vocab_size - len(SPECIALS), progress)]
    cls, sep = SPECIALS.index("[CLS]"), SPECIALS.index("[SEP]")
    return whole_document(
        [added_token(token, id, True) for id, token in enumerate(SPECIALS)],
        normalizer,
        PRE_TOKENIZER,
        {"type": "BertProcessing", "sep": ["[SEP]", sep], "cls": ["[CLS]", cls]},
        {"type": "WordPiece", "prefix": PREFIX, "cleanup": True},
        {
            "type": "WordPiece",
            **WORD_PIECE_DEFAULTS,
            "vocab": {token: id for id, token in enumerate(tokens)},
        },
    )


def _pieces(words: Counter[str], room: int, progress: Progress | None) -> list[str]:
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    frequent = sorted(characters, key=lambda one: (-characters[one], one))[:MOST_CHARACTERS]
    known = set(frequent)
    spelled = [
        ([word[0], *(PREFIX + character for character in word[1:])], count)
        for word, count in words.items()
        if len(word) <= LONGEST_WORD and known.issuperset(word)
    ]
    alphabet = sorted({symbol for symbols, _ in spelled for symbol in symbols})
    if len(alphabet) > room:
        raise ValueError(
            f"tokenizer: a wordpiece vocabulary of {room + len(SPECIALS)}, at least "
            f"{len(alphabet) + len(SPECIALS)} are needed for the characters"
        )
    places = {symbol: place for place, symbol in enumerate(alphabet)}
    numbered = (([places[symbol] for symbol in symbols], count) for symbols, count in spelled)
    merges = merge_pairs(alphabet, numbered, _join, room - len(alphabet), progress)
    return list(dict.fromkeys([*alphabet, *(_join(left, right) for left, right in merges)]))


def _join(left: str, right: str) -> str:
    return left + right.removeprefix(PREFIX)
