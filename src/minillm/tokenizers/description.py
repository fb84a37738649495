"""What lies beside a tokenizer's own file: the roles of its control tokens, the chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from minillm.quantities import counted

from .added_tokens import AddedToken, read_added_tokens
from .reading import Document, a_list, a_string, an_object, short
from .tokenizer import CONFIG_FILE, Tokenizer

LARGEST_FILE = 1 << 28
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

_MAP_FILE, _ADDED_FILE = "special_tokens_map.json", "added_tokens.json"
_TEMPLATE_FILE = "chat_template.jinja"


class Description(NamedTuple):
    """`config` is tokenizer_config.json, {} where there is none; `roles` name control tokens.

    `specials` are the names of all control tokens, `added` tokens that stand in these files.
    """

    config: Document
    roles: dict[str, str]
    specials: list[str]
    chat_template: str | None
    added: tuple[AddedToken, ...] = ()

    def give_to(self, tokenizer: Tokenizer) -> Tokenizer:
        """`tokenizer`, which now has the roles and the template."""
        found = {role: tokenizer.token_to_id(name) for role, name in self.roles.items()}
        tokenizer.role_ids |= {role: id for role, id in found.items() if id is not None}
        tokenizer.chat_template = self.chat_template
        return tokenizer


NOTHING = Description({}, {}, [], None)


def description(folder: Path) -> Description:
    """Read what lies beside a tokenizer: tokenizer_config.json, special_tokens_map.json,
    added_tokens.json and chat_template.jinja.

    Each may be missing. Raises ValueError naming the file and what is damaged in it.
    """
    config = _read_if_there(folder / CONFIG_FILE)
    named = {**_read_if_there(folder / _MAP_FILE), **config}
    roles = {}
    for role in ROLES:
        name = _content(named.get(f"{role}_token"), f"{role}_token of {CONFIG_FILE}")
        if name is not None:
            roles[role] = name
    others = named.get("additional_special_tokens") or named.get("extra_special_tokens")
    more = (
        [_content(entry, "special token") for entry in others] if isinstance(others, list) else []
    )
    template = folder / _TEMPLATE_FILE
    return Description(
        config,
        roles,
        [name for name in [*roles.values(), *more] if name],
        template.read_text(encoding="utf-8-sig") if template.is_file() else _template_of(config),
        _added(config, _read_if_there(folder / _ADDED_FILE)),
    )


def read_json(path: Path) -> Document:
    """The object in a JSON file; ValueError for a file that is too large or damaged."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(
            f"{path.name} has {counted(size, 'byte')}, at most {LARGEST_FILE:,} are accepted"
        )
    try:
        spec = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON in UTF-8 ({error})") from None
    return an_object(spec, path.name)


def _read_if_there(path: Path) -> Document:
    return read_json(path) if path.exists() else {}


def _added(config: Document, older: Document) -> tuple[AddedToken, ...]:
    """The tokens of added_tokens_decoder in tokenizer_config.json and of added_tokens.json."""
    tokens = {}
    for id, entry in an_object(
        config.get("added_tokens_decoder", {}), "added_tokens_decoder"
    ).items():
        fields = an_object(entry, "added token")
        if not (id.isascii() and id.isdigit()) or not isinstance(fields.get("content"), str):
            raise ValueError(f"added_tokens_decoder has {short({id: entry})}, an id is needed")
        known = {name: fields[name] for name in AddedToken._fields if name in fields}
        tokens[fields["content"]] = read_added_tokens([{**known, "id": int(id)}])[0]
    for content, id in older.items():
        tokens.setdefault(content, read_added_tokens([{"content": content, "id": id}])[0])
    return tuple(tokens.values())


def _content(token: Any, name: str) -> str | None:
    """The text of a token, given as such or as an object; None where there is none."""
    if isinstance(token, dict):
        token = token.get("content")
    return None if token is None else a_string(token, name)


def _template_of(config: Document) -> str | None:
    """The chat template of tokenizer_config.json; of several that called "default"."""
    template = config.get("chat_template")
    if template is None or isinstance(template, str):
        return template
    for entry in a_list(template, f"chat_template of {CONFIG_FILE}"):
        match entry:
            case {"name": "default", "template": str(text)}:
                return text
    raise ValueError(f"chat_template of {CONFIG_FILE} is {short(template)}, a string is needed")
