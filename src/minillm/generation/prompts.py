"""From a prompt to the ids that a model reads, and what to do where they do not fit."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from minillm.generation.options import MAX_TOKENS, Options
from minillm.quantities import counted
from minillm.tokenizers import Tokenizer


class Prompt(NamedTuple):
    """What is read before the first token is drawn.

    ids       of a decoder the prompt, of an encoder-decoder what its target begins with
    source    what the encoder reads; None for a decoder
    limit     tokens that may be written
    notice    what had to be left out, or None
    kept      ids at the front that stand before every text
    """

    ids: list[int]
    source: list[int] | None
    limit: int
    notice: str | None
    kept: int = 0


def prompt_ids(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The control tokens that the tokenizer puts before a text, such as <s>, and those of the text.

    What it would put behind it is left out: the text goes on.
    """
    bare, whole = tokenizer.encode(text), tokenizer.encode(text, add_special_tokens=True)
    fits = (k for k in range(len(whole) + 1) if whole[k : k + len(bare)] == bare)
    return whole[: next(fits)] if bare else [], bare


def first_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """What a decoder reads before it writes; for an empty prompt what stands before every text."""
    before, ids = prompt_ids(tokenizer, prompt)
    start = tokenizer.role_ids.get("bos", tokenizer.eos_id)
    return before + ids if ids or start is None else [start]


def prepare(reader: Any, tokenizer: Tokenizer, prompt: str | Sequence[int], o: Options) -> Prompt:
    """The ids of a prompt, a text or ids, cut as the options say.

    ValueError for a prompt that is empty or does not fit, TypeError for what is none, IndexError
    for an id the model lacks.
    """
    given = None if isinstance(prompt, str) else _whole(prompt)
    config = reader.model.config
    _check(o.stop_ids, getattr(config, "target_size", config.vocab_size), "stop-ids")
    if reader.kind == "encoder-decoder":
        if o.echo:
            raise ValueError(
                "echo: an encoder-decoder writes another text than its prompt, a decoder is needed"
            )
        ids = tokenizer.encode(str(prompt), add_special_tokens=True) if given is None else given
        if not ids:
            raise ValueError("generate: a source of 0 tokens, at least 1 is needed")
        _check(ids, config.vocab_size)
        _, limit, notice = fitted(reader.start_ids, 0, reader.context, o)
        return Prompt(list(reader.start_ids), ids, limit, notice)
    ids = first_ids(tokenizer, str(prompt)) if given is None else given
    kept = len(prompt_ids(tokenizer, str(prompt))[0]) if given is None else 0
    kept = kept or _begins(tokenizer, ids)
    if not ids:
        raise ValueError(
            "generate: a prompt of 0 tokens, at least 1 is needed: this tokenizer has no token "
            "that begins a text"
        )
    _check(ids, config.vocab_size)
    ids, limit, notice = fitted(ids, kept, reader.context, o)
    return Prompt(ids, None, limit, notice, kept)


def fitted(
    ids: list[int], kept: int, context: int | None, o: Options
) -> tuple[list[int], int, str | None]:
    """The ids to read, how many may be written after them, and what was left out.

    The last token that is written is not read. `kept` ids at the front are not dropped.
    """
    most = MAX_TOKENS if o.max_tokens is None else o.max_tokens
    if context is None:
        return ids, most, None
    holds = _holds(context, o)
    room = holds + 1 - len(ids)
    if room > 0 and (o.overflow == "slide" or most <= room):
        return ids, most, None
    if o.overflow == "truncate":
        return _truncated(ids, kept, context, o)
    if room > 0 and o.max_tokens is None:
        return ids, room, None
    prompt, advice = f"a prompt of {counted(len(ids), 'token')}", _advice(ids, kept, context, o)
    if room <= 0:
        raise ValueError(
            f"generate: {prompt}, 1 to {holds:,} (the model's context) are needed{advice}"
        )
    raise ValueError(
        f"generate: max-tokens {most:,} after {prompt}, at most {room:,} fit into the model's "
        f"context of {context:,}{advice}"
    )


def _holds(context: int, o: Options) -> int:
    """Tokens that are read at most, the last written not among them. Contrastive search reads it
    too."""
    return context - (o.contrastive > 0)


def _truncated(
    ids: list[int], kept: int, context: int, o: Options
) -> tuple[list[int], int, str | None]:
    """As `fitted`, without as much of the front of the prompt as has to go."""
    most, keep = _left(ids, context, o)
    if keep <= kept:
        room = max(0, _holds(context, o) - kept)
        raise ValueError(
            f"generate: max-tokens {most:,}, at most {room:,} fit into the model's context of "
            f"{context:,} beside a prompt{_advice(ids, kept, context, o)}"
        )
    if keep == len(ids):
        return ids, most, None
    last = keep - kept
    read = "token is read" if last == 1 else f"{last:,} are read"
    cut = f"the prompt of {counted(len(ids), 'token')} is too long, its last {read}"
    return ids[:kept] + ids[len(ids) - last :], most, cut


def _left(ids: list[int], context: int, o: Options) -> tuple[int, int]:
    """How many tokens may be written where the prompt is cut, and how many of it are then left."""
    holds, most = _holds(context, o), o.max_tokens
    room = holds + 1 - len(ids)
    if most is None:
        most = min(MAX_TOKENS, room if room > 0 else holds // 2)
    return most, min(len(ids), holds, holds + 1 - most)


def _advice(ids: list[int], kept: int, context: int, o: Options) -> str:
    """The other ways to overflow, those with which the request fits."""
    ways = []
    if o.overflow != "truncate" and _left(ids, context, o)[1] > kept:
        ways.append("overflow truncate drops the prompt's front")
    goes_back = o.beams == 1 and not o.searches
    if o.overflow != "slide" and goes_back and len(ids) <= context:
        ways.append("overflow slide goes on from the context's last half")
    return f"; {', '.join(ways)}" if ways else ""


def _begins(tokenizer: Tokenizer, ids: list[int]) -> int:
    """1 where the first id is one that begins texts."""
    return int(bool(ids) and ids[0] == tokenizer.role_ids.get("bos"))


def _whole(prompt: Any) -> list[int]:
    """The ids of a prompt that is no text."""
    if not isinstance(prompt, Iterable):
        kind = type(prompt).__name__
        raise TypeError(f"generate: a prompt of type {kind}, a text or a list of ids is needed")
    try:
        return [operator.index(id) for id in prompt]
    except TypeError as error:
        raise TypeError(f"generate: a prompt that is neither text nor ids ({error})") from None


def _check(ids: Iterable[int], size: int, what: str = "generate") -> None:
    for id in ids:
        if not 0 <= id < size:
            raise IndexError(f"{what}: id {id}, 0 <= id < {size} is needed")
