"""POST /v1/chat/completions"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from minillm.serve.admission import require_room
from minillm.serve.asking import (
    FIELDS,
    MOST_LOGPROBS,
    MOST_TOKENS,
    Job,
    names_of,
    options_of,
    scope_of,
    streaming,
)
from minillm.serve.bodies import read_body
from minillm.serve.catalogue import Served, served_of
from minillm.serve.chat_answer import Answer
from minillm.serve.errors import ApiError, refusing
from minillm.serve.fields import Anything, Choice, Flag, Object, Several, Text, Whole
from minillm.serve.messages import MESSAGES, written
from minillm.serve.tools import FIELDS as TOOL_FIELDS
from minillm.serve.tools import calls_of, tools_of
from minillm.serve.writing import Writing

FORM = Object(
    FIELDS
    | TOOL_FIELDS
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
NAMES = names_of(
    FORM, json_schema="response_format", calls="tools", logprobs="top_logprobs", prompt="messages"
)
OWN = ("messages", "tools", "add_generation_prompt", "tokenizer", "self")


async def chat(request: Request) -> Response:
    body = await read_body(request, FORM)
    served = served_of(request, body.get("model"))
    require_room(request, served.writing())
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
        **_format(body, served),
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
    messages = written(body["messages"], served.template)
    variables = dict(body.get("chat_template_kwargs", {}))
    for name in variables:
        if name in OWN or not name.isidentifier():
            raise ApiError(
                400, f"chat_template_kwargs.{name[:100]}: not for requests to set",
                param="chat_template_kwargs",
            )  # fmt: skip
    if tools := tools_of(body, served.template):
        variables["tools"] = tools
    with refusing("messages"):
        return served.tokenizer.apply_chat_template(
            messages, add_generation_prompt=prompts, **variables
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


def _format(body: dict[str, Any], served: Served) -> dict[str, Any]:
    """The constraint of a response_format, or of tools."""
    given, calls = body.get("response_format"), calls_of(body, served.template)
    if calls is not None and given is not None and given.get("type") != "text":
        raise ApiError(
            400, "response_format: given with tools, one of them is needed",
            param="response_format",
        )  # fmt: skip
    if calls is not None:
        return {"calls": calls}
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
