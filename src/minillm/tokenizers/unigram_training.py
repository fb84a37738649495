"""Learning a unigram vocabulary: many pieces at first, then the least useful ones go.

Source: Kudo 2018 (subword regularization, section 3.2): expectation and maximisation give each
piece its probability, and a share of the pieces whose absence costs the least likelihood is
dropped, again and again. Kudo and Richardson 2018 (SentencePiece): the digamma function in the
second step drives the probabilities of rare pieces towards 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from .bpe_training import Progress
from .character_merging import BYTE_TOKENS
from .reading import Document
from .tokenizer_json import added_token, whole_document
from .words import count_pieces

UNKNOWN, MARK = "<unk>", "▁"
LONGEST_PIECE, LONGEST_WORD = 16, 32
SEEDS_PER_PIECE, LEAST_SEEDS = 10, 10_000
SHRINK, ROOM, ROUNDS = 0.75, 1.1, 2
LEAST_EXPECTED = 0.5
NEVER = -1e4  # the score of tokens that no text may become while it has other pieces
MOST_CHARACTERS = 4000
_RUN = re.compile(rf"{MARK}?[^\W\d_]+|{MARK}?\d+|\n+|{MARK}?[^\w\n{MARK}]+|{MARK}|_+")
PRE_TOKENIZER: Document = {
    "type": "Metaspace", "replacement": MARK, "prepend_scheme": "never", "split": True,
}  # fmt: skip


def unigram_document(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: Iterable[str],
    progress: Progress | None,
) -> Document:
    """The tokenizer.json of a vocabulary for texts like these, at most `vocab_size` tokens.

    The 4,000 most frequent characters are known, others are spelled in bytes, so that any text
    encodes, and nothing is normalised. The characters of the names of bytes are known too, so that
    a text that spells one is not taken for it. Raises ValueError for a size that characters and
    bytes fill.
    """
    specials = list(special_tokens)
    fixed = [UNKNOWN, *BYTE_TOKENS]
    words = _cut(count_pieces(texts, None, PRE_TOKENIZER))
    unseen = sorted(set("".join(fixed)).difference(*words))
    beside = len(fixed) + len(specials) + len(unseen)
    pieces = learn_pieces(words, vocab_size - beside, progress, beside)
    pieces += [(character, pieces[-1][1] if pieces else 0.0) for character in unseen]
    vocab = [[token, NEVER] for token in fixed] + [[piece, score] for piece, score in pieces]
    return whole_document(
        [
            added_token(UNKNOWN, 0, True),
            *(added_token(token, len(vocab) + at, True) for at, token in enumerate(specials)),
        ],
        None,
        PRE_TOKENIZER,
        None,
        {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True},
    )


def _cut(words: Counter[str]) -> Counter[str]:
    """Runs of letters, digits, line ends or other signs, of at most 32 characters."""
    runs: Counter[str] = Counter()
    for word, count in words.items():
        for run in _RUN.findall(word):
            for start in range(0, len(run), LONGEST_WORD):
                runs[run[start : start + LONGEST_WORD]] += count
    return runs


def learn_pieces(
    words: Mapping[str, int], size: int, progress: Progress | None = None, beside: int = 0
) -> list[tuple[str, float]]:
    """At most `size` pieces and their log-probabilities, the most probable first.

    The vocabulary holds `beside` others: ValueError unless it has room for the characters as well.
    """
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    frequent = sorted(characters, key=lambda one: (-characters[one], one))[:MOST_CHARACTERS]
    if size < len(frequent):
        raise ValueError(
            f"tokenizer: a unigram vocabulary of {size + beside:,}, at least "
            f"{len(frequent) + beside:,} are needed for the characters"
        )
    known = set(frequent)
    words = {word: count for word, count in words.items() if known.issuperset(word)}
    scores = _seeds(words, characters, frequent, max(LEAST_SEEDS, SEEDS_PER_PIECE * size))
    while True:
        for _ in range(ROUNDS):
            scores = _maximised(_expected(words, scores), known)
        if progress is not None:
            progress(size, max(size, len(scores)))
        if len(scores) <= ROOM * size:
            break
        target = max(size, int(SHRINK * len(scores)))
        scores = _pruned(scores, _expected(words, scores), known, target)
    ordered = sorted(scores, key=lambda piece: (piece not in known, -scores[piece], piece))[:size]
    return sorted(((piece, scores[piece]) for piece in ordered), key=lambda one: (-one[1], one[0]))


def _seeds(
    words: Mapping[str, int], characters: Counter[str], frequent: list[str], size: int
) -> dict[str, float]:
    """Frequent characters, and the parts of words that cover the most text; log-probabilities."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(len(word) - 1):
            for end in range(start + 2, min(len(word), start + LONGEST_PIECE) + 1):
                counts[word[start:end]] += count
    often = [(count * len(piece), piece) for piece, count in counts.items() if count > 1]
    often.sort(key=lambda one: (-one[0], one[1]))
    chosen = {piece: float(covered) for covered, piece in often[:size]}
    chosen |= {character: float(characters[character]) for character in frequent}
    total = math.log(sum(chosen.values()))
    return {piece: math.log(weight) - total for piece, weight in chosen.items()}


def _expected(words: Mapping[str, int], scores: Mapping[str, float]) -> defaultdict[str, float]:
    """How often each piece is used, over all ways to cut the words, each as likely as it is."""
    odds = {piece: math.exp(score) for piece, score in scores.items()}
    found: defaultdict[str, float] = defaultdict(float)
    for word, count in words.items():
        size = len(word)
        ahead, behind = [1.0, *[0.0] * size], [*[0.0] * size, 1.0]
        edges = []
        for start in range(size):
            so_far = ahead[start]
            for end in range(start + 1, min(size, start + LONGEST_PIECE) + 1):
                piece = word[start:end]
                chance = odds.get(piece)
                if chance is not None:
                    ahead[end] += so_far * chance
                    edges.append((start, end, piece, chance))
        share = count / ahead[size]
        for start, end, piece, chance in reversed(edges):
            rest = chance * behind[end]
            behind[start] += rest
            found[piece] += share * ahead[start] * rest
    return found


def _maximised(expected: Mapping[str, float], required: set[str]) -> dict[str, float]:
    """Log-probabilities from expected uses; pieces used less than half a time go."""
    kept = {
        piece: max(use, LEAST_EXPECTED)
        for piece, use in expected.items()
        if use >= LEAST_EXPECTED or piece in required
    }
    total = digamma(sum(kept.values()))
    return {piece: digamma(use) - total for piece, use in kept.items()}


def _pruned(
    scores: dict[str, float], expected: Mapping[str, float], required: set[str], size: int
) -> dict[str, float]:
    """The `size` pieces whose absence would cost the most, and all characters."""
    losses = []
    for piece, score in scores.items():
        if piece not in required:
            cost = expected.get(piece, 0.0) * (score - _without(piece, scores))
            losses.append((cost, piece))
    losses.sort(key=lambda one: (-one[0], one[1]))
    room = max(0, size - sum(piece in required for piece in scores))
    kept = {piece for _, piece in losses[:room]} | required
    return {piece: score for piece, score in scores.items() if piece in kept}


def _without(piece: str, scores: Mapping[str, float]) -> float:
    """The best score of the piece made of other pieces."""
    best = [0.0, *[-math.inf] * len(piece)]
    for start in range(len(piece)):
        for end in range(start + 1, len(piece) + 1):
            score = scores.get(piece[start:end])
            if score is not None and end - start < len(piece):
                best[end] = max(best[end], best[start] + score)
    return best[-1]


def digamma(x: float) -> float:
    """The derivative of log Gamma, for x > 0: recurrence, then the asymptotic series."""
    found = 0.0
    while x < 7:
        found -= 1 / x
        x += 1
    inverse = 1 / (x * x)
    series = inverse * (1 / 12 - inverse * (1 / 120 - inverse * (1 / 252 - inverse / 240)))
    return found + math.log(x) - 0.5 / x - series
