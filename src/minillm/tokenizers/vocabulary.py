"""The tokens of a tokenizer: names, bytes, control tokens; and text out of ids."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from .decoders import Decoder
from .packed_vocabulary import PackedVocabulary
from .stream import StreamDecoder


class Pieces(dict[int, bytes]):
    """The bytes of text by id, each found when it is first asked for."""

    def __init__(self, find: Callable[[int], bytes]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, id: int) -> bytes:
        piece = self[id] = self._find(id)
        return piece


class Vocabulary:
    """Tokens by id, and what text they stand for; see `Tokenizer` for the attributes."""

    def __init__(
        self,
        tokens: Sequence[str] | Mapping[str, int],
        pieces: Sequence[bytes] | Pieces,
        special_tokens: Mapping[str, int],
        eos: str | None,
        decoder: Decoder | None = None,
    ) -> None:
        """`tokens` are the names by id; `pieces` the bytes of text by id, b"" for control tokens.

        Names in a mapping have their ids, 0, 1, 2 ..., as values; it is kept, not copied. With a
        `decoder`, which gives the bytes, `pieces` are not read. Raises ValueError for names that
        occur twice and for an unknown `eos`.
        """
        self._tokens = tokens.names if isinstance(tokens, PackedVocabulary) else list(tokens)
        self._decoder = decoder
        if decoder is not None:
            pieces = Pieces(self._piece)
        self._pieces = pieces if isinstance(pieces, Pieces) else list(pieces)
        self._ids = (
            tokens if isinstance(tokens, Mapping) else dict(zip(tokens, range(len(self._tokens))))
        )
        if len(self._ids) != len(self._tokens):
            twice = next(t for i, t in enumerate(self._tokens) if self._ids[t] != i)
            raise ValueError(f"tokenizer: token {twice!r} occurs twice, each needs to be distinct")
        if eos is not None and eos not in special_tokens:
            raise ValueError(
                f"tokenizer: the end token {eos!r} is none of the control tokens "
                f"{sorted(special_tokens)}"
            )
        self.vocab_size = len(self._tokens)
        self.special_tokens = dict(special_tokens)
        self._special_ids = frozenset(special_tokens.values())
        self.eos_id = None if eos is None else special_tokens[eos]
        self.role_ids = {} if eos is None else {"eos": special_tokens[eos]}

    def decode(
        self,
        ids: Iterable[int] | np.ndarray,
        errors: str = "replace",
        skip_special_tokens: bool = True,
    ) -> str:
        """The text of one sequence of ids.

        `errors` says what becomes of bytes that are not UTF-8, as in `bytes.decode`. Control tokens
        are left out, or spelled with skip_special_tokens=False. Raises IndexError for an id outside
        the vocabulary, TypeError for what is not an integer.
        """
        checked = self._checked(ids, "decode")
        if skip_special_tokens and self._special_ids:
            checked = [id for id in checked if id not in self._special_ids]
        data = self._text_of(checked[:1], True) + self._text_of(checked[1:], False)
        strip = self.leading_spaces
        while strip and data.startswith(b" "):
            data, strip = data[1:], strip - 1
        return data.decode("utf-8", errors)

    @property
    def end_id(self) -> int | None:
        """What ends a document among others: the end token, else the separator."""
        return self.role_ids.get("sep") if self.eos_id is None else self.eos_id

    def stream(self, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder that takes ids one at a time and gives whole characters only."""
        return StreamDecoder(self, skip_special_tokens)

    @property
    def leading_spaces(self) -> int:
        """How many spaces at most a text loses at its beginning when it is decoded."""
        return self._decoder.strip if self._decoder else 0

    def text_bytes(self, id: int, first: bool, skip_special_tokens: bool = True) -> bytes | None:
        """What `id` adds to a text, as its first id or a later one; None if it is left out."""
        checked = self._checked([id], "decode")
        if skip_special_tokens and checked[0] in self._special_ids:
            return None
        return self._text_of(checked, first)

    def token_bytes(self, id: int) -> bytes:
        """The bytes of text that `id` stands for, b"" for a control token; IndexError as above."""
        return self._pieces[self._checked([id], "token_bytes")[0]]

    def id_to_token(self, id: int) -> str:
        """The name of `id` in tokenizer.json; IndexError for an id outside the vocabulary."""
        return self._tokens[self._checked([id], "id_to_token")[0]]

    def token_of(self, id: int) -> str:
        """`id` for people: its text, bytes that are no character as \\xNN, or else its name."""
        name, piece = self.id_to_token(id), self.token_bytes(id)
        return piece.decode("utf-8", "backslashreplace") if piece else name

    def token_to_id(self, token: str) -> int | None:
        """The id of a name in tokenizer.json, None if there is no such token."""
        return self._ids.get(token)

    def byte_lengths(self) -> np.ndarray:
        """Bytes of text that each id stands for, (vocab_size,) int64; 0 for control tokens."""
        return np.array([len(self._pieces[id]) for id in range(self.vocab_size)], dtype=np.int64)

    def _text_of(self, ids: Sequence[int], first: bool) -> bytes:
        """The bytes of ids, control tokens spelled, where a text begins or anywhere else."""
        if first and self._decoder is not None:
            return b"".join([self._decoder.piece(self._tokens[id], True) for id in ids])
        if self._special_ids.isdisjoint(ids):
            return b"".join(map(self._pieces.__getitem__, ids))
        return b"".join([self._spelled.get(id) or self._pieces[id] for id in ids])

    def _piece(self, id: int) -> bytes:
        """The bytes of text of an id, b"" for a control token."""
        assert self._decoder is not None
        return b"" if id in self._special_ids else self._decoder.piece(self._tokens[id], False)

    @cached_property
    def _spelled(self) -> dict[int, bytes]:
        """The bytes of control tokens when they are shown."""
        return {
            id: self._decoder.piece(token, False) if self._decoder else token.encode("utf-8")
            for token, id in self.special_tokens.items()
        }

    def _checked(self, ids: Iterable[int] | np.ndarray, command: str) -> list[int]:
        """`ids` as a list of Python ints, all inside the vocabulary."""
        if isinstance(ids, np.ndarray):
            if ids.ndim != 1:
                raise ValueError(f"{command}: ids have shape {ids.shape}, one dimension is needed")
            ids = ids.tolist()
        try:
            checked = [operator.index(id) for id in ids]
        except TypeError as error:
            raise TypeError(f"{command}: {error}, ids must be integers") from None
        if checked and not 0 <= min(checked) <= max(checked) < self.vocab_size:
            wrong = next(id for id in checked if not 0 <= id < self.vocab_size)
            raise IndexError(
                f"{command}: id {wrong} is outside the vocabulary of {self.vocab_size}, "
                f"ids are 0 to {self.vocab_size - 1}"
            )
        return checked

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size})"
