"""GPT-2's pre-tokenisation: text is cut into pre-tokens, and no merge crosses a cut.

The pattern is 's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+
(Radford et al. 2019, openai/gpt-2 `encoder.py`). Its Unicode classes are spelled out, since `re`
has no \\p and its \\s is another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from .unicode_classes import LETTERS, NUMBERS, WHITE_SPACE, character_class, last_point

WINDOW = 1 << 16

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
# The last place where white space follows something else: a pre-token begins there, always.
_LAST_GAP = re.compile(f"(?s:.*)[^{WHITE_SPACE}](?=[{WHITE_SPACE}])")
_LONE_SPACE = re.compile(f"[{WHITE_SPACE}]{{2}}[^{WHITE_SPACE}]")


@cache
def _pattern(last: int) -> re.Pattern[str]:
    """The pattern for text whose code points are at most `last`."""
    letters, numbers = character_class(LETTERS, last), character_class(NUMBERS, last)
    space = WHITE_SPACE
    return re.compile(
        f"{'|'.join(_CONTRACTIONS)}| ?[{letters}]+| ?[{numbers}]+"
        f"| ?[^{space}{letters}{numbers}]+|[{space}]+(?![^{space}])|[{space}]+"
    )


def split(text: str) -> list[str]:
    """The pre-tokens of `text`; joined they are `text`."""
    pieces: list[str] = _pattern(last_point(text)).findall(text)
    return pieces


def settled(text: str) -> int:
    """The last place where a pre-token begins (or will) whatever follows `text`.

    split(text[:k]) + split(text[k:] + more) == split(text + more) for every `more`.
    """
    gap = _LAST_GAP.match(text)
    pieces = split(text[gap.end() :] if gap else text)
    if not pieces:
        return 0
    if pieces[-1] in _CONTRACTIONS:
        return len(text)
    begun = 2 if pieces[-2:] in (["'", "r"], ["'", "v"], ["'", "l"]) else len(pieces[-1])
    k = len(text) - begun
    # The last of several white spaces stands alone only as long as it sees what follows it.
    return k - 1 if k >= 2 and _LONE_SPACE.match(text, k - 2) else k


def windows(texts: Iterable[str], size: int = WINDOW) -> Iterator[str]:
    """The same text as all of `texts` joined, cut anew at places that are settled.

    Each window is about `size` characters, more only where one pre-token is longer.
    """
    held: list[str] = []
    length, width = 0, size
    for text in texts:
        held.append(text)
        length += len(text)
        if length < width:
            continue
        joined = "".join(held)
        start = 0
        while len(joined) - start >= width:
            end = settled(joined[start : start + width])
            if end:
                yield joined[start : start + end]
                start, width = start + end, size
            else:
                width *= 2
        held = [joined[start:]]
        length = len(held[0])
    yield "".join(held)
