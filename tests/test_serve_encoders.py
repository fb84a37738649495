"""Embeddings, rerank, classify, and the way from texts to ids, over HTTP."""

import base64
import functools
import threading

import numpy as np
import pytest

from minillm.models import embedding
from minillm.tasks import heads
from minillm.tasks.classification import Classification
from small_server import httpx, serving  # the extra `serve`, or skipped
from small_tasks import folder

from minillm.serve.loading import open_served  # isort: skip
from minillm.serve.running import Server  # isort: skip
from minillm.serve.worker import Worker  # isort: skip

TEXTS = ["the film was good", "a bad film", "tower of paris"]
LONG = "a " * 30


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    place = tmp_path_factory.mktemp("encoders")
    return {"vectors": folder(place / "v"), "classes": folder(place / "c", "classify")}


@pytest.fixture(scope="module")
def client(places):
    def opened(name):
        return lambda settings: open_served(name, str(places[name]), settings)

    with serving(*map(opened, places)) as found:
        yield found


def test_vectors_are_those_of_the_embedder(client, places):
    right = embedding.load(places["vectors"]).encode(TEXTS)
    body = {"model": "vectors", "input": TEXTS}
    answer = client.post("/v1/embeddings", json=body).json()
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], right, rtol=1e-5)
    assert answer["usage"] == {"prompt_tokens": 6 + 5 + 5, "total_tokens": 16}
    coded = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()
    data = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in coded["data"]]
    np.testing.assert_array_equal(np.array(data), [one["embedding"] for one in answer["data"]])


@pytest.mark.parametrize("path, body", [
    ("/v1/embeddings", {"model": "vectors", "input": TEXTS}),
    ("/v1/rerank", {"model": "vectors", "query": "a", "documents": TEXTS}),
    ("/v1/classify", {"model": "classes", "input": TEXTS}),
])  # fmt: skip
def test_a_request_has_a_deadline(places, path, body):
    names = [lambda settings, name=name: open_served(name, str(places[name]), settings)
             for name in places]  # fmt: skip
    with serving(*names, request_seconds=1e-9) as client:
        answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


ASKED = [
    ("/v1/embeddings", {"model": "vectors", "input": TEXTS}),
    ("/v1/rerank", {"model": "vectors", "query": "a", "documents": TEXTS}),
    ("/v1/classify", {"model": "classes", "input": TEXTS}),
]


@pytest.fixture
def held(monkeypatch):
    """Events: work has come to the worker, and it may be done."""
    begun, released, step = threading.Event(), threading.Event(), Worker._step

    def held_step(worker):
        begun.set()
        assert released.wait(60)
        step(worker)

    monkeypatch.setattr(Worker, "_step", held_step)
    return begun, released


@pytest.mark.parametrize("path, body", ASKED)
def test_too_many_requests_are_told_to_come_again(places, held, path, body):
    pytest.importorskip("prometheus_client", reason="the extra `serve` is missing")
    (begun, released), found, name = held, [], body["model"]
    running = f'minillm_num_requests_running{{model="{name}"}}'
    opened = lambda settings: open_served(name, str(places[name]), settings)  # noqa: E731
    with serving(opened, max_concurrency=1, max_queue=0, metrics=True) as client:
        thread = threading.Thread(target=lambda: found.append(client.post(path, json=body)))
        thread.start()
        assert begun.wait(60)
        busy = client.post(path, json=body)
        seen = client.get("/metrics").text
        released.set()
        thread.join(60)
        assert (busy.status_code, busy.json()["error"]["code"]) == (429, "queue_full")
        assert int(busy.headers["retry-after"]) >= 1
        assert f"{running} 1.0" in seen
        assert [one.status_code for one in found] == [200]
        assert client.post(path, json=body).status_code == 200
        seen = client.get("/metrics").text
        assert f"{running} 0.0" in seen
        assert f'minillm_requests_total{{path="{path}",status="429"}} 1.0' in seen


@pytest.mark.parametrize("seconds, status, outcome", [
    (60, 200, "ended: 1 of 1 request finished, 0 given up"),
    (0.2, 503, "ended: 0 of 1 request finished, 1 given up"),
])  # fmt: skip
def test_the_end_of_a_server_waits_for_vectors(places, held, monkeypatch, seconds, status, outcome):
    """As long as it is given; then they are given up, and both are told."""
    (begun, released), found, notices, give_up = held, [], [], Worker.give_up
    ends = Server.shutdown

    def told_give_up(worker, reason):
        give_up(worker, reason)
        released.set()

    async def told_shutdown(server, sockets=None):
        if seconds == 60:
            released.set()
        await ends(server, sockets)

    monkeypatch.setattr(Worker, "give_up", told_give_up)
    monkeypatch.setattr(Server, "shutdown", told_shutdown)
    made = functools.partial(Server, on_notice=notices.append)
    monkeypatch.setattr("small_server.Server", made)
    opened = lambda settings: open_served("v", str(places["vectors"]), settings)  # noqa: E731
    with serving(opened, shutdown_seconds=seconds, request_seconds=20) as client:
        url = f"{client.base_url}/v1/embeddings"
        asked = {"json": {"input": TEXTS}, "timeout": 60}
        thread = threading.Thread(target=lambda: found.append(httpx.post(url, **asked)))
        thread.start()
        assert begun.wait(60)
    thread.join(60)
    assert [one.status_code for one in found] == [status]
    assert notices == [f"ending: 1 request to finish, {seconds:g} s for it", outcome]


def test_ids_give_the_vector_of_their_text(client):
    ids = client.post("/tokenize", json={"model": "vectors", "prompt": TEXTS[0]}).json()["tokens"]
    both = [
        client.post("/v1/embeddings", json={"model": "vectors", "input": one}).json()
        for one in (TEXTS[0], ids, [ids])
    ]
    assert both[0] == both[1] == both[2]


def test_documents_are_ranked_by_their_cosines(client, places):
    vectors = embedding.load(places["vectors"]).encode(["good film", *TEXTS])
    cosines = vectors[1:] @ vectors[0]
    body = {"model": "vectors", "query": "good film", "documents": TEXTS, "top_n": 2}
    answer = client.post("/v1/rerank", json=body | {"return_documents": True}).json()
    order = np.argsort(-cosines)[:2]
    assert [one["index"] for one in answer["results"]] == order.tolist()
    assert [one["document"]["text"] for one in answer["results"]] == [TEXTS[k] for k in order]
    scores = [one["relevance_score"] for one in answer["results"]]
    np.testing.assert_allclose(scores, cosines[order], rtol=1e-5)


def test_classes_are_those_of_the_task(client, places):
    right, _ = heads.load(Classification(), places["classes"]).predict(TEXTS)
    answer = client.post("/v1/classify", json={"model": "classes", "input": TEXTS}).json()
    assert answer["labels"] == ["no", "perhaps", "yes"]
    for one, known in zip(answer["data"], right, strict=True):
        assert one["label"] == known.label
        np.testing.assert_allclose(one["probs"], list(known.probabilities.values()), rtol=1e-5)


@pytest.mark.parametrize("model, path, field", [
    ("vectors", "/v1/embeddings", "input[1]"),
    ("classes", "/v1/classify", "input[1]"),
])  # fmt: skip
def test_a_long_text_is_cut_only_when_asked_and_that_is_told(client, model, path, field):
    body = {"model": model, "input": ["a b", LONG]}
    refused = client.post(path, json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field
    assert "32 tokens, at most 24" in refused.json()["error"]["message"]
    answer = client.post(path, json=body | {"truncate": True}).json()
    assert answer["notices"] == ["1 of 2 texts cut to 24 tokens"]
    assert answer["usage"]["prompt_tokens"] == 4 + 24


@pytest.mark.parametrize("path, body, param", [
    ("/v1/embeddings", {"model": "classes", "input": "a"}, "model"),
    ("/v1/embeddings", {"model": "vectors", "input": []}, "input"),
    ("/v1/embeddings", {"model": "vectors", "input": [1, 999]}, "input[0]"),
    ("/v1/embeddings", {"model": "vectors", "input": "a", "dimensions": 3}, "dimensions"),
    ("/v1/classify", {"model": "vectors", "input": "a"}, "model"),
    ("/v1/completions", {"model": "vectors", "prompt": "a"}, "model"),
    ("/v1/chat/completions",
     {"model": "classes", "messages": [{"role": "user", "content": "a"}]}, "model"),
    ("/v1/rerank", {"model": "vectors", "query": "a", "documents": [""]}, "documents[0]"),
    ("/tokenize", {"model": "vectors"}, "prompt"),
    ("/tokenize", {"model": "vectors", "prompt": "a", "add_generation_prompt": True},
     "add_generation_prompt"),
    ("/detokenize", {"model": "vectors", "tokens": [1, 999]}, "tokens[1]"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_its_field(client, path, body, param):
    response = client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_ids_of_a_text_and_back(client):
    whole = client.post(
        "/tokenize", json={"model": "vectors", "prompt": "Good film", "return_token_strs": True}
    ).json()
    assert whole["token_strs"] == ["[CLS]", " good", " film", "[SEP]"]
    assert (whole["count"], whole["max_model_len"]) == (4, 24)
    bare = client.post(
        "/tokenize", json={"model": "vectors", "prompt": "Good film", "add_special_tokens": False}
    ).json()
    assert bare["tokens"] == whole["tokens"][1:-1]
    text = client.post("/detokenize", json={"model": "vectors", "tokens": whole["tokens"]}).json()
    assert text == {"prompt": "[CLS] good film [SEP]"}
