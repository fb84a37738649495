"""Numbers for Prometheus while requests run, a dashboard that names them, and lines of the log."""

import json
import logging
import re
import threading
from pathlib import Path

import pytest

from minillm.generation import Engine
from minillm.tokenizers import ByteTokenizer
from small_bigram import TURN, bigram, tokenizer
from small_gpt2 import small
from small_server import httpx, serving  # the extra `serve`, or skipped
from small_tasks import folder

parser = pytest.importorskip("prometheus_client.parser", reason="the extra `serve` is missing")

from minillm.serve import logs, status  # isort: skip # noqa: E402
from minillm.serve.loading import open_served  # isort: skip # noqa: E402
from minillm.serve.settings import digest_of  # isort: skip # noqa: E402
from minillm.serve.worker import Worker  # isort: skip # noqa: E402

KEY = "key-of-the-first-one"
DASHBOARD = Path(__file__).parent.parent / "deploy" / "grafana.json"


def hello(**settings):
    return serving(("hello", bigram(f"\nab{TURN}"), tokenizer()), **settings)


def body(**more):
    return {"messages": [{"role": "user", "content": "?"}], "temperature": 0, **more}


def samples(client):
    """Every number by its name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (one.name, *sorted(one.labels.items())): one.value
        for family in parser.text_string_to_metric_families(answer.text)
        for one in family.samples
    }


def number(found, name, **labels):
    return found.get((f"minillm_{name}", *sorted(labels.items())), 0)


def test_requests_and_tokens_are_counted_once():
    with hello(metrics=True) as client:
        usages = []
        for stream in (False, True):
            more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            answer = client.post("/v1/chat/completions", json=body(**more))
            last = answer.text.split("data: ")[-2] if stream else answer.text
            usages.append(json.loads(last)["usage"])
        cut = client.post("/v1/chat/completions", json=body(max_tokens=1)).json()
        usages.append(cut["usage"])
        found = samples(client)

        def of_model(name, **more):
            return number(found, name, model="hello", **more)

        for name, field in (("prompt", "prompt_tokens"), ("generation", "completion_tokens")):
            right = sum(usage[field] for usage in usages)
            assert of_model(f"{name}_tokens_total") == right
            assert of_model(f"request_{name}_tokens_sum") == right
        assert of_model("request_success_total", finished_reason="stop") == 2
        assert of_model("request_success_total", finished_reason="length") == 1
        for name in ("time_to_first_token", "e2e_request_latency"):
            assert of_model(f"{name}_seconds_count") == 3
        assert of_model("time_per_output_token_seconds_count") == 2  # one token has no next
        assert of_model("num_requests_running") == of_model("kv_cache_bytes") == 0


def test_what_runs_and_waits_is_seen(monkeypatch):
    """While three texts are written, of which two are written at a time."""
    release, held, queued = threading.Event(), threading.Event(), threading.Semaphore(0)
    step, follow, begun = Engine.step, Worker.follow, []

    def told_follow(*arguments):
        queued.release()
        return follow(*arguments)

    def held_step(engine):
        if not begun:
            assert all(queued.acquire(timeout=60) for _ in range(3))
            begun.append(engine)
        pieces = step(engine)
        if engine.running == 2 and engine.waiting == 1:
            held.set()
            assert release.wait(60)
        return pieces

    monkeypatch.setattr(Worker, "follow", told_follow)
    monkeypatch.setattr(Engine, "step", held_step)
    endless = "endless", bigram("\nabca"), tokenizer()
    with serving(endless, max_concurrency=2, metrics=True, cache_bytes=1 << 24) as client:

        def ask():
            asked = body(max_tokens=20)
            httpx.post(f"{client.base_url}/v1/chat/completions", json=asked, timeout=60)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert held.wait(60)
        during = samples(client)
        release.set()
        for thread in threads:
            thread.join(60)
        after = samples(client)
    model = {"model": "endless"}
    assert number(during, "num_requests_running", **model) == 2
    assert number(during, "num_requests_waiting", **model) == 1
    used = number(during, "kv_cache_bytes", **model)
    assert 0 < used == number(during, "kv_cache_usage_ratio") * (1 << 24)
    assert number(during, "kv_cache_limit_bytes") == 1 << 24
    written = number(during, "generation_tokens_total", **model)
    assert 0 < written < number(after, "generation_tokens_total", **model) == 60
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_bytes"):
        assert number(after, name, **model) == 0


def test_a_prefix_that_was_read_before_is_a_hit():
    with serving(
        ("small", small(vocab_size=257, n_positions=1024), ByteTokenizer()), metrics=True
    ) as client:
        chunk = client.app.state.catalogue.find("small").engine.chunk
        asked = {"prompt": [1] * (chunk + 5), "max_tokens": 1}
        for _ in range(2):
            usage = client.post("/v1/completions", json=asked).json()["usage"]
        found = samples(client)
    assert usage["prompt_tokens_details"]["cached_tokens"] == chunk
    assert number(found, "prompt_tokens_cached_total", model="small") == chunk
    assert number(found, "prompt_tokens_total", model="small") == 2 * (chunk + 5)
    assert number(found, "prefix_cache_bytes", model="small") > 0


def test_what_encoders_read_is_counted(tmp_path):
    place = folder(tmp_path / "v")
    with serving(lambda chosen: open_served("v", str(place), chosen), metrics=True) as client:
        usage = client.post("/v1/embeddings", json={"input": ["a b", "c"]}).json()["usage"]
        found = samples(client)
    assert number(found, "prompt_tokens_total", model="v") == usage["prompt_tokens"] > 0


def test_metrics_are_told_only_where_asked_and_behind_the_keys():
    with hello() as client:
        assert client.get("/metrics").status_code == 404
    with hello(metrics=True, keys=(digest_of(KEY),)) as client:
        assert client.get("/metrics").status_code == 401
        known = {"Authorization": f"Bearer {KEY}"}
        assert client.get("/metrics", headers=known).status_code == 200


def test_every_query_of_the_dashboard_names_what_there_is():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    with hello(metrics=True, cache_bytes=1 << 24) as client:
        client.post("/v1/chat/completions", json=body())
        found = samples(client)
    known = {}
    for name, *labels in found:
        known.setdefault(name, set()).update(label for label, _ in labels)
    assert len(queries) > 10
    told = set()
    for query in queries:
        names = set(re.findall(r"\b(?:minillm|process)_\w+", query))
        assert names and names <= known.keys(), query
        told |= names
        labels = set().union(*(known[name] for name in names))
        used = re.findall(r"(\w+)\s*=~?\s*\"", query)
        used += [one for group in re.findall(r"by \(([^)]*)\)", query) for one in group.split(", ")]
        assert set(used) <= labels | {"instance", "job"}, query
    own = {
        re.sub(r"_(bucket|sum|count|created)$", "", name)
        for name in known
        if name.startswith("minillm_") and not name.endswith("_created")
    }
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in told} >= own - {
        "minillm_engine_step_seconds"
    }


def test_a_failure_is_told_by_the_id_of_its_request(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(status, "described", lambda served: 1 / 0)
    with hello() as client:
        answer = client.get("/v1/models", headers={"X-Request-Id": "mine"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine"
    told = [one for one in caplog.records if one.name == "minillm.serve"]
    assert told[0].facts["status"] == 500 and told[0].facts["id"] == "mine"
    failures = [one for one in caplog.records if one.exc_info]
    assert "ZeroDivisionError" in json.loads(logs.Json().format(failures[-1]))["traceback"]


def test_a_line_says_which_model_who_asked_and_what_went_wrong(caplog):
    caplog.set_level(logging.INFO, "minillm.serve")
    with hello(keys=(digest_of(KEY),)) as client:
        known = {"Authorization": f"Bearer {KEY}"}
        for more in ({}, {"nonsense": 1}):
            client.post("/v1/chat/completions", json=body(**more), headers=known)
        client.get("/v1/models")
    good, bad, shut = (one.facts for one in caplog.records if one.name == "minillm.serve")
    assert good["model"] == "hello" and good["key"] == digest_of(KEY).hex()[:8]
    assert 0 < good["first_token_ms"] <= good["ms"]
    assert (bad["status"], bad["code"]) == (400, "unknown_parameter")
    assert shut["status"] == 401 and "key" not in shut
