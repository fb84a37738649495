"""Regular expressions against Python's own `re`, byte by byte."""

import random
import re

import numpy
import pytest

from minillm.generation.constraints import regex
from small_constraints import BIASES, BYTES, MERGED, accepts, bias, least, write

ALPHABET = "ab01_ é\n-中🙂A"
ATOMS = [
    "a", "b", "ab", "[ab]", "[^a]", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", ".", "é", "[a-é]",
    r"[^\w]", r"[\d_-]", "🙂", "中", r"\x61", r"\n", "[🙂中]", r"\u00e9", "(?i:a)", "(?s:.)",
    "(?a:\\w)", "(?i:[^a-b])", "(?-i:A)", r"\.",
]  # fmt: skip
QUANTIFIERS = ["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?", "+?", "{1,2}?", "{,2}"]


def random_pattern(rng, depth=3):
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        return rng.choice(ATOMS)
    if kind < 0.55:
        return "".join(random_pattern(rng, depth - 1) for _ in range(rng.randint(1, 3)))
    if kind < 0.75:
        options = [random_pattern(rng, depth - 1) for _ in range(rng.randint(2, 3))]
        return f"({'|'.join(options)})"
    return f"(?:{random_pattern(rng, depth - 1)}){rng.choice(QUANTIFIERS)}"


def test_random_patterns_take_the_strings_that_re_takes():
    rng, taken = random.Random(0), [0, 0]
    for _ in range(150):
        pattern = random_pattern(rng)
        constraint, truth = regex(pattern, BYTES), re.compile(pattern)
        for _ in range(12):
            string = "".join(rng.choice(ALPHABET) for _ in range(rng.randint(0, 6)))
            expected = truth.fullmatch(string) is not None
            assert accepts(constraint, string.encode()) == expected, (pattern, string)
            taken[expected] += 1
    assert min(taken) > 200


def test_random_patterns_are_written_within_any_budget():
    rng, draws = random.Random(1), numpy.random.default_rng(1)
    likings = [bias(MERGED, name) for name in BIASES]
    for index in range(150):
        pattern = random_pattern(rng)
        constraint, truth = regex(pattern, MERGED), re.compile(pattern)
        needed = least(constraint)
        for budget in (needed, needed + 1, needed + 5):
            ids, state = write(constraint, MERGED, budget, draws, likings[index % len(likings)])
            string = MERGED.decode(ids, errors="strict")
            assert state.complete and truth.fullmatch(string), (pattern, string)


@pytest.mark.parametrize(
    "pattern, right, wrong",
    [
        ("^ab$", ["ab"], ["ab\n", "a", "abc"]),
        (r"\Aab\Z|^c", ["ab", "c"], ["cab"]),
        ("^^a|(^b$)|(?:^c)", ["a", "b", "c"], ["^a", "aa"]),
        ("(^a)?b?", ["ab", "a", "b", ""], ["aa"]),
        ("(?i)straße|K", ["STRAße", "k", "\u212a"], ["strasse"]),
        ("(?x) a b # comment (?=\n c", ["abc"], ["a b c"]),
        ("(?s).{3}", ["a\n🙂"], ["ab"]),
        ("x{3,5}y{2}", ["xxxyy", "xxxxxyy"], ["xxyy", "xxxxxxyy", "xxxy"]),
        ("(a|ab)(c|bcd)", ["ac", "abcd", "abc"], ["ad"]),
        ("((a*)*)*b", ["b", "aaab"], ["a"]),
        ("(a|b)*a(a|b){12}", ["b" * 20 + "a" + "b" * 12], ["a" + "b" * 11]),
        ("[^\\x00-\\uffff]", ["🙂", "\U0010ffff"], ["a", "\uffff"]),
        ("", [""], ["a"]),
        ("a{0}", [""], ["a"]),
        ("x{2000}", ["x" * 2000], ["x" * 1999]),
    ],
)
def test_by_hand(pattern, right, wrong):
    constraint = regex(pattern, BYTES)
    for text in right:
        assert accepts(constraint, text.encode()) and re.fullmatch(pattern, text)
    for text in wrong:
        assert not accepts(constraint, text.encode()) and not re.fullmatch(pattern, text)


def test_no_half_of_a_surrogate_and_no_byte_that_is_no_character():
    constraint = regex(r"(?s).", BYTES)
    for broken in (b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\x80", b"\xe0\x80\x80"):
        assert not accepts(constraint, broken)
    for point in (0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF):
        assert accepts(constraint, chr(point).encode())


@pytest.mark.parametrize(
    "pattern, complaint",
    [
        (r"(a)\1", "backreference at position 3"),
        (r"[\1](?P<n>a)(?P=n)", "backreference at position 12"),
        ("(a)?(?(1)b|c)", "conditional at position 4"),
        (r"\(\?=[(?=](?=a)", "lookaround at position 10"),
        ("a(?<!b)", "lookaround at position 1"),
        ("a(?!b)", "lookaround at position 1"),
        ("(?>ab)", "atomic group at position 0"),
        ("ab*+", "possessive quantifier at position 2"),
        (r"a\b", "anchor or word boundary at position 1"),
        ("a^b", "anchor or word boundary at position 1"),
        ("(^a)*", "anchor or word boundary at position 1"),
        ("a$b", "anchor or word boundary at position 1"),
        ("(?m)^a", "anchor or word boundary at position 4"),
        ("a(b", r"missing \), unterminated subpattern at position 1"),
        ("a{3,2}", "min repeat greater than max repeat at position 2"),
        (r"[^\s\S]", "no text is possible"),
        ("x{70000}", "the shortest text needs 70,000 tokens"),
        ("(" * 5000 + "a" + ")" * 5000, "recursion"),
    ],
)
def test_what_is_refused_is_named_with_its_place(pattern, complaint):
    with pytest.raises(ValueError, match=f"^regex: .*{complaint}") as caught:
        regex(pattern, BYTES)
    assert "\n" not in str(caught.value)


def test_a_pattern_is_text():
    with pytest.raises(TypeError, match="bytes, str is needed"):
        regex(b"a", BYTES)
