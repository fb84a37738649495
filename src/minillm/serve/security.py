"""Who is let in, and what every answer says to browsers."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minillm.serve.errors import ApiError
from minillm.serve.settings import Settings

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/", "/health", "/ready")  # without a key, as are the files of the page
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
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > self._settings.max_headers:
            most = self._settings.max_headers
            return ApiError(431, f"headers: {size:,} bytes, at most {most:,} are taken")
        admin = bool(self._settings.admin_keys) and scope["path"].startswith("/admin/")
        if not self._settings.keys and not admin:
            return self._foreign_host(scope)
        if scope["path"] in OPEN or scope["path"].startswith("/page/"):
            return None
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        digest = self._settings.admits(key.strip(), admin) if scheme.lower() == "bearer" else None
        if digest is None:
            return ApiError(
                401,
                "authorization: no valid key, the header Authorization: Bearer KEY is needed",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        scope.setdefault("state", {})["key"] = digest
        return None

    def _foreign_host(self, scope: Scope) -> ApiError | None:
        """A page elsewhere may call this machine by a name of its own, and then read what a server
        without keys answers; so on the loopback the name has to be a local one."""
        settings, given = self._settings, Headers(scope=scope).get("host", "")
        name = given[: given.find("]") + 1] if given.startswith("[") else given.partition(":")[0]
        known = (*LOOPBACK_NAMES, *settings.allowed_hosts)
        if not settings.is_loopback or name.lower() in known:
            return None
        return ApiError(
            421,
            f"host: {given[:100]!r}, one of {', '.join(known)} is needed; --allow-host adds one",
            code="unknown_host",
        )
