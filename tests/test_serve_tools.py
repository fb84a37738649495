"""Tools: what a template can write of them, what a request may say, calls read out of texts."""

import json

import pytest

from minillm.generation.constraints.calls import Form
from minillm.tokenizers import ByteTokenizer
from small_bigram import CHATML, TURN, bigram, tokenizer
from small_gpt2 import small
from small_server import chunks, serving  # the extra `serve`, or skipped

from minillm.serve.template import Template  # isort: skip
from minillm.serve.tools import Splitter, found_in  # isort: skip

pytest.importorskip("jinja2", reason="jinja2, the extra `serve`, is not installed")

TOOLS = """{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}
{{ tool | tojson }}{% endfor %}{{ '<|im_end|>' }}{% endif %}
{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<fn>{"name": "' + call.function.name + '", "arguments": ' }}
{{- ARGUMENTS }}{{ '}</fn>' }}
{%- if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
OBJECT = TOOLS.replace("ARGUMENTS", "call.function.arguments | tojson")
STRING = TOOLS.replace("ARGUMENTS", "call.function.arguments")
FORM = Form('<fn>{"name": "', '", "arguments": ', '}</fn>\n<fn>{"name": "', "}</fn>", "<fn>")
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


@pytest.fixture(scope="module")
def client():
    noise = ByteTokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|endoftext|>")
    noise.chat_template = OBJECT
    models = (
        ("calls", bigram(f"\n<fn>{TURN}"), tokenizer(OBJECT)),
        ("talks", bigram(f"\na <fx{TURN}"), tokenizer(OBJECT)),
        ("noise", small(vocab_size=259, n_positions=2048), noise),
        ("plain", bigram(f"\na{TURN}"), tokenizer()),
    )
    with serving(*models) as found:
        yield found


def ask(client, model="calls", **more):
    asked = {"model": model, "messages": [{"role": "user", "content": "?"}], "temperature": 0}
    return client.post("/v1/chat/completions", json=asked | {"tools": [ADD, NOW]} | more)


@pytest.mark.parametrize("template, as_text", [(OBJECT, False), (STRING, True)])
def test_the_form_of_calls_is_found_in_the_template(template, as_text):
    found = Template(tokenizer(template))
    assert found.form == FORM
    assert found.arguments_as_text == as_text
    assert found.writes_tools


def test_a_template_without_words_for_tools_has_no_form():
    found = Template(tokenizer(CHATML))
    assert found.form is None and not found.writes_tools
    assert found.writes("developer")
    silent = CHATML.replace("{% for message in messages %}", "{% for message in messages "
                            "if message.role != 'system' %}")  # fmt: skip
    assert not Template(tokenizer(silent)).writes("system")


def test_a_call_is_made_and_its_arguments_parse(client):
    answer = ask(client).json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    for call in answer["message"]["tool_calls"]:
        assert call["type"] == "function" and call["id"].startswith("call_")
        assert call["function"]["name"] in ("add", "now")
        json.loads(call["function"]["arguments"])


def test_a_text_that_is_no_call_stays_one(client):
    answer = ask(client, "talks").json()["choices"][0]
    assert (answer["message"]["content"], answer["finish_reason"]) == ("a <fx", "stop")
    assert "tool_calls" not in answer["message"]


@pytest.mark.parametrize("choice, names", [
    ("required", {"add", "now"}),
    ({"type": "function", "function": {"name": "add"}}, {"add"}),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(4))
def test_a_model_without_sense_calls_what_it_has_to(client, choice, names, seed):
    more = {"tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 400}
    whole = ask(client, "noise", **more).json()["choices"][0]
    calls = whole["message"]["tool_calls"]
    assert whole["finish_reason"] == "tool_calls" and calls
    for call in calls:
        arguments = json.loads(call["function"]["arguments"])
        assert call["function"]["name"] in names
        if call["function"]["name"] == "add":
            assert type(arguments["a"]) is int and arguments["b"] in ("x", "y")
        else:
            assert arguments == {}
    streamed = chunks(ask(client, "noise", stream=True, **more))
    deltas = [one["choices"][0]["delta"] for one in streamed]
    parts = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [part["index"] for part in parts] == list(range(len(calls)))
    assert [part["function"] for part in parts] == [call["function"] for call in calls]
    assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_one_call_at_a_time_where_that_is_asked(client):
    for seed in range(4):
        more = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 1}
        answer = ask(client, "noise", seed=seed, max_tokens=400, **more).json()["choices"][0]
        assert len(answer["message"]["tool_calls"]) == 1


def test_none_is_never_called(client):
    answer = ask(client, tool_choice="none", max_tokens=30).json()["choices"][0]
    assert "tool_calls" not in answer["message"]
    assert "<fn>" not in answer["message"]["content"]


def test_an_answer_to_a_call_is_read(client):
    talk = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "seven"}]},
    ]
    ids = client.post("/tokenize", json={"model": "calls", "messages": talk}).json()["tokens"]
    text = client.post("/detokenize", json={"model": "calls", "tokens": ids}).json()["prompt"]
    assert text.endswith(
        '<|im_start|>assistant\n<fn>{"name": "add", "arguments": {"a": 1}}</fn><|im_end|>'
        "<|im_start|>tool\nseven<|im_end|><|im_start|>assistant\n"
    )
    assert ask(client, messages=talk, max_tokens=100).status_code == 200


@pytest.mark.parametrize("more, param", [
    ({"model": "plain"}, "tools"),
    ({"tools": [ADD, ADD]}, "tools[1].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]},
     "tools"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice"),
    ({"tools": [], "tool_choice": "auto"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c1"}]},
     "messages[0].tool_call_id"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
     "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "name": "me"}]}, "messages[0].name"),
    ({"messages": [{"role": "assistant", "tool_calls": [
        CALL | {"function": {"name": "add", "arguments": "[1]"}}]}]},
     "messages[0].tool_calls[0].function.arguments"),
    ({"messages": [{"role": "assistant", "tool_calls": [
        CALL | {"function": {"name": "add", "arguments": '{"a": 1e999}'}}]}]},
     "messages[0].tool_calls[0].function.arguments.a"),
    *(({"messages": [{"role": "assistant", "tool_calls": [
        CALL | {"function": {"name": "add", "arguments": one}}]}]},
       "messages[0].tool_calls[0].function.arguments")
      for one in ('{"a": NaN}', '{"a": 1, "a": 2}', '{"a": ' * 500 + "1" + "}" * 500, "{")),
    ({"model": "plain", "tools": None, "messages": [{"role": "assistant", "tool_calls": [CALL]}]},
     "messages[0].tool_calls"),
])  # fmt: skip
def test_what_cannot_be_followed_is_refused_by_its_field(client, more, param):
    response = ask(client, **more)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("text", [
    "no call", "a < b <f", 'so: <fn>{"name": "now", "arguments": {}}</fn>', "ends in space \n",
    '<fn>{"name": "a", "arguments": {"k": "}</fn>"}}</fn>\n<fn>{"name": "b", "arguments": {}}</fn>',
])  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_text_in_pieces_gives_what_it_gives_whole(text, size):
    splitter = Splitter(FORM)
    shown = "".join(splitter.push(text[k : k + size]) for k in range(0, len(text), size))
    rest, whole = splitter.rest(), found_in(text, FORM)
    assert shown + rest.content == whole.content
    assert [call["function"] for call in rest.calls] == [call["function"] for call in whole.calls]
    assert "<fn>" not in shown
