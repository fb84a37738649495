"""The server as OpenAI's own Python client sees it, by its response models."""

import json
import threading

import pytest

from minillm.generation import Engine, complete
from minillm.generation.conversation import turn_ends
from minillm.tokenizers import ByteTokenizer
from small_bigram import TURN, bigram, tokenizer
from small_gpt2 import small
from small_server import serving  # the extra `serve`, or skipped
from small_tasks import folder
from test_serve_tools import ADD, OBJECT

from minillm.serve.loading import open_served  # isort: skip
from minillm.serve.settings import digest_of  # isort: skip

openai = pytest.importorskip("openai", reason="openai, the client, is not installed")
pydantic = pytest.importorskip("pydantic", reason="pydantic, of the client, is not installed")

KEY = "sixteen-characters"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ASK = [{"role": "user", "content": "?"}]


def noise():
    """A model without sense, and a tokenizer with a template of tools."""
    found = ByteTokenizer(SPECIALS, "<|endoftext|>")
    found.chat_template = OBJECT
    return small(vocab_size=259, n_positions=2048), found


def client_of(server, key=KEY):
    return openai.OpenAI(base_url=f"{server.base_url}/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    place = str(folder(tmp_path_factory.mktemp("encoder") / "e"))
    models = (
        ("hello", bigram(f"\na🙂b{TURN}"), tokenizer()),
        ("noise", *noise()),
        lambda settings: open_served("vectors", place, settings),
    )
    with serving(*models, keys=(digest_of(KEY),)) as server, client_of(server) as found:
        yield found


def test_models(client):
    assert [one.id for one in client.models.list()] == ["hello", "noise", "vectors"]
    assert client.models.retrieve("noise").owned_by == "minillm"


def test_a_chat(client):
    answer = client.chat.completions.create(model="hello", messages=ASK, temperature=0)
    assert answer.choices[0].message.content == "a🙂b"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert answer.system_fingerprint.startswith("fp_")


def test_a_stream(client):
    with client.chat.completions.create(
        model="hello",
        messages=ASK,
        temperature=0,
        stream=True,
        n=1,
        stream_options={"include_usage": True},
    ) as stream:
        *found, last = list(stream)
    assert {one.id for one in found} == {last.id} and len({one.created for one in found}) == 1
    assert found[0].choices[0].delta.role == "assistant"
    assert "".join(one.choices[0].delta.content or "" for one in found) == "a🙂b"
    assert [one.choices[0].finish_reason for one in found][-1] == "stop"
    assert last.choices == [] and last.usage.completion_tokens == 7


def test_log_probabilities_of_a_chat(client):
    more = {"model": "noise", "messages": ASK, "seed": 1, "max_tokens": 6, "top_logprobs": 3}
    whole = client.chat.completions.create(**more, logprobs=True).choices[0]
    with client.chat.completions.create(**more, logprobs=True, stream=True) as stream:
        chunks = [one.choices[0] for one in stream]
    tokens = whole.logprobs.content
    assert len(tokens) == 6 and all(len(token.top_logprobs) == 3 for token in tokens)
    assert [t for one in chunks if one.logprobs for t in one.logprobs.content] == tokens
    for token in tokens:
        best = [one.logprob for one in token.top_logprobs]
        assert best == sorted(best, reverse=True) and token.logprob <= best[0] <= 0
    spelled = b"".join(bytes(token.bytes) for token in tokens)
    assert spelled.decode("utf-8", "replace").startswith(whole.message.content.rstrip("�"))


def test_several_texts_are_those_of_the_engine(client):
    more = {"seed": 5, "max_tokens": 8, "n": 3, "temperature": 0.9}
    answer = client.chat.completions.create(model="noise", messages=ASK, **more)
    model, letters = noise()
    ids = letters.apply_chat_template(ASK, add_generation_prompt=True)
    right = complete(model, letters, [ids], **more, stop_ids=tuple(turn_ends(letters)))
    assert [one.message.content for one in answer.choices] == [one.text for one in right]


def test_completions_with_echo_and_log_probabilities(client):
    answer = client.completions.create(
        model="noise", prompt="ab", echo=True, logprobs=2, max_tokens=1, seed=3
    )
    (choice,) = answer.choices
    assert choice.text.startswith("ab")
    assert choice.logprobs.tokens[:2] == ["a", "b"] and len(choice.logprobs.tokens) == 3
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.text_offset[:2] == [0, 1]
    for name, value, top in zip(
        choice.logprobs.tokens[1:],
        choice.logprobs.token_logprobs[1:],
        choice.logprobs.top_logprobs[1:],
    ):
        assert top[name] == value


def test_an_answer_of_a_schema_is_parsed_by_the_client(client):
    class Weather(pydantic.BaseModel):
        warm: bool
        degrees: int
        words: list[str]

    answer = client.chat.completions.parse(
        model="noise", messages=ASK, response_format=Weather, max_tokens=200, seed=2
    )
    found = answer.choices[0].message.parsed
    assert isinstance(found, Weather) and found.degrees == int(found.degrees)
    answer = client.chat.completions.create(
        model="noise", messages=ASK, response_format={"type": "json_object"}, max_tokens=60, seed=2
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_a_tool_is_called_and_answered(client):
    more = {"model": "noise", "tools": [ADD], "max_tokens": 200, "seed": 1}
    answer = client.chat.completions.create(messages=ASK, tool_choice="required", **more)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    replies = [
        {"role": "tool", "tool_call_id": call.id, "content": "7"} for call in message.tool_calls
    ]
    talk = [*ASK, message.model_dump(), *replies]
    assert client.chat.completions.create(messages=talk, tool_choice="none", **more).choices
    with client.chat.completions.stream(messages=ASK, tool_choice="required", **more) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert [one.function.arguments for one in streamed] == [
        one.function.arguments for one in message.tool_calls
    ]


def test_vectors(client):
    plain = client.embeddings.create(
        model="vectors", input=["a film", "good"], encoding_format="float"
    )
    coded = client.embeddings.create(model="vectors", input=["a film", "good"])  # as base64
    assert [len(one.embedding) for one in plain.data] == [6, 6]
    for one, other in zip(plain.data, coded.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)
    assert plain.usage.prompt_tokens == 7


def test_errors_are_those_that_the_client_knows(client):
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="hello", messages=ASK, logit_bias={"1": 2})
    assert bad.value.param == "logit_bias" and bad.value.code == "unknown_parameter"
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="a")
    assert missing.value.code == "model_not_found"
    other = client.with_options(api_key="another-key-of-sixteen")
    with pytest.raises(openai.AuthenticationError):
        other.models.list()


def test_too_many_requests_are_told_to_come_again(monkeypatch):
    begun, released = threading.Event(), threading.Event()
    step = Engine.step

    def held_step(engine):
        begun.set()
        assert released.wait(60)
        return step(engine)

    def ask(client, found):
        found.append(client.completions.create(model="noise", prompt="a", max_tokens=2))

    monkeypatch.setattr(Engine, "step", held_step)
    with serving(("noise", *noise()), max_concurrency=1, max_queue=0) as server:
        client, found = client_of(server), []
        thread = threading.Thread(target=ask, args=(client, found))
        thread.start()
        assert begun.wait(60)
        with pytest.raises(openai.RateLimitError) as busy:
            client.completions.create(model="noise", prompt="a", max_tokens=2)
        assert int(busy.value.response.headers["retry-after"]) >= 1
        released.set()
        thread.join(60)
        assert len(found) == 1
        assert client.completions.create(model="noise", prompt="a", max_tokens=2).choices


def test_an_error_in_a_stream_reaches_the_client(monkeypatch):
    def broken(*_, **__):
        raise ValueError("logits: not finite")

    with serving(("noise", *noise())) as server:
        monkeypatch.setattr("minillm.generation.writing.Row.draw", broken)
        with (
            pytest.raises(openai.APIError, match="not finite"),
            client_of(server).completions.create(model="noise", prompt="a", stream=True) as stream,
        ):
            list(stream)
