"""The post-processors of tokenizer.json: the control tokens around one text or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .reading import Document, a_list, a_string, an_object, require_known, settings, short

Item = tuple[int | str, int]  # an id, or "A" or "B" for a text, and the segment it belongs to


class Template(NamedTuple):
    """What stands around one text ("A") and around two ("A" and "B")."""

    single: tuple[Item, ...] = (("A", 0),)
    pair: tuple[Item, ...] = (("A", 0), ("B", 1))

    def around(self, ids: list[int]) -> list[int]:
        """The ids of one text with those around it."""
        parts = [ids if item == "A" else [int(item)] for item, _ in self.single]
        return [id for part in parts for id in part]

    def document(self, tokens: Sequence[str] | Mapping[int, str]) -> Document | None:
        """The post-processor of tokenizer.json, None where nothing is added; `tokens` by id."""
        if self == PLAIN:
            return None
        ids = {item for item, _ in [*self.single, *self.pair] if isinstance(item, int)}
        return {
            "type": "TemplateProcessing",
            "single": [_part(item, segment, tokens) for item, segment in self.single],
            "pair": [_part(item, segment, tokens) for item, segment in self.pair],
            "special_tokens": {
                tokens[id]: {"id": tokens[id], "ids": [id], "tokens": [tokens[id]]}
                for id in sorted(ids)
            },
        }

    def around_pair(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        """The ids of two texts with those around them, and the segment of each, 0 or 1."""
        ids: list[int] = []
        segments: list[int] = []
        for item, segment in self.pair:
            part = first if item == "A" else second if item == "B" else [int(item)]
            ids += part
            segments += [segment] * len(part)
        return ids, segments


PLAIN = Template()


def template(spec: Any) -> Template:
    """The template of a post-processor; ValueError for a kind that is not supported."""
    found = [made for made in map(_one, _parts(spec)) if made is not None]
    if len(found) > 1:
        raise ValueError("post_processor that adds control tokens twice is not supported")
    return found[0] if found else PLAIN


def around(begin: Sequence[int], end: Sequence[int]) -> Template:
    """The template that puts `begin` before and `end` after each text."""
    texts: list[tuple[Item, ...]] = [
        (*((id, segment) for id in begin), (name, segment), *((id, segment) for id in end))
        for segment, name in enumerate("AB")
    ]
    return Template(texts[0], texts[0] + texts[1])


def _part(item: int | str, segment: int, tokens: Sequence[str] | Mapping[int, str]) -> Document:
    if isinstance(item, int):
        return {"SpecialToken": {"id": tokens[item], "type_id": segment}}
    return {"Sequence": {"id": item, "type_id": segment}}


def _parts(spec: Any) -> list[Document]:
    if spec is None:
        return []
    spec = an_object(spec, "post_processor")
    if spec.get("type") != "Sequence":
        return [spec]
    entries = a_list(spec.get("processors"), "post_processor.processors")
    return [part for entry in entries for part in _parts(entry)]


def _one(spec: Document) -> Template | None:
    match spec.get("type"):
        case "ByteLevel":  # moves offsets only
            return None
        case "TemplateProcessing":
            return _template(spec)
        case "BertProcessing" | "RobertaProcessing" as kind:
            return _classic(spec, kind == "RobertaProcessing")
    raise ValueError(f"post_processor.type {short(spec.get('type'))} is not supported")


def _classic(spec: Document, roberta: bool) -> Template:
    chosen = settings(
        spec,
        "post_processor",
        {"sep": [], "cls": [], "trim_offsets": None, "add_prefix_space": None},
    )
    cls, sep = (_id_of(chosen[name]) for name in ("cls", "sep"))
    second = 0 if roberta else 1
    between: tuple[Item, ...] = ((sep, 0), (sep, 0)) if roberta else ((sep, 0),)
    return Template(
        ((cls, 0), ("A", 0), (sep, 0)),
        ((cls, 0), ("A", 0), *between, ("B", second), (sep, second)),
    )


def _id_of(entry: Any) -> int:
    match entry:
        case [str(), int(id)]:
            return id
    raise ValueError(f"post_processor token {short(entry)}, a name and an id are needed")


def _template(spec: Document) -> Template:
    require_known(spec, {"type", "single", "pair", "special_tokens"}, "post_processor.")
    tokens = an_object(spec.get("special_tokens", {}), "post_processor.special_tokens")
    return Template(_items(spec.get("single"), tokens), _items(spec.get("pair"), tokens))


def _items(entries: Any, tokens: Document) -> tuple[Item, ...]:
    items: list[Item] = []
    for entry in a_list(entries, "post_processor template"):
        match entry:
            case {"Sequence": {"id": ("A" | "B") as text, "type_id": int(segment)}}:
                items.append((text, segment))
            case {"SpecialToken": {"id": str(name), "type_id": int(segment)}} if name in tokens:
                ids = a_list(an_object(tokens[name], a_string(name, "")).get("ids"), "ids")
                items += [(int(id), segment) for id in ids]
            case _:
                raise ValueError(f"post_processor template part {short(entry)} is not supported")
    return tuple(items)
