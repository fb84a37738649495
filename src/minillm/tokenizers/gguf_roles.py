"""What the metadata of a GGUF file says of single tokens: their kinds, their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .post_processors import Template, around
from .reading import short

Metadata = Mapping[str, Any]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
ROLE_KEYS = {role: f"tokenizer.ggml.{role}_token_id" for role in ("bos", "eos", "cls", "mask")} | {
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",  # so spelled in the format
    "pad": "tokenizer.ggml.padding_token_id",
}
SPACE = "\u2581"  # stands for a space in the vocabularies of SentencePiece


def around_text(roles: dict[str, int], flags: Sequence[Any]) -> Template:
    """The template with the bos and the eos token, as far as the flags say so."""
    wanted = [role for role, flag in zip(("bos", "eos"), flags) if flag]
    if not set(wanted) <= roles.keys():
        raise ValueError(f"{wanted[0]} is to stand around a text, but its id is not given")
    begin, end = ([roles[role]] if role in wanted else [] for role in ("bos", "eos"))
    return around(begin, end)


def chat_template(metadata: Metadata) -> str | None:
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"tokenizer.chat_template is {short(template)}, a string is needed")
    return template


def roles_of(metadata: Metadata, count: int, defaults: dict[str, int]) -> dict[str, int]:
    roles = dict(defaults)
    for role, key in ROLE_KEYS.items():
        if key in metadata:
            roles[role] = int(metadata[key])
    for role, id in roles.items():
        if not 0 <= id < count:
            raise ValueError(f"the {role} token is {id}, an id from 0 to {count - 1} is needed")
    return roles
