"""POST /v1/completions"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from minillm.generation import Completion, Piece
from minillm.generation.completions import Logprob
from minillm.serve.admission import require_room
from minillm.serve.asking import (
    FIELDS,
    MOST_LOGPROBS,
    MOST_TEXTS,
    Job,
    names_of,
    options_of,
    scope_of,
    streaming,
)
from minillm.serve.bodies import read_body
from minillm.serve.catalogue import served_of
from minillm.serve.errors import ApiError
from minillm.serve.fields import Flag, Kind, Object, Several, Text, Whole, wrong
from minillm.serve.offsets import Offsets
from minillm.serve.writing import Writing, finite, new_id

MAX_TOKENS = 16  # where none are asked for, as with OpenAI
IDS = Several(Whole(0, (1 << 31) - 1), 1, 1 << 20)


@dataclass(frozen=True)
class Prompts(Kind):
    """A text, a list of ids, or a list of texts or of lists of ids, as a tuple."""

    most: int = MOST_TEXTS

    def read(self, name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            return (Text().read(name, value),)
        if not isinstance(value, list):
            raise wrong(name, value, "a text, ids, or a list of texts or of ids")
        if value and all(isinstance(one, int) for one in value):
            return (IDS.read(name, value),)
        of = IDS if value and isinstance(value[0], list) else Text()
        return Several(of, 1, self.most).read(name, value)

    def schema(self) -> dict[str, Any]:
        several = [Several(of, 1, self.most).schema() for of in (Text(), IDS)]
        return {"anyOf": [Text().schema(), IDS.schema(), *several]}


FORM = Object(
    FIELDS
    | {
        "prompt": Prompts(),
        "echo": Flag(),
        "logprobs": Whole(0, MOST_LOGPROBS),
        "best_of": Whole(1, MOST_TEXTS),
    },
    ("prompt",),
)
NAMES = names_of(FORM)


async def completions(request: Request) -> Response:
    body = await read_body(request, FORM)
    served = served_of(request, body.get("model"))
    require_room(request, served.writing())
    stream, include_usage = streaming(body)
    more = {name: body[name] for name in ("echo", "logprobs", "best_of") if name in body}
    options = options_of(body, NAMES, max_tokens=body.get("max_tokens", MAX_TOKENS), **more)
    prompts = body["prompt"]
    _check(len(prompts), options.rows, stream and options.best_of is not None)
    job = Job(served, prompts, options, NAMES, scope_of(request, body), stream, include_usage)
    answer = Answer(Writing(request, job))
    return await (answer.streamed() if stream else answer.whole())


def _check(prompts: int, rows: int, compares: bool) -> None:
    if prompts * rows > MOST_TEXTS:
        raise ApiError(
            400,
            f"prompt: {prompts} with {rows} texts each, at most {MOST_TEXTS} texts are written for "
            "one request",
            param="prompt" if prompts > 1 else "n",
        )
    if compares:
        raise ApiError(
            400,
            "best_of: texts are compared at their end, they cannot be streamed; stream false is "
            "needed",
            param="best_of",
        )


class Answer:
    """An answer in the form of OpenAI's text_completion, whole or in chunks."""

    def __init__(self, writing: Writing) -> None:
        self._writing, self._served = writing, writing.job.served
        self._head: Mapping[str, Any] = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": writing.created,
            "model": self._served.name,
            "system_fingerprint": self._served.fingerprint,
        }
        self._offsets: dict[int, Offsets] = {}  # of each text, in a stream

    async def whole(self) -> Response:
        return await self._writing.answer(self._content)

    async def streamed(self) -> Response:
        return await self._writing.streamed(self._chunks, [], self._usage)

    def _content(self, found: list[list[Completion]]) -> dict[str, Any]:
        texts = [one for of_prompt in found for one in of_prompt]
        return {
            **self._head,
            "choices": [self._choice(index, one) for index, one in enumerate(texts)],
            "usage": self._writing.usage,
            "seed": self._writing.job.options.seed,
            **self._writing.notices,
        }

    def _choice(self, index: int, one: Completion) -> dict[str, Any]:
        logprobs = None
        if one.logprobs is not None:
            offsets = self._offsets_of(index)
            logprobs = self._logprobs(one.logprobs, one.end, offsets)
        return {
            "index": index,
            "text": one.text,
            "logprobs": logprobs,
            "finish_reason": one.finish_reason,
        }

    def _chunks(self, piece: Piece) -> list[dict[str, Any]]:
        follow, logprobs = self._writing.follow, None
        assert follow is not None
        index = follow.tickets.index(piece.ticket) * self._writing.job.options.n + piece.index
        id = piece.end if piece.id is None else piece.id
        if self._writing.job.options.logprobs is not None and id is not None:
            offsets = self._offsets.setdefault(index, self._offsets_of(index))
            token = Logprob(id, piece.logprob, piece.top or [])
            shown, end = ([], token) if piece.id is None else ([token], None)
            logprobs = self._logprobs(shown, end, offsets)
        if not piece.text and logprobs is None and piece.finish_reason is None:
            return []
        choice = {
            "index": index,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }
        more: dict[str, Any] = {"usage": None} if self._writing.job.include_usage else {}
        if piece.finish_reason is not None:
            more |= self._writing.notices
        return [{**self._head, "choices": [choice], **more}]

    def _usage(self) -> dict[str, Any]:
        return {**self._head, "choices": [], "usage": self._writing.usage}

    def _offsets_of(self, index: int) -> Offsets:
        """Places in the text of a number among all."""
        follow = self._writing.follow
        assert follow is not None
        ticket = follow.tickets[index // self._writing.job.options.n]
        return Offsets(ticket, self._served.tokenizer)

    def _logprobs(
        self, shown: Sequence[Logprob], end: Logprob | None, offsets: Offsets
    ) -> dict[str, Any]:
        """Names of tokens, log-probabilities, those of the most probable, places in the text; the
        token that ended it comes last."""
        places = [offsets.next(token.id) for token in shown]
        tokens = list(shown)
        if end is not None:
            tokens.append(end)
            places.append(offsets.next(end.id, ended=True))
        return {
            "tokens": [self._served.tokenizer.token_of(token.id) for token in tokens],
            "token_logprobs": [
                None if token.logprob is None else finite(token.logprob) for token in tokens
            ],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": places,
        }

    def _top(self, token: Logprob) -> dict[str, float] | None:
        """The most probable tokens and the one that was taken, by name; of two with the same name
        the more probable."""
        if token.logprob is None:
            return None
        found: dict[str, float] = {}
        for id, value in [*token.top, (token.id, token.logprob)]:
            found.setdefault(self._served.tokenizer.token_of(id), finite(value))
        return found
