"""Options: what is impossible or contradictory is one clear line, the same for everybody."""

import json
import math

import numpy as np
import pytest

from minillm.generation import Options
from minillm.generation.options import fields
from small_gpt2 import small


@pytest.mark.parametrize(
    "given, message",
    [
        ({"max_tokens": -1}, "max-tokens: -1, 0 or more is needed"),
        ({"max_tokens": 2.0}, "max-tokens: 2.0, a whole number is needed"),
        ({"max_tokens": True}, "max-tokens: True, a whole number is needed"),
        ({"temperature": -1}, "temperature: -1"),
        ({"temperature": math.nan}, "temperature: nan"),
        ({"temperature": "0.7"}, "temperature: '0.7', a number is needed"),
        ({"top_k": -1}, "top-k: -1"),
        ({"top_k": 1.5}, "top-k: 1.5, a whole number is needed"),
        ({"top_p": 1.5}, "top-p: 1.5"),
        ({"top_p": None}, "top-p: None, a number is needed"),
        ({"min_p": -0.1}, "min-p: -0.1"),
        ({"typical": 2}, "typical: 2"),
        ({"repetition_penalty": 0}, "repetition-penalty: 0"),
        ({"frequency_penalty": math.inf}, "frequency-penalty: inf"),
        ({"presence_penalty": math.nan}, "presence-penalty: nan"),
        ({"stop": ["a", ""]}, "stop: an empty string, at least 1 character is needed"),
        ({"stop": ""}, "stop: an empty string"),
        ({"stop": [1]}, r"stop: \[1\], a sequence of texts is needed"),
        ({"stop": None}, "stop: None, a sequence of texts"),
        ({"stop_ids": ["a"]}, r"stop-ids: \['a'\], a sequence of ids is needed"),
        ({"seed": -1}, "seed: -1, 0 or more is needed"),
        ({"seed": "7"}, "seed: '7', a whole number is needed"),
        ({"n": 0}, "n: 0, 1 or more is needed"),
        ({"n": 3, "best_of": 2}, "best-of 2 and n 3: they contradict each other"),
        ({"n": 2, "temperature": 0}, "n 2 and temperature 0: they contra"),
        ({"best_of": 2, "temperature": 0}, "best-of 2 and temperature 0"),
        ({"beams": 0}, "beams: 0, 1 or more is needed"),
        ({"beams": 4, "temperature": 0.7}, "beams and temperature 0.7: they contradict"),
        ({"beams": 2, "n": 3}, "n 3 and beams 2: .* n up to the number of beams is needed"),
        ({"beams": 2, "best_of": 3}, "best-of and beams"),
        ({"beams": 2, "top_k": 3}, "beams and top-k, top-p, min-p or typical"),
        ({"beams": 2, "repetition_penalty": 1.1}, "beams and penalties of tokens"),
        ({"length_penalty": 2.0}, "length-penalty: 2.0 without beams, beams above 1 is needed"),
        ({"length_penalty": math.nan, "beams": 2}, "length-penalty: nan, a finite number"),
        ({"lookup": 65}, "lookup: 65, 0 to 64 is needed"),
        ({"contrastive": 0.6, "top_k": 4, "n": 2}, "contrastive and n 2: they contra"),
        ({"contrastive": 1.5}, "contrastive: 1.5, 0 <= alpha <= 1 is needed"),
        ({"contrastive": 0.6}, "contrastive: among the top-k 0, top-k 2 or more is needed"),
        ({"contrastive": 0.6, "top_k": 4, "beams": 2}, "beams and contrastive"),
        ({"contrastive": 0.6, "top_k": 4, "regex": "a"}, "contrastive and regex"),
        ({"regex": "a", "grammar": "root ::= a"}, "regex and grammar: they contradict"),
        ({"json_schema": {}, "choices": ["a"]}, "json-schema and choices: they contradict"),
        ({"json_schema": {}, "stop": "}"}, "stop and json-schema: they contradict each other"),
        ({"choices": ["a"], "stop": ["a"]}, "stop and choices: they contradict each other"),
        ({"json_schema": "{"}, "json-schema: not valid JSON"),
        ({"json_schema": 7}, "json-schema: int, an object is needed"),
        ({"choices": []}, "choices: none are given, at least 1 is needed"),
        ({"choices": "a,b"}, "choices: 'a,b', a sequence of texts is needed"),
        ({"draft": small(), "lookup": 3}, "draft and lookup: they contradict each other"),
        ({"draft": small(), "beams": 2}, "beams and draft: they contradict each other"),
        ({"lookup": 3, "overflow": "slide"}, "lookup and overflow slide: they contradict"),
        ({"lookup": -1}, "lookup: -1, 0 or more is needed"),
        ({"ahead": 0}, "ahead: 0, 1 or more is needed"),
        ({"ahead": 9}, "ahead: 9 without draft or lookup, one of these is needed"),
        ({"stop_ids": [True]}, r"stop-ids: \[True\], a sequence of ids is needed"),
        ({"max_tokens": np.float64(2)}, r"max-tokens: .*2.0.*, a whole number is needed"),
        ({"logprobs": -1}, "logprobs: -1, 0 or more is needed"),
        ({"logprobs": 10**6}, "logprobs: 1000000, 0 to 1000 is needed"),
        ({"echo": 1}, "echo: 1, true or false is needed"),
        ({"overflow": "wrap"}, "overflow: 'wrap', one of error, truncate, slide is needed"),
        ({"cache_dtype": "fp8"}, "cache-dtype: 'fp8', one of float32, bf16, int8 is needed"),
        ({"cache_dtype": "int8", "use_cache": False}, "cache-dtype: int8 without a cache, a cache"),
        ({"temprature": 1}, r"generate: unknown option 'temprature'; did you mean temperature\?"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_one_line(given, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        Options.of(**given)
    assert "\n" not in str(caught.value)


def test_kinds_are_type_errors_and_values_are_value_errors():
    with pytest.raises(TypeError):
        Options(seed=1.0)
    with pytest.raises(ValueError):
        Options(seed=-1)


def test_numbers_of_numpy_become_plain_ones():
    given = {"max_tokens": 2, "seed": 7, "best_of": 3, "top_k": 4, "logprobs": 1, "stop_ids": (5,)}
    asked = {name: np.int64(value) for name, value in given.items() if name != "stop_ids"}
    options = Options(**asked, stop_ids=[np.int32(5)], temperature=np.float32(0.5))
    assert json.loads(json.dumps([getattr(options, name) for name in given])) == [
        2, 7, 3, 4, 1, [5]
    ]  # fmt: skip
    assert type(options.temperature) is float
    assert options == Options(**given, temperature=0.5)


def test_what_is_left_open_is_settled():
    assert Options().temperature == 1.0
    assert Options(beams=3).temperature == 0.0 == Options(contrastive=0.5, top_k=4).temperature
    assert Options(temperature=0).temperature == 0
    assert Options(stop="ab").stop == ("ab",) and Options(stop=["a", "b"]).stop == ("a", "b")
    assert Options(choices=["x"]).choices == ("x",)
    assert Options(n=2).rows == 2 and Options(n=2, best_of=5).rows == 5
    assert Options(regex="a").constraint == "regex" and Options().constraint is None


@pytest.mark.parametrize(
    "given, said",
    [
        ({"top_k": 40, "seed": 7, "temperature": 0}, "top-k and seed change nothing"),
        ({"top_p": 0.9, "temperature": 0}, "top-p changes nothing"),
        ({"min_p": 0.1, "typical": 0.9, "temperature": 1e-9}, "min-p and typical change nothing"),
        ({"beams": 3, "seed": 1}, "seed changes nothing"),
        ({"contrastive": 0.6, "top_k": 4, "seed": 1}, ", seed changes nothing"),
        ({"contrastive": 0.6, "top_k": 4}, ""),
        ({"temperature": 0, "seed": 0, "top_p": 1, "repetition_penalty": 1.3}, ""),
        ({"temperature": 0.1, "seed": 7, "top_k": 40}, ""),
    ],
)
def test_what_changes_nothing_is_known(given, said):
    unused = Options(**given).unused
    assert unused.endswith(said) and bool(unused) == bool(said)


def test_the_sampler_is_made_of_every_number_it_knows():
    given = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "typical": 0.8}
    given |= {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": 0.4}
    sampler = Options(**given).sampler
    assert {name: getattr(sampler, name) for name in given} == given
    assert {part.name for part in fields(sampler) if part.init} == set(given)
