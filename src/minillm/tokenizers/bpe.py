"""GPT-2's byte-level byte-pair encoding.

Source: Sennrich et al. 2016 (byte-pair encoding), Radford et al. 2019 (bytes instead of characters,
the pre-tokenisation).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from .byte_alphabet import ALPHABET, BYTE_ORDER, unspell
from .merging import merge
from .splitting import settled, split, windows
from .tokenizer import END_OF_TEXT, Tokenizer, check_text, default_eos, id_dtype
from .tokenizer_json import Document, bpe_document, byte_level, check_special_tokens

_CACHE_SIZE = 1 << 16
_LONGEST_CACHED = 32
_BLOCK = 1 << 13
_TRIES = 64


class BPETokenizer(Tokenizer):
    """Byte-level BPE: pre-tokens of GPT-2's pattern, each merged by rank, leftmost first.

    Any text encodes; nothing is normalised. Time is linear in the length of the text, also within
    one endless pre-token, and pre-tokens met before come from a bounded cache.
    """

    kind = "bpe"

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[tuple[str, str]],
        special_tokens: Mapping[str, int],
        eos: str | None = None,
    ) -> None:
        """`tokens` by id and `merges` by rank, both spelled in GPT-2's byte alphabet.

        Raises ValueError where a byte is missing, a token is spelled in other characters, or a
        merge joins or makes an unknown token or is there twice.
        """
        pieces = [b"" if token in special_tokens else unspell(token) for token in tokens]
        super().__init__(tokens, pieces, special_tokens, eos or default_eos(special_tokens))
        self.merges = list(merges)
        self._ranks, self._merged = self._compile()
        missing = [byte for byte in range(256) if ALPHABET[byte] not in self._ids]
        if missing:
            raise ValueError(
                f"tokenizer: {len(missing)} byte tokens are missing, the first is "
                f"{ALPHABET[missing[0]]!r} (byte {missing[0]}), all 256 are needed"
            )
        self._byte_ids = [self._ids[ALPHABET[byte]] for byte in range(256)]
        self._longest = max(map(len, pieces))
        self._cache = _Cache(self)

    @classmethod
    def from_merges(
        cls, lines: Iterable[str], special_tokens: Sequence[str] = (END_OF_TEXT,)
    ) -> BPETokenizer:
        """The tokenizer of a `vocab.bpe` or `merges.txt`: one merge a line, lowest rank first.

        Ids are GPT-2's: 256 bytes, one id for each merge, control tokens. A first line that starts
        with #version is skipped. Raises ValueError naming the line that is not two tokens.
        """
        merges = []
        for number, line in enumerate(lines, 1):
            line = line.rstrip("\r\n")
            if not line or (number == 1 and line.startswith("#version")):
                continue
            parts = line.split(" ")
            if len(parts) != 2 or not all(parts):
                raise ValueError(f"merges: line {number} is {line!r}, two tokens are needed")
            merges.append((parts[0], parts[1]))
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
        if len(data) <= 2 * self._longest:
            return start
        end = 0
        for ids in self._blocks(data, whole=False):
            end += sum(len(self._pieces[id]) for id in ids)
        # Cut off after its first byte, a leading space would join white space before it.
        if end < 2:
            return start
        return len(text) - len(last) + len(data[:end].decode("utf-8"))

    def to_dict(self) -> Document:
        return bpe_document(
            self._tokens, self.special_tokens, byte_level(True), byte_level(True), self.merges
        )

    def _compile(self) -> tuple[dict[tuple[int, int], int], list[int]]:
        """The merges by id: rank of a pair, and the id that each rank makes."""
        ranks: dict[tuple[int, int], int] = {}
        merged = []
        for rank, (left, right) in enumerate(self.merges):
            pair, made = (self._ids.get(left), self._ids.get(right)), self._ids.get(left + right)
            if pair[0] is None or pair[1] is None or made is None:
                raise ValueError(
                    f"tokenizer: merge {rank} joins {left!r} and {right!r}, both and their union "
                    "must be tokens"
                )
            if ranks.setdefault((pair[0], pair[1]), rank) != rank:
                raise ValueError(
                    f"tokenizer: merge {rank} ({left!r} and {right!r}) occurs twice, each "
                    "needs to be distinct"
                )
            merged.append(made)
        return ranks, merged

    def _merge(self, data: bytes) -> list[int]:
        return merge([self._byte_ids[byte] for byte in data], self._ranks, self._merged)

    def _blocks(self, data: bytes, whole: bool) -> Iterator[list[int]]:
        """The ids of one pre-token in lists; without `whole` only those that are final.

        Each list ends where no byte to come can move the end, so that memory and time for a list do
        not depend on the length of the pre-token.
        """
        size = max(_BLOCK, 256 * self._longest)
        start, width = 0, size
        while start < len(data):
            block = data[start : start + width]
            ids = self._merge(block)
            last = start + width >= len(data)
            if last and whole:
                yield ids
                return
            count = self._final(block, ids)
            yield ids[:count]
            if last:
                return
            start += sum(len(self._pieces[id]) for id in ids[:count])
            width = size if count else 2 * width

    def _final(self, block: bytes, ids: list[int]) -> int:
        """How many of `ids`, the merged `block`, stay as they are whatever follows the block.

        A sequence of tokens is the merged form of its bytes exactly when every two neighbours are.
        So a boundary stays if its left token keeps apart from each token that can follow it.
        Boundaries inside a character are passed over.
        """
        reach = max(self._longest, 4)
        at = len(block)
        tries = _TRIES
        for count in range(len(ids) - 1, 0, -1):
            at -= len(self._pieces[ids[count]])
            if len(block) - at < reach or block[at] & 0xC0 == 0x80:
                continue
            left = ids[count - 1]
            if all(self._apart(left, right) for right in self._firsts(block[at:], reach)):
                return count
            tries -= 1
            if not tries:
                break
        return 0

    def _firsts(self, data: bytes, reach: int) -> Iterator[int]:
        """Each token that `data` can begin with once it is continued and merged.

        The last boundary within `data` lies less than `reach` bytes, the longest token, before its
        end, and what comes before a boundary is merged as if nothing followed.
        """
        seen = set()
        for end in range(len(data) - reach + 1, len(data) + 1):
            first = self._merge(data[:end])[0]
            if first not in seen:
                seen.add(first)
                yield first

    def _apart(self, left: int, right: int) -> bool:
        """Whether two neighbouring tokens do not merge."""
        return self._merge(self._pieces[left] + self._pieces[right]) == [left, right]


class _Cache(dict[str, bytes]):
    """Packed ids by pre-token, made on demand; emptied when it is full."""

    def __init__(self, tokenizer: BPETokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._dtype = id_dtype(tokenizer.vocab_size)

    def __missing__(self, piece: str) -> bytes:
        lists = self._tokenizer._blocks(piece.encode("utf-8"), whole=True)
        packed = b"".join([np.array(ids, dtype=self._dtype).tobytes() for ids in lists])
        if len(piece) <= _LONGEST_CACHED:
            if len(self) >= _CACHE_SIZE:
                self.clear()
            self[piece] = packed
        return packed
