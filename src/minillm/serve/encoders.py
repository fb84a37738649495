"""POST /v1/embeddings, /v1/rerank and /v1/classify: what encoders are asked."""

from __future__ import annotations

import asyncio
import base64
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from minillm.serve.admission import let_in
from minillm.serve.bodies import read_body
from minillm.serve.catalogue import Served, served_of
from minillm.serve.completions import Prompts
from minillm.serve.errors import ApiError, refusing
from minillm.serve.events import ClientLeft, unless_gone
from minillm.serve.fields import Choice, Flag, Object, Several, Text, Whole
from minillm.serve.worker import Stopped
from minillm.serve.writing import new_id

TOGETHER = 8  # texts that are computed between two steps of those who write
MOST = 2048  # texts of a request
COMMON = {"model": Text(1), "truncate": Flag()}
EMBEDDINGS = Object(
    COMMON
    | {
        "input": Prompts(MOST),
        "encoding_format": Choice(("float", "base64")),
        "dimensions": Whole(1, 1 << 20),
    },
    ("input",),
)
RERANK = Object(
    COMMON
    | {
        "query": Text(1),
        "documents": Several(Text(1), 1, MOST),
        "top_n": Whole(1, MOST),
        "return_documents": Flag(),
    },
    ("query", "documents"),
)
CLASSIFY = Object(COMMON | {"input": Several(Text(1), 1, MOST, alone=True)}, ("input",))


Answer = Callable[[Request, Served, dict[str, Any]], Awaitable[Response]]
Handler = Callable[[Request], Awaitable[Response]]


def _asking(form: Object, part: str) -> Callable[[Answer], Handler]:
    """Answers requests of a form about a model with a part; as many at a time as are let in."""

    def handler_of(answer: Answer) -> Handler:
        @functools.wraps(answer)
        async def handler(request: Request) -> Response:
            body = await read_body(request, form)
            served = _served(request, body, part)
            with let_in(request, served):
                return await answer(request, served, body)

        return handler

    return handler_of


@_asking(EMBEDDINGS, "embedder")
async def embeddings(request: Request, served: Served, body: dict[str, Any]) -> Response:
    """A vector for each text."""
    wanted = body.get("dimensions", served.embedder.dimensions)
    if wanted != served.embedder.dimensions:
        raise ApiError(
            400,
            f"dimensions: {wanted}, {served.embedder.dimensions} (the model's) is needed",
            param="dimensions",
        )
    rows = _Rows(served, body.get("truncate", False))
    named = {f"input[{place}]": one for place, one in enumerate(body["input"])}
    await asyncio.to_thread(rows.add, named)
    request.state.read = rows.read
    vectors = await _computed(request, served, rows.rows)
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _shown(vector, as_base64)}
        for index, vector in enumerate(vectors)
    ]
    return JSONResponse(
        {"object": "list", "data": data, "model": served.name, "usage": rows.usage, **rows.notices}
    )


@_asking(RERANK, "embedder")
async def rerank(request: Request, served: Served, body: dict[str, Any]) -> Response:
    """Documents by how alike they are to a query: the cosine of their vectors."""
    rows = _Rows(served, body.get("truncate", False))
    documents = {f"documents[{place}]": one for place, one in enumerate(body["documents"])}
    await asyncio.to_thread(rows.add, {"query": body["query"], **documents})
    request.state.read = rows.read
    vectors = (await _computed(request, served, rows.rows)).astype(numpy.float64)
    vectors /= numpy.maximum(numpy.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scores = vectors[1:] @ vectors[0]
    results = []
    for index in numpy.argsort(-scores, kind="stable")[: body.get("top_n")]:
        found: dict[str, Any] = {"index": int(index), "relevance_score": float(scores[index])}
        if body.get("return_documents", False):
            found["document"] = {"text": body["documents"][index]}
        results.append(found)
    return JSONResponse(
        {
            "id": new_id("rerank"),
            "model": served.name,
            "results": results,
            "usage": rows.usage,
            **rows.notices,
        }
    )


@_asking(CLASSIFY, "classifier")
async def classify(request: Request, served: Served, body: dict[str, Any]) -> Response:
    """The most probable class of each text, and the probability of all."""
    texts, encoding = body["input"], served.classifier.encoding
    lengths = await asyncio.to_thread(_lengths, served, texts)
    if not body.get("truncate", False):
        for place, length in enumerate(lengths):
            if length > encoding.length:
                raise _too_long(f"input[{place}]", length, encoding.length)
    found: list[Any] = []
    for start in range(0, len(texts), TOGETHER):
        some = texts[start : start + TOGETHER]
        found += await _between_steps(request, lambda some=some: served.classifier.predict(some)[0])
    request.state.read = read = sum(min(length, encoding.length) for length in lengths)
    data = [
        {
            "index": index,
            "label": one.label,
            "probs": list(one.probabilities.values()),
            "num_classes": len(one.probabilities),
        }
        for index, one in enumerate(found)
    ]
    cut = sum(length > encoding.length for length in lengths)
    return JSONResponse(
        {
            "id": new_id("classify"),
            "object": "list",
            "model": served.name,
            "labels": list(served.classifier.labels),
            "data": data,
            "usage": {"prompt_tokens": read, "total_tokens": read},
            **_notices(cut, len(texts), encoding.length),
        }
    )


class _Rows:
    """The ids of texts, cut only where that is asked for."""

    def __init__(self, served: Served, truncate: bool) -> None:
        self._served, self._truncate = served, truncate
        self.rows: list[Sequence[int]] = []
        self.cut = 0

    def add(self, texts: Mapping[str, str | tuple[int, ...]]) -> None:
        """Texts, or ids, by the names of their fields."""
        for name, text in texts.items():
            self._add(name, text)

    def _add(self, name: str, text: str | tuple[int, ...]) -> None:
        embedder = self._served.embedder
        if isinstance(text, str):
            with refusing(name):
                ids, lost = embedder.tokenize(text)
        else:
            ids, lost = list(text), max(0, len(text) - embedder.max_length)
            size = embedder.model.config.vocab_size
            if max(ids) >= size:
                raise ApiError(
                    400, f"{name}: id {max(ids)}, 0 <= id < {size} is needed", param=name
                )
            ids = ids[: embedder.max_length]
        if not ids:
            raise ApiError(400, f"{name}: it gives no token, at least 1 is needed", param=name)
        if lost and not self._truncate:
            raise _too_long(name, len(ids) + lost, embedder.max_length)
        self.cut += lost > 0
        self.rows.append(ids)

    @property
    def read(self) -> int:
        """Tokens of all."""
        return sum(map(len, self.rows))

    @property
    def usage(self) -> dict[str, int]:
        return {"prompt_tokens": self.read, "total_tokens": self.read}

    @property
    def notices(self) -> dict[str, Any]:
        return _notices(self.cut, len(self.rows), self._served.embedder.max_length)


def _notices(cut: int, texts: int, most: int) -> dict[str, Any]:
    return {"notices": [f"{cut} of {texts} texts cut to {most} tokens"]} if cut else {}


def _too_long(name: str, length: int, most: int) -> ApiError:
    return ApiError(
        400,
        f"{name}: {length:,} tokens, at most {most:,} (the model's) are read; truncate true cuts",
        param=name,
        code="context_length_exceeded",
    )


def _lengths(served: Served, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has with those around it."""
    found = []
    for place, text in enumerate(texts):
        with refusing(f"input[{place}]"):
            found.append(len(served.tokenizer.encode(text, add_special_tokens=True)))
    return found


def _served(request: Request, body: dict[str, Any], part: str) -> Served:
    """The model, which needs to be an embedder or a classifier."""
    served = served_of(request, body.get("model"))
    if getattr(served, part) is None:
        raise ApiError(
            400,
            f"model: {served.name} is no {part}, one is needed",
            param="model",
            code="model_not_supported",
        )
    return served


async def _computed(request: Request, served: Served, rows: Sequence[Sequence[int]]) -> Any:
    """The vectors of ids, some at a time."""
    found = []
    for start in range(0, len(rows), TOGETHER):
        some = rows[start : start + TOGETHER]
        found.append(
            await _between_steps(request, lambda some=some: served.embedder.encode_rows(some))
        )
    return numpy.concatenate(found)


async def _between_steps(request: Request, work: Any) -> Any:
    try:
        async with asyncio.timeout(request.state.deadline - time.monotonic()):
            return await unless_gone(request, request.app.state.catalogue.worker.call(work))
    except TimeoutError:
        raise ApiError(
            504,
            f"not whole after {request.app.state.settings.request_seconds:g} s, as long as a "
            "request is given; fewer texts are needed",
            code="deadline_exceeded",
        ) from None
    except Stopped as error:
        raise ApiError(503, str(error), code="server_ending") from None
    except ClientLeft:
        raise ApiError(499, "the client left") from None


def _shown(vector: numpy.ndarray, as_base64: bool) -> Any:
    """Numbers, or their bytes (float32, little-endian)."""
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(number) for number in vector]
