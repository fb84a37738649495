"""Making a tokenizer from texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from minillm.quantities import counted

from .bpe import BPETokenizer
from .bpe_training import Progress, count_words, learn_merges
from .byte import ByteTokenizer
from .byte_alphabet import spell
from .char import CharTokenizer
from .tokenizer import END_OF_TEXT, Tokenizer, check_text, default_eos
from .tokenizer_json import check_special_tokens

KINDS = ("byte", "char", "bpe")  # those that give back any text as it was
OTHER_KINDS = ("wordpiece", "unigram", "word")


def train(
    kind: str,
    texts: Iterable[str],
    *,
    vocab_size: int | None = None,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    byte_fallback: bool | None = None,
    lowercase: bool = True,
    progress: Progress | None = None,
) -> Tokenizer:
    """A tokenizer for such texts, of the kind "byte", "char", "bpe" or one of OTHER_KINDS.

    `texts` are chunks of one text: where they are cut makes no difference, nor does anything but
    their content. `vocab_size` counts everything, control tokens included.

    byte   needs no text (`texts` is not read) and no `vocab_size`.
    char   one id for each distinct character. With byte fallback also 256 byte tokens, and of the
           characters only as many as fit, the most frequent (the smaller code point among equals).
           byte_fallback=None means: only if `vocab_size` is too small for all the characters.
    bpe    `vocab_size` is the size aimed at; a text too small to fill it gives a smaller one, with
           no merge of a pair that occurs once. `progress(done, total)` follows the merges.

    wordpiece  BERT's: lower case without accents unless `lowercase` is False, words of its own
           control tokens [PAD], [UNK], [CLS], [SEP], [MASK] (`special_tokens` are not asked for).
    unigram    the most probable cut into pieces, spaces as U+2581; what has no piece is spelled in
           bytes. `vocab_size` is the most there may be, as it is for wordpiece.

    word       whole words between white space, all or the most frequent; others are [UNK].

    Raises ValueError for an unknown kind, a size that cannot be, options of another kind, lone
    surrogates; TypeError for chunks that are not str.
    """
    check_special_tokens(special_tokens)
    known = (*KINDS, *OTHER_KINDS)
    if kind not in known:
        raise ValueError(f"tokenizer: tokenizer kind {kind!r}, one of {', '.join(known)} is needed")
    if kind != "char" and byte_fallback is not None:
        raise ValueError(f"tokenizer: byte_fallback is of kind 'char', kind {kind!r} has none")
    if kind == "byte":
        return _byte(vocab_size, special_tokens)
    if kind == "char":
        return _char(_checked(texts), vocab_size, special_tokens, byte_fallback)
    if kind == "bpe":
        return _bpe(_checked(texts), vocab_size, special_tokens, progress)
    return _pipeline(kind, _checked(texts), vocab_size, special_tokens, lowercase, progress)


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        check_text("tokenizer", text)
        yield text


def _byte(vocab_size: int | None, special_tokens: Sequence[str]) -> ByteTokenizer:
    size = 256 + len(special_tokens)
    if vocab_size not in (None, size):
        raise ValueError(
            f"tokenizer: a vocabulary of {counted(vocab_size, 'byte')}, it always has {size:,}"
        )
    return ByteTokenizer(special_tokens)


def _char(
    texts: Iterable[str],
    vocab_size: int | None,
    special_tokens: Sequence[str],
    byte_fallback: bool | None,
) -> CharTokenizer:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    needed = len(counts) + len(special_tokens)
    if byte_fallback is None:
        byte_fallback = vocab_size is not None and needed > vocab_size
    room = len(counts) if vocab_size is None else vocab_size - len(special_tokens)
    if byte_fallback and vocab_size is not None:
        room -= 256
    if room < 0 or (not byte_fallback and room < len(counts)):
        least = 256 + len(special_tokens)
        raise ValueError(
            f"tokenizer: {len(counts)} distinct characters and {len(special_tokens)} control "
            f"tokens in a vocabulary of {vocab_size}, {needed} are needed, or {least} with byte "
            "fallback"
        )
    if not counts and not byte_fallback:
        raise ValueError("tokenizer: the text is empty, a character vocabulary needs some text")
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    return CharTokenizer.from_characters(frequent[:room], special_tokens, byte_fallback)


def _bpe(
    texts: Iterable[str],
    vocab_size: int | None,
    special_tokens: Sequence[str],
    progress: Progress | None,
) -> BPETokenizer:
    least = 256 + len(special_tokens)
    if vocab_size is None or vocab_size < least:
        raise ValueError(
            f"tokenizer: a bpe vocabulary of {vocab_size}, at least {least} are needed"
        )
    merges = learn_merges(count_words(texts), vocab_size - least, progress)
    lines = [f"{spell(left)} {spell(right)}" for left, right in merges]
    return BPETokenizer.from_merges(lines, special_tokens)


def _pipeline(
    kind: str,
    texts: Iterable[str],
    vocab_size: int | None,
    special_tokens: Sequence[str],
    lowercase: bool,
    progress: Progress | None,
) -> Tokenizer:
    from .description import Description
    from .loading import from_document
    from .unigram_training import UNKNOWN, unigram_document
    from .word_piece_training import ROLES, word_piece_document
    from .word_training import UNKNOWN as UNKNOWN_WORD
    from .word_training import word_document

    eos = default_eos(special_tokens)
    ending = {} if eos is None else {"eos": eos}
    if kind == "word":
        document = word_document(texts, vocab_size, special_tokens)
        roles = {"unk": UNKNOWN_WORD} | ending
    elif vocab_size is None or vocab_size < 1:
        raise ValueError(f"tokenizer: a {kind} vocabulary of {vocab_size}, 1 or more is needed")
    elif kind == "wordpiece":
        document, roles = word_piece_document(texts, vocab_size, lowercase, progress), dict(ROLES)
    else:
        document = unigram_document(texts, vocab_size, special_tokens, progress)
        roles = {"unk": UNKNOWN} | ending
    return from_document(document, Description({}, roles, [], None))
