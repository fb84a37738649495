"""GPT-2's byte-level byte-pair encoding.

Source: Sennrich et al. 2016 (byte-pair encoding), Radford et al. 2019 (bytes instead of characters,
the pre-tokenisation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from .byte_alphabet import ALPHABET, BYTE_ORDER, unspell
from .byte_merging import ByteMerger
from .merging import Merge, PairTable, check_merges, pairs, spaced
from .piece_cache import PieceCache
from .resolved_merges import ResolvedMerges
from .splitting import settled, split, windows
from .tokenizer import END_OF_TEXT, Tokenizer, check_text, default_eos, id_dtype
from .tokenizer_json import Document, bpe_document, byte_level, check_special_tokens
from .vocabulary import Pieces


class BPETokenizer(Tokenizer):
    """Byte-level BPE: pre-tokens of GPT-2's pattern, each merged by rank, leftmost first.

    Any text encodes; nothing is normalised. Time is linear in the length of the text, also within
    one endless pre-token, and pre-tokens met before come from a bounded cache.
    """

    kind = "bpe"

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[Merge],
        special_tokens: Mapping[str, int],
        eos: str | None = None,
    ) -> None:
        """`tokens` by id and `merges` by rank, both spelled in GPT-2's byte alphabet.

        Raises ValueError where a byte is missing, a token is spelled in other characters, or a
        merge joins or makes an unknown token or is there twice.
        """
        pieces = Pieces(lambda id: b"" if id in self._special_ids else unspell(self._tokens[id]))
        super().__init__(tokens, pieces, special_tokens, eos or default_eos(special_tokens))
        ordinary = [token for token in self._tokens if token not in special_tokens]
        if not {*"".join(ordinary)} <= {*ALPHABET}:
            list(map(unspell, ordinary))  # says which
        known = isinstance(merges, ResolvedMerges)
        self._merges = merges if known else spaced(merges) or list(merges)
        check_merges(self._ids, self._merges)
        missing = [byte for byte in range(256) if ALPHABET[byte] not in self._ids]
        if missing:
            raise ValueError(
                f"tokenizer: {len(missing)} byte tokens are missing, the first is "
                f"{ALPHABET[missing[0]]!r} (byte {missing[0]}), all 256 are needed"
            )
        table = PairTable(self._tokens, self._ids, self._merges)
        longest = max(map(len, ordinary))
        self._merger = ByteMerger(pieces, longest, [self._ids[byte] for byte in ALPHABET], table)
        self._cache = PieceCache(self._ids_of, id_dtype(self.vocab_size))

    @classmethod
    def from_merges(
        cls, lines: Iterable[str], special_tokens: Sequence[str] = (END_OF_TEXT,)
    ) -> BPETokenizer:
        """The tokenizer of a `vocab.bpe` or `merges.txt`: one merge a line, lowest rank first.

        Ids are GPT-2's: 256 bytes, one id for each merge, control tokens. A first line that starts
        with #version is skipped. Raises ValueError naming the line that is not two tokens.
        """
        merges = read_merges(lines)
        check_special_tokens(special_tokens)
        made = dict.fromkeys(left + right for left, right in merges)
        tokens = [*(ALPHABET[byte] for byte in BYTE_ORDER), *made, *special_tokens]
        first = len(tokens) - len(special_tokens)
        return cls(tokens, merges, {token: first + i for i, token in enumerate(special_tokens)})

    def encode_array(self, text: str) -> np.ndarray:
        check_text("encode", text)
        packed = bytearray()
        for window in windows([text]):
            packed += b"".join(map(self._cache.__getitem__, split(window)))
        return np.frombuffer(packed, dtype=id_dtype(self.vocab_size))

    def cut(self, text: str) -> int:
        start = settled(text)
        last = "".join(split(text[start:])[-1:])
        data = last.encode("utf-8")
        if len(data) <= 2 * self._merger.longest:
            return start
        end = 0
        for ids in self._merger.blocks(data, final=True):
            end += sum(len(self._pieces[id]) for id in ids)
        # Cut off after its first byte, a leading space would join white space before it.
        if end < 2:
            return start
        return len(text) - len(last) + len(data[:end].decode("utf-8"))

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The merges by rank."""
        return pairs(self._merges)

    def to_dict(self) -> Document:
        return bpe_document(
            self._tokens, self.special_tokens, byte_level(True), byte_level(True), self.merges
        )

    def _ids_of(self, piece: str) -> Iterator[list[int]]:
        return self._merger.blocks(piece.encode("utf-8"))


def read_merges(lines: Iterable[str]) -> list[tuple[str, str]]:
    """The merges of a `vocab.bpe` or `merges.txt` by rank; ValueError as in `from_merges`."""
    merges = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ValueError(f"merges: line {number} is {line!r}, two tokens are needed")
        merges.append((parts[0], parts[1]))
    return merges
