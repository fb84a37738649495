"""The HTTP server: chat and completions in OpenAI's form, over a real socket."""

import pytest

pytest.importorskip("jinja2", reason="jinja2, the extra `serve`, is not installed")

from minillm.generation import complete
from minillm.tokenizers import ByteTokenizer
from small_bigram import TURN, bigram, tokenizer
from small_gpt2 import small
from small_server import chunks, serving


@pytest.fixture(scope="module")
def client():
    models = (
        ("hello", bigram(f"\na🙂b{TURN}"), tokenizer()),
        ("small", small(vocab_size=257, n_positions=64), ByteTokenizer()),
    )
    with serving(*models) as found:
        yield found


def ask(**more):
    return {"model": "hello", "messages": [{"role": "user", "content": "?"}], **more}


def test_a_chat_is_answered(client):
    answer = client.post("/v1/chat/completions", json=ask(temperature=0)).json()
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "a🙂b", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len("a🙂b".encode()) + 1  # and the turn's end


def test_a_stream_holds_the_same_text_in_order(client):
    body = ask(temperature=0, stream=True, stream_options={"include_usage": True})
    response = client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *found, usage = chunks(response)
    assert {one["id"] for one in found} == {usage["id"]}
    deltas = [one["choices"][0]["delta"] for one in found]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta.get("content") for delta in deltas[1:]] == ["a", "🙂", "b", None]
    reasons = [one["choices"][0]["finish_reason"] for one in found]
    assert reasons == [None] * (len(found) - 1) + ["stop"]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 7


def test_completions_are_those_of_the_engine(client):
    asked = {"temperature": 0.8, "seed": 7, "max_tokens": 20, "n": 2}
    answer = client.post("/v1/completions", json={"model": "small", "prompt": ["ab", "c"], **asked})
    model = small(vocab_size=257, n_positions=64)
    right = complete(model, ByteTokenizer(), ["ab", "c"], **asked)
    assert [one["text"] for one in answer.json()["choices"]] == [one.text for one in right]
    assert [one["index"] for one in answer.json()["choices"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "more, param",
    [
        ({"temperature": "0.7"}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"top_logprobs": 50, "logprobs": True}, "top_logprobs"),
        ({"temprature": 1}, "temprature"),
        ({"stop": ""}, "stop"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ],
)
def test_a_wrong_field_is_named(client, more, param):
    response = client.post("/v1/chat/completions", json=ask(**more))
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == param
    assert param in error["message"] and "\n" not in error["message"]


def test_an_unknown_model_is_not_found(client):
    response = client.post("/v1/chat/completions", json=ask(model="helo"))
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_models_are_listed_and_the_server_is_well(client):
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["hello", "small"]
    assert client.get("/v1/models/small").json()["context"] == 64
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ok"}
