"""GPT-2's byte alphabet: one printable character for each byte, to write any bytes in JSON.

Printable bytes stand for themselves; the others (0-32, 127-160, 173) are the characters from
U+0100 on, in order. Source: Radford et al. 2019, openai/gpt-2 `encoder.py`.
"""

from __future__ import annotations

_THEMSELVES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_MOVED = [byte for byte in range(256) if byte not in _THEMSELVES]

# The order of GPT-2's first 256 ids.
BYTE_ORDER = bytes(_THEMSELVES + _MOVED)

_POINTS = {byte: byte for byte in _THEMSELVES} | {
    byte: 0x100 + index for index, byte in enumerate(_MOVED)
}
ALPHABET = "".join(chr(_POINTS[byte]) for byte in range(256))
_MEMBERS = frozenset(ALPHABET)
# From the alphabet to Latin-1, whose characters that are not in the alphabet become none of it.
_TO_LATIN_1 = dict.fromkeys(_MOVED, 1114111) | {ord(ALPHABET[byte]): byte for byte in _MOVED}


def spell(data: bytes) -> str:
    """`data`, one character of the alphabet for each byte."""
    return "".join([ALPHABET[byte] for byte in data])


def unspell(token: str) -> bytes:
    """The bytes of a token; ValueError for a character outside the alphabet."""
    try:
        return token.translate(_TO_LATIN_1).encode("latin-1")
    except UnicodeEncodeError:
        wrong = next(character for character in token if character not in _MEMBERS)
        raise ValueError(f"token {token!r}: {wrong!r} is not in the byte alphabet") from None
