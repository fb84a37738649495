"""Characters as ids, with bytes for the characters that have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .tokenizer import END_OF_TEXT, Tokenizer, check_text, default_eos, id_dtype
from .tokenizer_json import Document, bpe_document, check_special_tokens

BYTE_TOKENS = {f"<0x{byte:02X}>": byte for byte in range(256)}
FUSE: Document = {"type": "Fuse"}
FALLBACK_FUSE: Document = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, FUSE]}

_WINDOW = 1 << 18
_LISTED = 20


class CharTokenizer(Tokenizer):
    """One id for each known character (one Unicode code point).

    With byte fallback an unknown character is its UTF-8 bytes, each a token <0x00> ... <0xFF>, and
    any text encodes. Without, encoding raises ValueError naming the character and its position.
    (Where bytes do not make characters, Hugging Face's decoder gives one U+FFFD for each byte of
    the whole run; `decode` keeps what is valid in it, so that a stream is the same text.)
    """

    kind = "char"

    def __init__(
        self, tokens: Sequence[str], special_tokens: Mapping[str, int], eos: str | None = None
    ) -> None:
        """`tokens` by id: characters, byte tokens (all or none) and the control tokens.

        Raises ValueError for any other token.
        """
        ids = {token: id for id, token in enumerate(tokens)}
        fallback = [ids.get(token, -1) for token in BYTE_TOKENS]
        self.byte_fallback = min(fallback) >= 0
        pieces = [b""] * len(tokens)
        for token, id in ids.items():
            if len(token) == 1 and token not in special_tokens:
                check_text("tokenizer", token)
                pieces[id] = token.encode("utf-8")
            elif self.byte_fallback and token in BYTE_TOKENS:
                pieces[id] = bytes([BYTE_TOKENS[token]])
            elif token not in special_tokens:
                raise ValueError(
                    f"tokenizer: token {token!r} is neither a character nor a control token nor "
                    "one of 256 byte tokens"
                )
        super().__init__(tokens, pieces, special_tokens, eos or default_eos(special_tokens))
        self.characters = sorted(
            token for token in ids if len(token) == 1 and token not in special_tokens
        )
        self._byte_ids = np.array(fallback, dtype=np.int64)
        self._unknown = len(tokens)
        self._by_code_point = self._table()

    @classmethod
    def from_characters(
        cls,
        characters: Iterable[str],
        special_tokens: Sequence[str] = (END_OF_TEXT,),
        byte_fallback: bool = False,
    ) -> CharTokenizer:
        """Ids in the order: characters by code point, byte tokens, control tokens."""
        check_special_tokens(special_tokens)
        ordinary = sorted(set(characters)) + (list(BYTE_TOKENS) if byte_fallback else [])
        specials = {token: len(ordinary) + index for index, token in enumerate(special_tokens)}
        return cls([*ordinary, *special_tokens], specials)

    def encode_array(self, text: str) -> np.ndarray:
        """As in `Tokenizer`; ValueError for an unknown character without byte fallback."""
        check_text("encode", text)
        parts = [
            self._encode_window(text[start : start + _WINDOW], start)
            for start in range(0, len(text), _WINDOW)
        ]
        return np.concatenate(parts) if parts else np.empty(0, id_dtype(self.vocab_size))

    def cut(self, text: str) -> int:
        return len(text)

    def to_dict(self) -> Document:
        return bpe_document(
            self._tokens,
            self.special_tokens,
            pre_tokenizer=None,
            decoder=FALLBACK_FUSE if self.byte_fallback else FUSE,
            byte_fallback=self.byte_fallback,
        )

    def _table(self) -> np.ndarray:
        """Id by code point, up to one past the last known character."""
        last = ord(self.characters[-1]) if self.characters else -1
        table = np.full(last + 2, self._unknown, dtype=np.int64)
        for character in self.characters:
            table[ord(character)] = self._ids[character]
        return table

    def _encode_window(self, text: str, start: int) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids = self._by_code_point[np.minimum(points, len(self._by_code_point) - 1)]
        unknown = ids == self._unknown
        if unknown.any():
            if not self.byte_fallback:
                first = int(unknown.argmax())
                raise ValueError(self._unknown_character(text[first], start + first))
            ids = self._with_bytes(points, ids, unknown)
        return ids.astype(id_dtype(self.vocab_size))

    def _with_bytes(self, points: np.ndarray, ids: np.ndarray, unknown: np.ndarray) -> np.ndarray:
        """`ids` with each unknown one replaced by the ids of its character's bytes."""
        strange = points[unknown]
        lengths = np.ones(len(points), dtype=np.int64)
        lengths[unknown] += sum((strange > top).astype(np.int64) for top in (0x7F, 0x7FF, 0xFFFF))
        data = strange.tobytes().decode("utf-32-le").encode("utf-8")
        is_byte = np.repeat(unknown, lengths)
        mixed = np.empty(len(is_byte), dtype=np.int64)
        mixed[is_byte] = self._byte_ids[np.frombuffer(data, dtype=np.uint8)]
        mixed[~is_byte] = ids[~unknown]
        return mixed

    def _unknown_character(self, character: str, position: int) -> str:
        known = [
            one if one.isprintable() and not one.isspace() else repr(one)
            for one in self.characters[:_LISTED]
        ]
        more = len(self.characters) - len(known)
        listed = " ".join(known) + (f" ... and {more} more" if more else "")
        return (
            f"unknown character {character!r} (U+{ord(character):04X}) at position {position}; "
            f"vocabulary has {len(self.characters)}: {listed}"
        )
