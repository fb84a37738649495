"""What an operator sees of a server: metrics, log lines, health."""

import json
import logging
import re
import threading
import time

import pytest

pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")

from small_bigram import TURN, bigram, tokenizer
from small_server import serving  # the extra `serve`, or skipped

from minillm.serve.logs import Json, Text  # isort: skip

SECRET = "zebra-7741"


def ask(text="?", **more):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def hello(**settings):
    return serving(("hello", bigram(f"\nab{TURN}"), tokenizer()), **settings)


def value(client, name):
    """Of a sample, as its line spells it."""
    lines = client.get("/metrics").text.splitlines()
    found = [line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == name]
    return float(found[0]) if found else None


@pytest.fixture
def records():
    """What is logged, as long as the test runs."""
    found, log = [], logging.getLogger("minillm.serve")

    class Keep(logging.Handler):
        def emit(self, record):
            found.append(record)

    handler, level = Keep(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield found
    log.removeHandler(handler)
    log.setLevel(level)


def test_metrics_count_what_was_asked_and_written():
    with hello(metrics=True) as client:
        usage = [client.post("/v1/chat/completions", json=ask(stream=stream)) for stream in (0, 0)]
        assert [answer.status_code for answer in usage] == [400, 400]  # 0 is no flag
        answers = [client.post("/v1/chat/completions", json=ask()).json() for _ in range(3)]
        client.get("/no/such/path")
        model = '{model="hello"}'
        read = sum(answer["usage"]["prompt_tokens"] for answer in answers)
        assert value(client, f"minillm_prompt_tokens_total{model}") == read
        assert value(client, f"minillm_generation_tokens_total{model}") == 9
        assert value(client, f"minillm_time_to_first_token_seconds_count{model}") == 3
        assert value(client, f"minillm_time_per_output_token_seconds_count{model}") == 3
        assert value(client, f"minillm_e2e_request_latency_seconds_count{model}") == 3
        assert value(client, f"minillm_num_requests_running{model}") == 0
        assert value(client, f"minillm_num_requests_waiting{model}") == 0
        path = "/v1/chat/completions"
        assert value(client, f'minillm_requests_total{{path="{path}",status="200"}}') == 3
        assert value(client, f'minillm_requests_total{{path="{path}",status="400"}}') == 2
        assert value(client, 'minillm_requests_total{path="other",status="404"}') == 1


def test_metrics_are_there_only_when_asked_for():
    with hello() as client:
        assert client.get("/metrics").status_code == 404


def test_a_client_that_leaves_is_counted_once():
    endless = bigram("\nab" + "ba")
    with serving(("endless", endless, tokenizer()), metrics=True, request_seconds=60) as client:
        over, body = threading.Event(), ask(stream=True, max_tokens=4000)
        client.app.state.catalogue.worker.on_end.append(lambda follow: over.set())
        with client.stream("POST", "/v1/chat/completions", json=body) as response:
            next(response.iter_lines())
        assert over.wait(60)
        assert value(client, 'minillm_requests_cancelled_total{model="endless"}') == 1
        written = value(client, 'minillm_generation_tokens_total{model="endless"}')
        assert written < 3999


def test_a_line_tells_of_a_request_and_nothing_of_its_text(records):
    with hello() as client:
        answer = client.post(
            "/v1/chat/completions", json=ask(SECRET), headers={"X-Request-ID": "mine-1"}
        )
        assert answer.headers["x-request-id"] == "mine-1"
        other = client.get("/health", headers={"X-Request-ID": "two words"})
        assert re.fullmatch("[0-9a-f]{16}", other.headers["x-request-id"])
    first, second = records
    assert first.facts["id"] == "mine-1" and first.facts["status"] == 200
    assert first.facts["path"] == "/v1/chat/completions"
    assert first.facts["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert second.facts["path"] == "/health"
    for record in records:
        for form in (Text(), Json()):
            line = form.format(record)
            assert "\n" not in line and SECRET not in line
    assert json.loads(Json().format(first))["id"] == "mine-1"


def test_what_is_asked_is_logged_when_that_is_asked_for(records):
    with hello(log_texts=True) as client:
        client.post("/v1/chat/completions", json=ask(SECRET + "\nid=forged"))
    (record,) = records
    assert SECRET in record.facts["body"]
    assert "\n" not in Text().format(record)


def test_health_notices_an_engine_that_hangs(monkeypatch):
    with hello() as client:
        worker = client.app.state.catalogue.worker
        assert client.get("/health").status_code == 200
        monkeypatch.setattr(worker, "step_began", time.monotonic() - 61)
        answer = client.get("/health")
        assert answer.status_code == 503 and answer.json()["status"] == "stuck"
        assert client.get("/ready").status_code == 503
