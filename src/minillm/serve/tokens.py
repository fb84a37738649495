"""POST /tokenize and /detokenize, GET /tokenizer_info: texts to ids and back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from minillm.generation.prompts import first_ids
from minillm.serve.bodies import read_body
from minillm.serve.catalogue import Served, served_of
from minillm.serve.chat import conversation_ids
from minillm.serve.completions import IDS
from minillm.serve.errors import ApiError, refusing
from minillm.serve.fields import Anything, Flag, Object, Text
from minillm.serve.messages import MESSAGES
from minillm.serve.tools import FIELDS as TOOL_FIELDS

TOKENIZE = Object(
    {
        "model": Text(1),
        "prompt": Text(),
        "messages": MESSAGES,
        "tools": TOOL_FIELDS["tools"],
        "add_special_tokens": Flag(),
        "add_generation_prompt": Flag(),
        "chat_template_kwargs": Anything(),
        "return_token_strs": Flag(),
    }
)
DETOKENIZE = Object({"model": Text(1), "tokens": IDS}, ("tokens",))


async def tokenize(request: Request) -> Response:
    """The ids of a prompt, or of a conversation, as they would be read."""
    body = await read_body(request, TOKENIZE)
    served = served_of(request, body.get("model"))
    ids = await asyncio.to_thread(_ids, served, body)
    found: dict[str, Any] = {"count": len(ids), "max_model_len": served.context, "tokens": ids}
    if body.get("return_token_strs", False):
        found["token_strs"] = [served.tokenizer.token_of(id) for id in ids]
    return JSONResponse(found)


def _ids(served: Served, body: dict[str, Any]) -> list[int]:
    if ("prompt" in body) == ("messages" in body):
        raise ApiError(400, "prompt, messages: one of them is needed, not both", param="prompt")
    if "messages" in body:
        if "add_special_tokens" in body:
            raise _foreign("add_special_tokens", "prompt")
        return conversation_ids(served, body, body.get("add_generation_prompt", True))
    for name in ("add_generation_prompt", "chat_template_kwargs", "tools"):
        if name in body:
            raise _foreign(name, "messages")
    with refusing("prompt"):
        if not body.get("add_special_tokens", True):
            return served.tokenizer.encode(body["prompt"])
        if served.kind == "decoder":
            return first_ids(served.tokenizer, body["prompt"])
        return served.tokenizer.encode(body["prompt"], add_special_tokens=True)


def _foreign(name: str, other: str) -> ApiError:
    return ApiError(400, f"{name}: given without {other}, {other} is needed", param=name)


async def tokenizer_info(request: Request) -> Response:
    """What a client that cuts texts into tokens by this server needs to know beside."""
    served = served_of(request, request.query_params.get("model"))
    tokenizer = served.tokenizer
    roles = {name: tokenizer.id_to_token(id) for name, id in tokenizer.role_ids.items()}
    return JSONResponse(
        {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "model_max_length": served.context,
            **{f"{name}_token": roles.get(name) for name in ("bos", "eos", "pad", "unk")},
            "chat_template": tokenizer.chat_template,
        }
    )


async def detokenize(request: Request) -> Response:
    """The text of ids, control tokens spelled."""
    body = await read_body(request, DETOKENIZE)
    served = served_of(request, body.get("model"))
    text = await asyncio.to_thread(_text, served, body["tokens"])
    return JSONResponse({"prompt": text})


def _text(served: Served, ids: Sequence[int]) -> str:
    size = served.tokenizer.vocab_size
    for place, id in enumerate(ids):
        if id >= size:
            name = f"tokens[{place}]"
            raise ApiError(400, f"{name}: id {id}, 0 <= id < {size} is needed", param=name)
    return served.tokenizer.decode(ids, skip_special_tokens=False)
