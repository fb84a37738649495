"""Who is let in, and what every answer says to browsers."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minillm.serve.errors import ApiError
from minillm.serve.settings import Settings

OPEN = ("/health", "/ready")  # without a key
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Guard:
    """Middleware: keys, and headers that close the doors of a browser. CORS stays closed: no answer
    names an origin."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        error = self._refusal(scope)
        if error is None:
            await self._app(scope, receive, guarded)
        else:
            await JSONResponse(error.content, error.status, error.headers)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> ApiError | None:
        if not self._settings.keys or scope["path"] in OPEN:
            return None
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        digest = self._settings.admits(key.strip()) if scheme.lower() == "bearer" else None
        if digest is None:
            return ApiError(
                401,
                "authorization: no valid key, the header Authorization: Bearer KEY is needed",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope.setdefault("state", {})["key"] = digest
        return None
