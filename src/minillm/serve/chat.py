"""POST /v1/chat/completions"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from minillm.generation import Completion, Piece
from minillm.serve.bodies import read_body
from minillm.serve.catalogue import Served
from minillm.serve.errors import ApiError, refusing
from minillm.serve.fields import Anything, Choice, Flag, Object, Several, Text, Whole
from minillm.serve.messages import MESSAGES
from minillm.serve.writing import (
    FIELDS,
    MOST_LOGPROBS,
    MOST_TOKENS,
    Job,
    Writing,
    names_of,
    new_id,
    options_of,
    scope_of,
    streaming,
    token_content,
)

FORM = Object(
    FIELDS
    | {
        "messages": MESSAGES,
        "max_completion_tokens": Whole(0, MOST_TOKENS),
        "logprobs": Flag(),
        "top_logprobs": Whole(0, MOST_LOGPROBS),
        "response_format": Anything(),
        "chat_template_kwargs": Anything(),
        "store": Choice((False,)),
        "modalities": Several(Choice(("text",)), 1, 1),
        "service_tier": Choice(("auto", "default")),
    },
    ("messages",),
)
NAMES = names_of(FORM, json_schema="response_format", logprobs="top_logprobs", prompt="messages")


async def chat(request: Request) -> Response:
    body = await read_body(request, FORM)
    served = request.app.state.catalogue.find(body.get("model"))
    served.writing()
    ids, ends = await asyncio.to_thread(_prompt, served, body)
    stream, include_usage = streaming(body)
    renamed = "max_tokens" not in body and "max_completion_tokens" in body
    names = NAMES | ({"max_tokens": "max_completion_tokens"} if renamed else {})
    options = options_of(
        body,
        names,
        stop_ids=ends,
        max_tokens=_limit(request, served, body, len(ids)),
        logprobs=_logprobs(body),
        **_format(body),
    )
    scope = scope_of(request, body, served.template_hash)
    job = Job(served, [ids], options, names, scope, stream, include_usage)
    answer = Answer(Writing(request, job))
    return await (answer.streamed() if stream else answer.whole())


def _prompt(served: Served, body: dict[str, Any]) -> tuple[list[int], tuple[int, ...]]:
    """The ids of the conversation, and those that end an answer."""
    return conversation_ids(served, body, True), served.turn_ends


def conversation_ids(served: Served, body: dict[str, Any], prompts: bool) -> list[int]:
    """The ids of `messages`, and with `prompts` of the answer's beginning; what a template says is
    a 400."""
    if served.tokenizer.chat_template is None:
        raise ApiError(
            400,
            f"messages: {served.name} has no chat template, one is needed; POST /v1/completions "
            "continues texts without",
            param="messages",
            code="no_chat_template",
        )
    variables = body.get("chat_template_kwargs", {})
    with refusing("messages"):
        return served.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=prompts, **variables
        )


def _limit(request: Request, served: Served, body: dict[str, Any], length: int) -> int:
    """How many tokens the answer may have: as many as are asked for, or up to the default."""
    old, new = body.get("max_tokens"), body.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        raise ApiError(
            400,
            f"max_tokens: {old}, but max_completion_tokens: {new}, one of them is needed",
            param="max_tokens",
        )
    asked = new if old is None else old
    if asked is not None:
        return int(asked)
    most: int = request.app.state.settings.max_tokens
    return most if served.context is None else max(1, min(most, served.context + 1 - length))


def _logprobs(body: dict[str, Any]) -> int | None:
    if body.get("logprobs"):
        return int(body.get("top_logprobs", 0))
    if body.get("top_logprobs") is not None:
        raise ApiError(
            400, "top_logprobs: given without logprobs, logprobs true is needed",
            param="top_logprobs",
        )  # fmt: skip
    return None


FORMATS = {
    "text": Object({"type": Text()}, ("type",)),
    "json_object": Object({"type": Text()}, ("type",)),
    "json_schema": Object(
        {
            "type": Text(),
            "json_schema": Object(
                {"name": Text(1), "description": Text(), "strict": Flag(), "schema": Anything()},
                ("name", "schema"),
            ),
        },
        ("type", "json_schema"),
    ),
}


def _format(body: dict[str, Any]) -> dict[str, Any]:
    """The constraint of a response_format."""
    given = body.get("response_format")
    if given is None:
        return {}
    kind = Choice(tuple(FORMATS)).read("response_format.type", given.get("type"))
    found = FORMATS[kind].read("response_format", given)
    if kind == "text":
        return {}
    return {
        "json_schema": {"type": "object"}
        if kind == "json_object"
        else found["json_schema"]["schema"]
    }


class Answer:
    """An answer in the form of OpenAI's chat.completion, whole or in chunks."""

    def __init__(self, writing: Writing) -> None:
        self._writing, self._served = writing, writing.job.served
        self._head: Mapping[str, Any] = {
            "id": new_id("chatcmpl"),
            "created": writing.created,
            "model": self._served.name,
            "system_fingerprint": self._served.fingerprint,
        }

    async def whole(self) -> Response:
        return await self._writing.answer(self._content)

    async def streamed(self) -> Response:
        first = [
            self._chunk(index, {"role": "assistant", "content": ""})
            for index in range(self._writing.job.options.n)
        ]
        return await self._writing.streamed(self._chunks, first, self._usage)

    def _content(self, found: list[list[Completion]]) -> dict[str, Any]:
        choices = [self._choice(index, one) for index, one in enumerate(found[0])]
        notices = self._writing.notices
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": self._writing.usage,
            "seed": self._writing.job.options.seed,
            **({"notices": notices} if notices else {}),
        }

    def _choice(self, index: int, one: Completion) -> dict[str, Any]:
        message = {"role": "assistant", "content": one.text, "refusal": None}
        logprobs = None
        if one.logprobs is not None:
            tokens = [*one.logprobs, *([] if one.end is None else [one.end])]
            logprobs = self._logprobs([self._token(*token) for token in tokens])
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": one.finish_reason,
        }

    def _chunks(self, piece: Piece) -> list[dict[str, Any]]:
        """The chunks of a piece: what it adds, and the end of a text by itself."""
        found, logprobs = [], None
        id = piece.end if piece.id is None else piece.id
        if self._writing.job.options.logprobs is not None and id is not None:
            logprobs = self._logprobs([self._token(id, piece.logprob, piece.top or [])])
        if piece.text or logprobs is not None:
            found.append(self._chunk(piece.index, {"content": piece.text}, logprobs))
        if piece.finish_reason is not None:
            found.append(self._chunk(piece.index, {}, reason=piece.finish_reason))
        return found

    def _chunk(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._writing.job.include_usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage}

    def _usage(self) -> dict[str, Any]:
        usage = self._writing.usage
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def _token(self, id: int, logprob: float | None, top: list[tuple[int, float]]) -> Any:
        assert logprob is not None
        others = [token_content(self._served, other, value) for other, value in top]
        return {**token_content(self._served, id, logprob), "top_logprobs": others}

    @staticmethod
    def _logprobs(tokens: list[Any]) -> dict[str, Any]:
        return {"content": tokens, "refusal": None}
