"""Grammars in GBNF: by hand, against a recogniser of their own, and within the budget."""

import json
import re

import numpy
import pytest

from minillm.generation.constraints import grammar
from small_constraints import BIASES, BYTES, MERGED, accepts, bias, least, write

SUMS = r"""
# sums with parentheses
root ::= term (
    [+*] term   # over two lines
)* ;
term ::= [0-9]+ |
    "(" root ")"
""".replace(" ;", "")

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,2})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    "rules, right, wrong",
    [
        ('root ::= "a" "b" | "c"', ["ab", "c"], ["a", "abc", ""]),
        ('root ::= ("ab" | "c"){2} x?\nx::="x"+', ["abab", "cabxx"], ["ab", "ababab"]),
        ("root ::= [a-c-]{1,} [^a\\n] .", ["-b\n", "aa-x\U0001f642"], ["", "a\nb", "aa\n"]),
        ('root ::= "\\x41\\u00e9\\U0001F642\\t\\"\\\\\\[\\]"', ['Aé\U0001f642\t"\\[]'], ["A"]),
        ('root ::= [\\]\\[a"] [-]{0}', ["]", "[", '"'], ["\\", "]]"]),
        ('root ::= "a" root "b" |', ["", "ab", "aaabbb"], ["aab", "ba"]),
        ('root ::=\n  "a"\n\n# end\n', ["a"], ["a\n"]),
        ('root ::= (\n"a"\n|\n"b" )\r\nother ::= "x"', ["a", "b"], ["x"]),
        (SUMS, ["1", "12+(3*4)", "((7))"], ["", "1+", "(1", "1)", "()"]),
        (JSON, ['{}', '{"a": [1.5e3, "\\u00e9", null]}\n'], ["[]", '{"a"}', '{"a":01}']),
    ],
)  # fmt: skip
def test_by_hand(rules, right, wrong):
    constraint = grammar(rules, BYTES)
    for string in right:
        assert accepts(constraint, string.encode()), string
    for string in wrong:
        assert not accepts(constraint, string.encode()), string


@pytest.mark.parametrize("name", BIASES)
def test_texts_end_within_any_budget(name):
    draws = numpy.random.default_rng(0)
    for rules, judge in ((JSON, json.loads), (SUMS, lambda string: eval(strip_zeros(string)))):
        constraint = grammar(rules, MERGED)
        for extra in (0, 1, 2, 5, 30):
            budget = least(constraint) + extra
            ids, state = write(constraint, MERGED, budget, draws, bias(MERGED, name))
            judge(MERGED.decode(ids, errors="strict"))
            assert state.complete and len(ids) <= budget


def strip_zeros(string):
    """Python takes no 007."""
    assert re.fullmatch(r"[0-9+*()]+", string)
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", string)


def test_nesting_has_an_end_that_fits():
    constraint, draws = grammar('root ::= "[" root? "]"', MERGED), numpy.random.default_rng(0)
    ids, state = write(constraint, MERGED, 2000, draws, 9 * bias(MERGED, "open"))
    text = MERGED.decode(ids)
    assert state.complete and text == len(text) // 2 * "[" + len(text) // 2 * "]"
    assert 100 < len(text) <= 600


@pytest.mark.parametrize(
    "rules, complaint",
    [
        ("", "no rule is named root"),
        ('a ::= "x"', "no rule is named root"),
        ('root ::= "a"\nroot ::= "b"', "line 2: rule root is defined in line 1 already"),
        ('root ::= "a"\n | b', r"line 2: '\|', the name of a rule"),
        ('root ::= "a" |\n b', "line 2: rule b is not defined"),
        ('root ::= "a', "line 1: a literal is not closed"),
        ("root ::= [a", "line 1: a class is not closed"),
        ("root ::= []", "line 1: a class without characters"),
        ("root ::= [z-a]", "line 1: the range 'z' to 'a' is empty"),
        (r'root ::= "\q"', r"line 1: '\\\\q' is no escape"),
        (r'root ::= "\ud800"', "line 1: 0xd800 is no character"),
        ('root ::= ("a"', r"line 1: the end, \) is needed"),
        ('root := "a"', "line 1: ':', ::= is needed"),
        ('root ::= "a"{3,2}', r"line 1: \{3,2\}, the second count is below"),
        ('root ::= "a" )', r"line 1: '\)', the end of the line"),
        ('root ::= * "a"', r"line 1: '\*', the end of the line"),
        ("root ::= <think>", "line 1: tokens"),
        ('root ::= e\n\ne ::= e "+" [0-9] | [0-9]', r"line 3: rule e begins with itself \(left"),
        ('root ::= a\na ::= "x"? b\nb ::= a "y" | "z"', r"line \d: rule [ab] begins with itself"),
        ('root ::= "a" b\nb ::= "b" b', "line 2: rule b has no text that ends"),
        ("root ::= " + "(" * 3000 + '"a"' + ")" * 3000, "nested too deeply"),
    ],
)
def test_what_is_refused_is_named_with_its_line(rules, complaint):
    with pytest.raises(ValueError, match=f"^grammar: .*{complaint}") as caught:
        grammar(rules, BYTES)
    assert "\n" not in str(caught.value)


def test_rules_are_text():
    with pytest.raises(TypeError, match="list, str is needed"):
        grammar(["root"], BYTES)
