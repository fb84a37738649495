"""GET /openapi.json: the interface as an OpenAPI document, from the forms that are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from minillm import __version__
from minillm.serve import chat, completions, encoders, status, tokens
from minillm.serve.fields import Object

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
ANY: Schema = {}
ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def answer(**fields: Schema) -> Schema:
    """An object that has these fields."""
    return {"type": "object", "properties": fields, "required": [*fields]}


def listed(of: Schema) -> Schema:
    return {"type": "array", "items": of}


READ = answer(prompt_tokens=WHOLE, total_tokens=WHOLE)
USAGE = answer(prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE)
HEAD: dict[str, Schema] = {"id": TEXT, "created": WHOLE, "model": TEXT, "system_fingerprint": TEXT}
REASON: Schema = {"enum": ["stop", "length", "tool_calls"]}
MODEL = answer(id=TEXT, object={"const": "model"}, created=WHOLE, owned_by=TEXT)
CHAT = answer(
    **HEAD,
    object={"const": "chat.completion"},
    choices=listed(
        answer(
            index=WHOLE,
            message=answer(role={"const": "assistant"}, content={"type": ["string", "null"]}),
            logprobs=ANY,
            finish_reason=REASON,
        )
    ),
    usage=USAGE,
    seed=WHOLE,
)
COMPLETION = answer(
    **HEAD,
    object={"const": "text_completion"},
    choices=listed(answer(index=WHOLE, text=TEXT, logprobs=ANY, finish_reason=REASON)),
    usage=USAGE,
    seed=WHOLE,
)
EMBEDDINGS = answer(
    object={"const": "list"},
    data=listed(answer(index=WHOLE, embedding={"anyOf": [listed(NUMBER), TEXT]})),
    model=TEXT,
    usage=READ,
)
RERANK = answer(
    id=TEXT, model=TEXT, results=listed(answer(index=WHOLE, relevance_score=NUMBER)), usage=READ
)
CLASSIFY = answer(
    model=TEXT,
    labels=listed(TEXT),
    data=listed(answer(index=WHOLE, label=TEXT, probs=listed(NUMBER))),
    usage=READ,
)


@dataclass(frozen=True)
class Operation:
    """A path, what answers it, the form of its body (None: it has none), and what it gives."""

    path: str
    handler: Any
    answer: Schema
    form: Object | None = None
    streams: bool = False
    parameters: tuple[Schema, ...] = ()
    refusals: tuple[int, ...] = ()

    @property
    def method(self) -> str:
        return "get" if self.form is None else "post"

    def route(self) -> BaseRoute:
        path = self.path.replace("{name}", "{name:path}")
        return Route(path, self.handler, methods=[self.method.upper()])

    def document(self) -> Schema:
        responses: Schema = {"200": {"description": "The answer", "content": self._content()}}
        for status_code in self.refusals:
            responses[str(status_code)] = _error(status_code)
        found: Schema = {
            "operationId": self.handler.__name__,
            "summary": (self.handler.__doc__ or self.handler.__name__).splitlines()[0],
            "responses": responses,
        }
        if self.parameters:
            found["parameters"] = list(self.parameters)
        if self.form is not None:
            content = {"application/json": {"schema": self.form.schema()}}
            found["requestBody"] = {"required": True, "content": content}
        return found

    def _content(self) -> Schema:
        content: Schema = {"application/json": {"schema": self.answer}}
        if self.streams:
            content["text/event-stream"] = {"schema": answer(data=TEXT)}  # of each event
        return content


def _error(status_code: int) -> Schema:
    schema = {"$ref": "#/components/schemas/Error"}
    return {
        "description": DESCRIPTIONS[status_code],
        "content": {"application/json": {"schema": schema}},
    }


DESCRIPTIONS = {
    400: "A field is wrong; param names it",
    401: "No valid key",
    404: "No such model",
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not application/json, or it is coded",
    421: "Called by a name that is not local",
    429: "As many requests as are let in run or wait; Retry-After says when to come again",
    431: "The headers are too large",
    500: "The text could not be written",
    503: "The server ends, or its engine has stopped",
    504: "The request took longer than it may",
}
DOOR = (401, 421, 431)
BODY = (*DOOR, 400, 404, 408, 413, 415)
WRITING = (*BODY, 429, 500, 503, 504)
READING = (*BODY, 429, 503, 504)
NAME: Schema = {"name": "name", "in": "path", "required": True, "schema": TEXT}
WHICH: Schema = {"name": "model", "in": "query", "required": False, "schema": TEXT}
OPERATIONS = (
    Operation("/v1/chat/completions", chat.chat, CHAT, chat.FORM, True, refusals=WRITING),
    Operation(
        "/v1/completions", completions.completions, COMPLETION, completions.FORM, True,
        refusals=WRITING,
    ),
    Operation("/v1/embeddings", encoders.embeddings, EMBEDDINGS, encoders.EMBEDDINGS,
              refusals=READING),
    Operation("/v1/rerank", encoders.rerank, RERANK, encoders.RERANK, refusals=READING),
    Operation("/v1/classify", encoders.classify, CLASSIFY, encoders.CLASSIFY, refusals=READING),
    Operation(
        "/tokenize", tokens.tokenize, answer(count=WHOLE, tokens=listed(WHOLE)), tokens.TOKENIZE,
        refusals=(*BODY, 504),
    ),
    Operation("/detokenize", tokens.detokenize, answer(prompt=TEXT), tokens.DETOKENIZE,
              refusals=(*BODY, 504)),
    Operation("/tokenizer_info", tokens.tokenizer_info, answer(vocab_size=WHOLE),
              parameters=(WHICH,), refusals=(*DOOR, 400, 404)),
    Operation("/v1/models", status.models, answer(object={"const": "list"}, data=listed(MODEL)),
              refusals=DOOR),
    Operation("/v1/models/{name}", status.model, MODEL, parameters=(NAME,),
              refusals=(*DOOR, 404)),
    Operation("/health", status.health, answer(status=TEXT), refusals=(431, 503)),
    Operation("/ready", status.ready, answer(status=TEXT), refusals=(431, 503)),
)  # fmt: skip


def document(operations: Sequence[Operation] = OPERATIONS) -> Schema:
    paths: Schema = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method] = one.document()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "minillm serve",
            "version": __version__,
            "description": "Models behind OpenAI's interface. Unknown fields are refused.",
        },
        "paths": paths,
        "security": [{}, {"key": []}],
        "components": {
            "schemas": {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


async def openapi(request: Request) -> Response:
    """This document."""
    return JSONResponse(document())
