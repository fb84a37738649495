"""Calls of tools inside a text: what may be written, and that what is written can be read."""

import json
import re

import numpy
import pytest

from minillm.generation.constraints import calls
from minillm.generation.constraints.calls import Calls, Form, without
from minillm.generation.constraints.constraint import Constraint
from minillm.generation.constraints.pieces import pieces_of
from small_constraints import BYTES, MERGED, accepts, bias, write

FORM = Form(
    '<call>{"name": "', '", "arguments": ', '}</call>\n<call>{"name": "', "}</call>", "<call>"
)
TOOLS = {
    "add": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "ab": {"type": "object", "properties": {}, "additionalProperties": False},
}
ADD = '<call>{"name": "add", "arguments": {"a": 1, "b": 2}}</call>'
AB = '<call>{"name": "ab", "arguments": {}}</call>'
ONE = re.compile(r'<call>\{"name": "(add|ab)", "arguments": (\{.*?\})\}</call>', re.DOTALL)


def accepted(text, **how):
    return accepts(calls(Calls(FORM, **{"tools": TOOLS} | how), BYTES), text.encode())


@pytest.mark.parametrize("text", [
    "", "a < b", "<cal", "<<call", "text" + ADD, ADD, AB, f"{ADD}\n{AB}", "two\nlines\n" + AB,
    "é🙂",
])  # fmt: skip
def test_texts_and_calls_may_come(text):
    assert accepted(text)


@pytest.mark.parametrize("text", [
    "<call>", "a<call>b", "<<call>", ADD[:-1], ADD + "x", ADD + AB, f"{ADD}\n", f"{ADD} text {AB}",
    '<call>{"name": "sub", "arguments": {}}</call>',
    '<call>{"name": "add", "arguments": {"a": 1}}</call>',
    '<call>{"name": "ab", "arguments": {"a": 1}}</call>',
])  # fmt: skip
def test_what_begins_like_a_call_is_one(text):
    assert not accepted(text)


@pytest.mark.parametrize("how, accepts_text, accepts_one, accepts_two", [
    ({"free": True, "several": False}, True, True, False),
    ({"free": False, "several": True}, False, True, True),
    ({"free": False, "several": False}, False, True, False),
    ({"tools": {}}, True, False, False),
])  # fmt: skip
def test_what_a_choice_of_tools_allows(how, accepts_text, accepts_one, accepts_two):
    assert accepted("text", **how) == accepts_text
    assert accepted(ADD, **how) == accepts_one
    assert accepted(f"{ADD}\n{AB}", **how) == accepts_two


@pytest.mark.parametrize("marker", ["a", "aa", "aab", "abab", "<t>", "é🙂"])
def test_a_text_without_a_marker_is_any_that_does_not_hold_it(marker):
    constraint = Constraint("without", without(marker), pieces_of(BYTES))
    rng = numpy.random.default_rng(0)
    for _ in range(300):
        letters = [*marker, "x"]
        text = "".join(rng.choice(letters, size=int(rng.integers(0, 9))))
        assert accepts(constraint, text.encode()) == (marker not in text)


@pytest.mark.parametrize("tokenizer", [BYTES, MERGED], ids=["bytes", "merged"])
@pytest.mark.parametrize("name", ["none", "open", "quotes"])
@pytest.mark.parametrize("free", [True, False])
def test_whatever_a_model_writes_parses_within_its_budget(tokenizer, name, free):
    rng, constraint = numpy.random.default_rng(1), calls(Calls(FORM, TOOLS, free), tokenizer)
    found = 0
    for budget in range(60 if free else 120, 200, 7):
        ids, _ = write(constraint, tokenizer, budget, rng, bias(tokenizer, name), ends_early=True)
        text = tokenizer.decode(ids)
        before, *rest = text.split("<call>")
        for part in rest:
            match = ONE.fullmatch("<call>" + part.rstrip("\n"))
            assert match, text
            arguments = json.loads(match[2])
            assert set(arguments) == ({"a", "b"} if match[1] == "add" else set())
            found += 1
        assert free or (not before and rest)
    assert free or found > 5
