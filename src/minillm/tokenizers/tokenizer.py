"""What every tokenizer can do, whatever its kind."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.files import atomic_write_text
from .chat import chat_ids, split_at
from .decoders import Decoder
from .post_processors import PLAIN, Template
from .vocabulary import Pieces, Vocabulary

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
WITH_SEGMENTS = "input_ids", "token_type_ids", "attention_mask"  # what transformers makes


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


class Tokenizer(Vocabulary, ABC):
    """Turns text into ids and ids into text.

    kind            "byte", "char", "bpe", "wordpiece" or "unigram"
    backend         "python", or "tokenizers" where that library encodes; the ids are the same
    vocab_size      ids are 0 ... vocab_size - 1, control tokens included
    special_tokens  control tokens and their ids, such as {"<|endoftext|>": 256}; may be empty
    eos_id          id of the control token that ends a text, or None. Unless tokenizer_config.json
                    names it, it is `<|endoftext|>`, else the only control token there is
    role_ids        ids of the control tokens that have a role: "bos", "eos", "pad", "unk", "cls",
                    "sep", "mask", as far as there are any
    chat_template   the Jinja template of a conversation, or None

    Encoding reads text only: the spelling of a control token in a text is ordinary text and never
    gives its id, unless that is asked for. (Hugging Face's `tokenizers` matches control tokens
    inside text unless its `encode_special_tokens` is set.) May be shared between threads.
    `decode(encode(text)) == text` for every text unless the tokenizer normalises, drops or marks
    something, as WordPiece and SentencePiece do.
    """

    kind: str
    backend = "python"

    def __init__(
        self,
        tokens: Sequence[str] | Mapping[str, int],
        pieces: Sequence[bytes] | Pieces,
        special_tokens: Mapping[str, int],
        eos: str | None,
        decoder: Decoder | None = None,
        template: Template = PLAIN,
    ) -> None:
        """As in `Vocabulary`; `template` says what add_special_tokens adds."""
        super().__init__(tokens, pieces, special_tokens, eos, decoder)
        self._template = template
        self.chat_template: str | None = None

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

    def encode(
        self, text: str, add_special_tokens: bool = False, split_special_tokens: bool = True
    ) -> list[int]:
        """The ids of `text` as a list; errors as in `encode_array`.

        add_special_tokens     also the control tokens that stand around a text, such as [CLS] and
                               [SEP] or <s>, where the tokenizer has such a template
        split_special_tokens   False: control tokens spelled in the text become their ids. Never
                               for text that a user wrote
        """
        ids: list[int] = (
            self.encode_array(text).tolist()
            if split_special_tokens
            else self._encode_with_specials(text)
        )
        return self.around(ids) if add_special_tokens else ids

    def around(self, ids: list[int]) -> list[int]:
        """The ids of a text with the control tokens around them that stand around a text."""
        return self._template.around(ids)

    def around_pair(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        """The same for the ids of two texts in one sequence: ids and segments (0 or 1)."""
        return self._template.around_pair(first, second)

    def encode_pair(self, first: str, second: str) -> tuple[list[int], list[int]]:
        """Two texts in one sequence with control tokens around them: ids and segments (0 or 1)."""
        return self.around_pair(self.encode(first), self.encode(second))

    def _encode_with_specials(self, text: str) -> list[int]:
        check_text("encode", text)
        return self.encode_parts(split_at(self.special_tokens, text))

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        **variables: Any,
    ) -> list[int]:
        """The ids of a conversation, as the chat template writes it; arguments as in `chat.render`.

        What the template writes of control tokens becomes their ids; what users wrote never does,
        however it is spelled. Errors as in `chat.render`, and ValueError where a template alters a
        control token spelled in a message.
        """
        return chat_ids(self, messages, add_generation_prompt, variables)

    def encode_parts(self, parts: Sequence[str], begins: bool = True) -> list[int]:
        """The ids of one text given as text, control token, text ... in turn.

        With `begins` false the text goes on from another: nothing is put before its first word.
        """
        ids: list[int] = []
        for index, part in enumerate(parts):
            ids += [self.special_tokens[part]] if index % 2 else self.encode_array(part).tolist()
        return ids

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the tokenizer.json that `save` writes."""
        return hashlib.sha256(self._to_json().encode("utf-8")).hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write tokenizer.json and tokenizer_config.json, as Hugging Face lays them out."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        roles = {f"{role}_token": self._tokens[id] for role, id in sorted(self.role_ids.items())}
        config: dict[str, Any] = {
            "clean_up_tokenization_spaces": False,
            "eos_token": None,
            **roles,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        if self._template != PLAIN and any(segment for _, segment in self._template.pair):
            config["model_input_names"] = list(WITH_SEGMENTS)
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        atomic_write_text(folder / TOKENIZER_FILE, self._to_json())
        atomic_write_text(
            folder / CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        )

    def _to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n"
