"""Servers in processes of their own, and clients that stream from them."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from bench.line import ROOT

START = 120.0  # seconds that a server may take to answer
PATIENCE = 600.0  # and a request


class Answer(NamedTuple):
    """What a client got: the text, its tokens, seconds to the first and to the end."""

    text: str
    tokens: int
    first_s: float
    whole_s: float


class Served:
    """A server of a model, until it is closed. RuntimeError with its last words if it is gone."""

    def __init__(self, name: str, words: Sequence[str], port: int | None = None) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=self._said
        )
        try:
            self.host, self.port = self._address(port)
        except BaseException:
            self.close()
            raise

    def _address(self, port: int | None) -> tuple[str, int]:
        end = time.monotonic() + START
        while time.monotonic() < end:
            said = self.words
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name}: {said.splitlines()[-1] if said else 'it ended'}")
            found = re.search(r"http://[\w.]+:\d+", said)
            place = urlsplit(found[0]) if found else None
            host, known = "127.0.0.1", place.port if place else port
            if known is not None and _answers(host, known):
                return host, known
            time.sleep(0.05)
        raise RuntimeError(f"{self.name}: no answer after {START:g} s")

    @property
    def words(self) -> str:
        """What it said on standard error."""
        self._said.seek(0)
        return self._said.read().strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._said.close()

    def ask(self, prompt: str, tokens: int) -> Answer:
        """Stream a greedy completion. RuntimeError for anything but a whole answer."""
        line = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        begin, first, parts = time.perf_counter(), 0.0, []
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        try:
            headers = {"Content-Type": "application/json"}
            line.request("POST", "/v1/completions", json.dumps(body), headers)
            response = line.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{self.name}: {response.status} {response.read()[:300]!r}")
            while part := response.read1():  # understood later: the server shares its cores with us
                first = first or time.perf_counter()
                parts.append(part)
        finally:
            line.close()
        end = time.perf_counter()
        lines = b"".join(parts).splitlines()
        events = [one[6:] for one in lines if one.startswith(b"data: ")]
        if not events or events.pop() != b"[DONE]":
            raise RuntimeError(f"{self.name}: the stream broke off after {len(events)} events")
        texts = [_text(json.loads(event)) for event in events]
        count = sum(text != "" for text in texts)
        return Answer("".join(texts), count, first - begin, end - begin)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def _text(chunk: dict[str, Any]) -> str:
    return str(chunk["choices"][0]["text"]) if chunk.get("choices") else ""


def together(server: Served, prompts: Sequence[str], tokens: int) -> tuple[list[Any], float]:
    """What clients that ask at the same time get, an Answer or an error each; seconds in all."""
    found: list[Any] = [None] * len(prompts)
    ready = threading.Barrier(len(prompts) + 1)

    def one(place: int) -> None:
        ready.wait()
        try:
            found[place] = server.ask(prompts[place], tokens)
        except (RuntimeError, OSError, ValueError, http.client.HTTPException) as error:
            found[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return found, time.perf_counter() - begin


def ours(path: str, threads: int, clients: int) -> Served:
    words = [sys.executable, "-m", "minillm", "serve", path, "--port", "0", "--threads"]
    most = ["--max-concurrency", str(clients), "--max-queue", str(clients)]
    return Served("minillm", [*words, str(threads), *most])


def llama_cpp(python: str, path: str, threads: int, context: int) -> Served:
    """llama-cpp-python's server; it works on one request at a time, the others wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [python, "-m", "llama_cpp.server", "--model", path, "--port", str(port)]
    more = ["--n_ctx", str(context), "--n_threads", str(threads), "--n_threads_batch", str(threads)]
    quiet = ["--interrupt_requests", "false", "--logits_all", "false", "--verbose", "false"]
    return Served("llama-server", [*words, *more, *quiet], port)


def resident_mb(pid: int) -> float:
    """Resident memory of a process, 10^6 bytes; 0 where there is no /proc."""
    path = f"/proc/{pid}/status"
    if not os.path.exists(path):
        return 0.0
    with open(path, encoding="ascii", errors="replace") as file:
        found = re.search(r"VmRSS:\s+(\d+) kB", file.read())
    return int(found[1]) * 1.024e-3 if found else 0.0
