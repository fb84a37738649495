"""What every tokenizer can do, whatever its kind."""

from __future__ import annotations

import hashlib
import json
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..formats.files import atomic_write_text
from .stream import StreamDecoder

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest of uint16 and uint32 that holds every id of a vocabulary."""
    if not 0 <= vocab_size <= 2**32:
        raise ValueError(f"id_dtype: a vocabulary of {vocab_size}, at most {2**32} is possible")
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def default_eos(special_tokens: Iterable[str]) -> str | None:
    """`<|endoftext|>` where it is a control token, else the only control token, else None."""
    names = list(special_tokens)
    if END_OF_TEXT in names:
        return END_OF_TEXT
    return names[0] if len(names) == 1 else None


def check_text(command: str, text: str) -> None:
    """Raise TypeError for what is not str, ValueError for a lone surrogate, with its position."""
    if not isinstance(text, str):
        raise TypeError(f"{command}: text is {type(text).__name__}, str is needed")
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{command}: lone surrogate U+{ord(text[error.start]):04X} at position {error.start}, "
            "valid Unicode is needed"
        ) from None


class Tokenizer(ABC):
    """Turns text into ids and ids into text; `decode(encode(text)) == text` for every text.

    kind            "byte", "char" or "bpe"
    vocab_size      ids are 0 ... vocab_size - 1, control tokens included
    special_tokens  control tokens and their ids, such as {"<|endoftext|>": 256}; may be empty
    eos_id          id of the control token that ends a text, or None. Unless tokenizer_config.json
                    names it, it is `<|endoftext|>`, else the only control token there is

    Encoding reads text only: the spelling of a control token in a text is ordinary text and never
    gives its id. (Hugging Face's `tokenizers` matches control tokens inside text unless its
    `encode_special_tokens` is set.) Immutable; may be shared between threads.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        tokens: Sequence[str],
        pieces: Sequence[bytes],
        special_tokens: Mapping[str, int],
        eos: str | None,
    ) -> None:
        """`tokens` are the names by id; `pieces` the bytes of text by id, b"" for control tokens.

        Raises ValueError for names that occur twice and for an unknown `eos`.
        """
        self._tokens = list(tokens)
        self._pieces = list(pieces)
        self._ids = {token: index for index, token in enumerate(self._tokens)}
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
        self.eos_id = None if eos is None else special_tokens[eos]

    @abstractmethod
    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `text` as one array, dtype `id_dtype(vocab_size)`.

        Raises TypeError for what is not str, ValueError for a lone surrogate, naming its position.
        """

    @abstractmethod
    def cut(self, text: str) -> int:
        """A place k, as late as is known to be safe, where `text` may be cut; 0 if there is none.

        Whatever text follows: encode(text[:k]) + encode(text[k:] + more) == encode(text + more).
        So a text of any size can be encoded in chunks without one id changing.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The content of tokenizer.json."""

    def encode(self, text: str) -> list[int]:
        """The ids of `text` as a list; errors as in `encode_array`."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

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
        if skip_special_tokens or not self.special_tokens:
            return b"".join(map(self._pieces.__getitem__, checked)).decode("utf-8", errors)
        spelled = {id: token.encode("utf-8") for token, id in self.special_tokens.items()}
        data = b"".join([spelled.get(id, self._pieces[id]) for id in checked])
        return data.decode("utf-8", errors)

    def stream(self, skip_special_tokens: bool = True) -> StreamDecoder:
        """A decoder that takes ids one at a time and gives whole characters only."""
        return StreamDecoder(self, skip_special_tokens)

    def token_bytes(self, id: int) -> bytes:
        """The bytes of text that `id` stands for, b"" for a control token; IndexError as above."""
        return self._pieces[self._checked([id], "token_bytes")[0]]

    def id_to_token(self, id: int) -> str:
        """The name of `id` in tokenizer.json; IndexError for an id outside the vocabulary."""
        return self._tokens[self._checked([id], "id_to_token")[0]]

    def token_to_id(self, token: str) -> int | None:
        """The id of a name in tokenizer.json, None if there is no such token."""
        return self._ids.get(token)

    def byte_lengths(self) -> np.ndarray:
        """Bytes of text that each id stands for, (vocab_size,) int64; 0 for control tokens."""
        return np.array([len(piece) for piece in self._pieces], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the tokenizer.json that `save` writes."""
        return hashlib.sha256(self._to_json().encode("utf-8")).hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write tokenizer.json and tokenizer_config.json, as Hugging Face lays them out."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        eos = None if self.eos_id is None else self._tokens[self.eos_id]
        config = {
            "clean_up_tokenization_spaces": False,
            "eos_token": eos,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        atomic_write_text(folder / TOKENIZER_FILE, self._to_json())
        atomic_write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")

    def _to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"

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
