"""GET /health, /ready, /v1/models"""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from minillm.serve.catalogue import Served

STUCK = 60.0  # seconds that no step takes


async def health(request: Request) -> Response:
    """Whether the process does its work: 503 once its engine has stopped or hangs."""
    worker = request.app.state.catalogue.worker
    began = worker.step_began
    seconds = 0.0 if began is None else time.monotonic() - began
    if worker.failure is not None:
        return JSONResponse({"status": "stopped"}, 503)
    if seconds > STUCK:
        return JSONResponse({"status": "stuck", "seconds": round(seconds, 1)}, 503)
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """Whether requests are taken now: 503 while the server ends."""
    if request.app.state.ending:
        return JSONResponse({"status": "ending"}, 503)
    return await health(request)


async def models(request: Request) -> Response:
    data = [described(served) for served in request.app.state.catalogue.all()]
    return JSONResponse({"object": "list", "data": data})


async def model(request: Request) -> Response:
    return JSONResponse(described(request.app.state.catalogue.find(request.path_params["name"])))


def described(served: Served) -> dict[str, Any]:
    """A model in OpenAI's form, and what this server says of it beside."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": "minillm",
        "kind": served.kind,
        "context": served.context,
        "embeds": served.embedder is not None,
        "classifies": served.classifier is not None,
        "chat": served.tokenizer.chat_template is not None and served.kind == "decoder",
        "adapter": served.adapter,
        "fingerprint": served.fingerprint,
    }
