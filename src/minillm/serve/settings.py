"""Everything that can be chosen about a server, in one place."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """What `minillm serve` is told; names are those of its flags.

    max_concurrency   texts that are written at a time by one model
    max_queue         requests that wait beside as many as are written at a time; more get a 429
    max_context       tokens of a prompt and its answer, None for as many as the model has
    max_tokens        of a chat's answer where the request does not say
    cache_bytes       of keys and values that running requests may need, None for half of what is
                      free once the models are loaded; others wait
    prefix_bytes      of keys and values of prompts that are kept, for each model
    share_prefixes    whether what was read of prompts serves requests with other keys, too
    keys              SHA-256 digests of the keys that are let in; none: everybody is
    allowed_hosts     names by which it may be called on the loopback beside the local ones
    request_seconds   from the whole request to its answer's end
    shutdown_seconds  that running requests are given when the server is asked to end
    header_seconds, body_seconds, write_seconds, idle_seconds
                      for a client to send its headers and its body, to take what it is sent, and to
                      keep a connection on which it asks nothing
    max_body, max_headers
                      bytes of a request
    admin_keys        digests of the keys that POST /admin/reload is let in with; none: nobody
    reload            whether models are opened anew when their files change
    metrics           whether GET /metrics answers, for Prometheus
    log_texts         whether what is asked is logged
    """

    host: str = "127.0.0.1"
    port: int = 8000
    max_concurrency: int = 8
    max_queue: int = 64
    max_context: int | None = None
    max_tokens: int = 1024
    cache_bytes: int | None = None
    prefix_bytes: int = 256 << 20
    share_prefixes: bool = False
    keys: tuple[bytes, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_body: int = 4 << 20
    request_seconds: float = 600.0
    shutdown_seconds: float = 30.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    idle_seconds: float = 30.0
    max_connections: int = 1024
    max_headers: int = 16 << 10
    admin_keys: tuple[bytes, ...] = ()
    reload: bool = False
    metrics: bool = False
    log_texts: bool = False

    def __post_init__(self) -> None:
        least = {"port": 0, "max_concurrency": 1, "max_queue": 0, "max_tokens": 1, "max_body": 1,
                 "max_connections": 1, "max_headers": 1024,
                 "prefix_bytes": 0}  # fmt: skip
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(
                    f"{name.replace('_', '-')}: {getattr(self, name)}, {value} or more is needed"
                )
        if self.cache_bytes is not None and self.cache_bytes < 1:
            raise ValueError(f"cache-bytes: {self.cache_bytes}, 1 or more is needed")
        if self.port > 65535:
            raise ValueError(f"port: {self.port}, 0 to 65535 is needed")
        if self.max_context is not None and self.max_context < 2:
            raise ValueError(f"max-context: {self.max_context}, 2 or more is needed")
        for name in ("request", "shutdown", "header", "body", "write", "idle"):
            if not getattr(self, f"{name}_seconds") > 0:
                seconds = getattr(self, f"{name}_seconds")
                raise ValueError(f"{name}-seconds: {seconds}, more than 0 is needed")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        return self.host in LOOPBACK

    def admits(self, key: str, admin: bool = False) -> bytes | None:
        """The digest of a key that is let in, else None; as slow for a wrong one as for a right."""
        digest, found = digest_of(key), None
        for known in self.admin_keys if admin else self.keys:
            if hmac.compare_digest(known, digest):
                found = known
        return found


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(path: str, flag: str = "api-key-file") -> tuple[bytes, ...]:
    """The digests of the keys in a file, one a line; ValueError for none or short ones.

    Empty lines and those that begin with # are left out.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ValueError(
            f"{flag}: {path}: {why}, a file with a key on each line is needed"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{flag}: {path} is no UTF-8 ({error.reason}), it is needed") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"{flag}: {path} holds no key, at least 1 line is needed")
    short = min(keys, key=len)
    if len(short) < 16:
        raise ValueError(
            f"{flag}: a key in {path} has {len(short)} characters, 16 or more are needed"
        )
    return tuple(digest_of(key) for key in keys)
