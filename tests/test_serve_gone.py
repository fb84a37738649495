"""A client that goes away: the work for it stops with the step that runs."""

import json
import socket
import threading

import pytest

from minillm.generation import Engine
from small_bigram import bigram, tokenizer
from small_server import serving  # the extra `serve`, or skipped

from minillm.serve.worker import Worker  # isort: skip

for name in ("jinja2", "prometheus_client"):
    pytest.importorskip(name, reason=f"{name}, the extra `serve`, is not installed")
LONG = "a long prompt " * 60  # over three chunks


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("said, steps", [("?", 3), (LONG, 2)], ids=["writing", "reading"])
def test_its_work_stops_within_a_step(monkeypatch, stream, said, steps):
    """The engine is held in step number `steps` until the server has noticed."""
    begun, noticed, over = threading.Event(), threading.Event(), threading.Event()
    taken, ended = [], []
    step, cancel = Engine.step, Worker.cancel

    def held_step(engine):
        taken.append(engine.running)
        if len(taken) == steps:
            begun.set()
            assert noticed.wait(60)
        return step(engine)

    def told_cancel(worker, follow):
        cancel(worker, follow)
        noticed.set()

    def told_end(follow):
        ended.append(follow)
        over.set()

    monkeypatch.setattr(Engine, "step", held_step)
    monkeypatch.setattr(Worker, "cancel", told_cancel)
    endless = ("endless", bigram("\nab" + "ba"), tokenizer())
    with serving(endless, metrics=True) as client:
        client.app.state.catalogue.worker.on_end.append(told_end)
        body = {"messages": [{"role": "user", "content": said}], "stream": stream}
        content = json.dumps(body | {"max_tokens": 2000}).encode()
        connection = socket.create_connection((client.base_url.host, client.base_url.port), 60)
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )
        assert begun.wait(60)
        connection.close()
        assert over.wait(60)
        (follow,) = ended
        assert follow.cancelled
        assert len(taken) == steps  # none began after that
        assert follow.tickets[0].written == (steps - 1 if said == "?" else 0)
        assert client.app.state.catalogue.worker.follows == []
        body = {"messages": [{"role": "user", "content": "?"}], "max_tokens": 3, "temperature": 0}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert not client.app.state.admitted
        counted = client.get("/metrics").text.splitlines()
        assert 'minillm_requests_cancelled_total{model="endless"} 1.0' in counted
