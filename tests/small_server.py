"""A server of small models on a port of its own, in a thread of the test."""

import json
import threading
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn", reason="uvicorn, the extra `serve`, is not installed")
pytest.importorskip("starlette", reason="starlette, the extra `serve`, is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from minillm.generation.budget import Budget  # noqa: E402
from minillm.serve.app import build  # noqa: E402
from minillm.serve.catalogue import Catalogue, serve_model  # noqa: E402
from minillm.serve.running import Server, bind  # noqa: E402
from minillm.serve.settings import Settings  # noqa: E402


@contextmanager
def serving(*models, **settings):
    """Serve models, each (name, model, tokenizer), or what makes a Served of the settings; gives a
    client of the server, whose `app` is the application.
    """
    chosen = Settings(port=0, **settings)
    budget = None if chosen.cache_bytes is None else Budget(chosen.cache_bytes)
    catalogue = Catalogue(budget)
    for made in models:
        if not callable(made):
            name, model, tokenizer = made
            catalogue.add(serve_model(name, name, model, tokenizer, chosen, budget))
        else:
            catalogue.add(made(chosen))
    with listening(build(chosen, catalogue), chosen) as client:
        yield client


@contextmanager
def listening(app, settings):
    """A client of an application that answers until the end."""
    with bind(settings) as listener:
        server = Server(app, settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                client.app = app
                yield client
        finally:
            server.end()
            thread.join(60)
            assert not thread.is_alive()


def chunks(response):
    """The objects of a stream; the last event has to be [DONE]."""
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def begun(count, ask):
    """Streams, each opened by `ask`, once all have begun; what this returns gives their whole texts
    when it is called."""
    ready, found = threading.Barrier(count + 1), []

    def one():
        with ask() as response:
            lines = response.iter_lines()
            first = next(lines)
            ready.wait(60)
            found.append(first + "".join(lines))

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    ready.wait(60)

    def whole():
        for thread in threads:
            thread.join(120)
        return found

    return whole
