"""What the metadata of a GGUF file says of single tokens: their kinds, their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .post_processors import Template, around
from .reading import short

Metadata = Mapping[str, Any]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
ROLE_KEYS = {role: f"tokenizer.ggml.{role}_token_id" for role in ("bos", "eos", "cls", "mask")} | {
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",  # so spelled in the format
    "pad": "tokenizer.ggml.padding_token_id",
}
TEXTS = ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template")
NUMBERS = {  # kinds of NumPy's numbers
    "tokenizer.ggml.token_type": "iu",
    "tokenizer.ggml.precompiled_charsmap": "iu",
    "tokenizer.ggml.scores": "iuf",
}
SPACE = "\u2581"  # stands for a space in the vocabularies of SentencePiece


def check_kinds(metadata: Metadata) -> None:
    """ValueError for an entry of single tokens, or of text, that is of another kind."""
    for key, value in metadata.items():
        if key in TEXTS:
            fits, needed = isinstance(value, str | None), "a string"
        elif key in NUMBERS:
            fits, needed = _are_numbers(value, NUMBERS[key]), "a list of nothing but numbers"
        elif key in ROLE_KEYS.values():
            fits = isinstance(value, int | np.integer) and not isinstance(value, bool)
            needed = "an id"
        else:
            continue
        if not fits:
            given = short(value) if isinstance(value, str | int | float) else "a list"
            raise ValueError(f"{key} is {given}, {needed} is needed")


def _are_numbers(value: Any, kinds: str) -> bool:
    if not isinstance(value, list | tuple | np.ndarray):
        return False
    try:
        numbers = np.asarray(value)
    except ValueError:  # of several lengths
        return False
    return numbers.ndim == 1 and (not numbers.size or numbers.dtype.kind in kinds)


def around_text(roles: dict[str, int], flags: Sequence[Any]) -> Template:
    """The template with the bos and the eos token, as far as the flags say so."""
    wanted = [role for role, flag in zip(("bos", "eos"), flags) if flag]
    if not set(wanted) <= roles.keys():
        raise ValueError(f"{wanted[0]} is to stand around a text, but its id is not given")
    begin, end = ([roles[role]] if role in wanted else [] for role in ("bos", "eos"))
    return around(begin, end)


def chat_template(metadata: Metadata) -> str | None:
    return metadata.get("tokenizer.chat_template")


def roles_of(metadata: Metadata, count: int, defaults: dict[str, int]) -> dict[str, int]:
    roles = dict(defaults)
    for role, key in ROLE_KEYS.items():
        if key in metadata:
            roles[role] = int(metadata[key])
    for role, id in roles.items():
        if not 0 <= id < count:
            raise ValueError(f"the {role} token is {id}, an id from 0 to {count - 1} is needed")
    return roles
