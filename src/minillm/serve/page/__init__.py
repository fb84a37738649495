"""The web page at /: static files of this folder, and the policy they are served under."""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
# Own scripts and styles from own files, requests to this server, and no text that becomes HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)


def routes() -> list[BaseRoute]:
    """The page at /, its other files under /page/. They are the same for everybody."""
    found: list[BaseRoute] = []
    for file in resources.files(__name__).iterdir():
        name = file.name
        kind = KINDS.get(name[name.rfind(".") :])
        if kind is not None:
            path = "/" if name == "index.html" else f"/page/{name}"
            found.append(Route(path, _File(file.read_bytes(), kind), methods=["GET"]))
    return found


class _File:
    """One file, kept in memory; a browser asks each time whether it changed."""

    def __init__(self, content: bytes, kind: str) -> None:
        self._content = content
        self._headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Security-Policy": POLICY,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-cache",
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:20]}"',
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = Request(scope).headers.get("if-none-match") == self._headers["ETag"]
        answer = Response(b"" if known else self._content, 304 if known else 200, self._headers)
        await answer(scope, receive, send)
