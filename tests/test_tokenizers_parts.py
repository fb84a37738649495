"""The parts of tokenizer.json, one by one: against values by hand, and against the library."""

import base64
import json

import pytest

from frozen_sentencepiece import UNIGRAM
from minillm.tokenizers.byte_alphabet import spell
from minillm.tokenizers.decoders import decoder
from minillm.tokenizers.normalizers import normalizer
from minillm.tokenizers.patterns import Pattern
from minillm.tokenizers.post_processors import around, template
from minillm.tokenizers.pre_tokenizers import pre_tokenizer
from minillm.tokenizers.reading import Unsupported
from minillm.tokenizers.sentencepiece_model import parse
from minillm.tokenizers.split_patterns import GPT2, LLAMA3, QWEN2, isolated
from unicode_texts import NASTY, random_texts

CHARSMAP = base64.b64encode(parse(UNIGRAM).charsmap).decode("ascii")
TEXTS = [*NASTY, *random_texts(400)]


def sequence(kind, steps):
    return {"type": "Sequence", kind: steps}


NORMALIZERS = [
    *({"type": form} for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")),
    sequence("normalizers", [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]),
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
     "strip_accents": None, "lowercase": True},
    {"type": "BertNormalizer", "clean_text": False, "handle_chinese_chars": False,
     "strip_accents": None, "lowercase": False},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
     "strip_accents": True, "lowercase": False},
    {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
     "strip_accents": False, "lowercase": True},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Replace", "pattern": {"Regex": " {2,}|\\s+"}, "content": "\\1"},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Precompiled", "precompiled_charsmap": CHARSMAP},
]  # fmt: skip

BEHAVIORS = ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext")
SPLITS = [
    {"type": "BertPreTokenizer"},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": False},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
    {"type": "Digits", "individual_digits": True},
    {"type": "Digits", "individual_digits": False},
    {"type": "Whitespace"},
    {"type": "WhitespaceSplit"},
    {"type": "CharDelimiterSplit", "delimiter": "é"},
    *({"type": "Punctuation", "behavior": behavior} for behavior in BEHAVIORS),
    *({"type": "Split", "pattern": {"Regex": r"\p{L}+|\s"}, "behavior": behavior, "invert": invert}
      for behavior in BEHAVIORS for invert in (False, True)),
    {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False},
    *map(isolated, (GPT2, LLAMA3, QWEN2, r"[\p{P}\$\+<=>\^~\|]+", r"\p{N}{1,3}", "[0-9][0-9]")),
    sequence("pretokenizers", [{"type": "Digits", "individual_digits": True},
             {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True,
              "trim_offsets": True}]),
    sequence("pretokenizers", [{"type": "WhitespaceSplit"}, {"type": "Metaspace", "split": True,
             "replacement": "▁", "prepend_scheme": "always"}]),
]  # fmt: skip


def name(spec):
    return json.dumps(spec, ensure_ascii=True)[:60]


@pytest.fixture(scope="module")
def library():
    """A whole tokenizer of the library that has one given part."""
    tokenizers = pytest.importorskip("tokenizers")

    def make(**parts):
        model = {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}
        parts = {"normalizer": None, "pre_tokenizer": None, "decoder": None} | parts
        document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
        document |= {"post_processor": None, "model": model, **parts}
        return tokenizers.Tokenizer.from_str(json.dumps(document))

    return make


@pytest.mark.parametrize("spec", NORMALIZERS, ids=name)
def test_normalizers_are_the_librarys(library, spec):
    ours, theirs = normalizer(spec), library(normalizer=spec).normalizer
    for text in TEXTS:
        assert ours(text) == theirs.normalize_str(text)


@pytest.mark.parametrize("spec", SPLITS, ids=name)
def test_pre_tokenizers_are_the_librarys(library, spec):
    ours, theirs = pre_tokenizer(spec), library(pre_tokenizer=spec).pre_tokenizer
    for text in filter(None, TEXTS):
        assert ours([text], True) == [piece for piece, _ in theirs.pre_tokenize_str(text)]


TOKENS = [
    ["▁Hello", "▁", "world", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "▁▁", "▁x"],
    ["don", "##'", "t", "n't", "##.", ",", "'", "s", "Ġx", "Ċ", "é"],
    ["▁▁a", "b▁c", "▁"],
]


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "WordPiece", "prefix": "##", "cleanup": False},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
        sequence(
            "decoders",
            [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        ),
        sequence("decoders", [{"type": "Strip", "content": "▁", "start": 1, "stop": 0}]),
    ],
    ids=name,
)
@pytest.mark.parametrize("tokens", TOKENS)
def test_decoders_are_the_librarys(library, spec, tokens):
    made = decoder(spec)
    text = b"".join(made.piece(token, not at) for at, token in enumerate(tokens))
    text = text.decode("utf-8", "replace")
    text = text[1:] if made.strip and text.startswith(" ") else text
    theirs = library(decoder=spec).decoder
    assert text == (" ".join(tokens) if theirs is None else theirs.decode(tokens))


def test_values_known_by_hand():
    bert = normalizer(NORMALIZERS[7])
    assert bert("Café\x00 的人\tΣ") == "cafe  的  人  σ"
    assert normalizer({"type": "Lowercase"})("ΑΣ İ \ua7dc") == "ας i\u0307 \u019b".replace("ς", "σ")
    assert normalizer({"type": "NFKC"})("ﬁ\u32ff") == "fi\u32ff"  # newer than Unicode 12.0
    words = pre_tokenizer({"type": "BertPreTokenizer"})
    assert words(["a$b c\u3000d"], True) == ["a", "$", "b", "c", "d"]
    metaspace = pre_tokenizer(SPLITS[4])
    assert metaspace(["a b"], True) == ["_a_b"] and metaspace(["a b"], False) == ["a_b"]
    assert pre_tokenizer(SPLITS[1])(["é a"], True) == [spell("é".encode()), "Ġa"]


@pytest.mark.parametrize(
    "source",
    [r"\w+", r"\p{Han}", r"a{2,3}+", "^a", "a$", "[[:alpha:]]", "[a&&b]", "(?i)a", r"(?i:\p{L})",
     r"\h", r"\x41", r"(a)\1", "a)", "(a", "[a", "a**", r"\p{L", "[z-a]", "(?<n>a)", r"[\p{L}-z]"],
)  # fmt: skip
def test_expressions_that_may_mean_something_else_are_refused(source):
    with pytest.raises(Unsupported, match=r"regular expression .* is not supported"):
        Pattern(source)


@pytest.mark.parametrize("source", ["", "a*", "(?=a)", "a|", r"(?:\s*|b)", "x?", "(?!a)", r"\A"])
def test_expressions_that_match_nothing_are_refused(source):
    with pytest.raises(Unsupported, match="can match nothing"):
        Pattern(source)


@pytest.mark.parametrize(
    "source",
    [GPT2, LLAMA3, QWEN2, r"\A +| +\z", r".+?b", r"\D\P{L}", r"[^\S\n]+", r"[a\-z]|[c-]",
     r"\p{^N}a", "(ab|c)+(?=d)|(?<!x)y", r"[^\s]+|\s", r"a++b|\.", r"[\p{M}\p{Nd}]",
     "é{1,2}|[à-ü]"],
)  # fmt: skip
def test_expressions_mean_the_same(library, source):
    for text in filter(None, [*TEXTS, "  ab cd 12d xy  y", "a-z aab a.b c-"]):
        at, parts = 0, []
        for start, end in Pattern(source).spans(text):
            parts += [text[at:start], text[start:end]]
            at = end
        theirs = library(pre_tokenizer=isolated(source)).pre_tokenizer.pre_tokenize_str(text)
        assert [part for part in [*parts, text[at:]] if part] == [piece for piece, _ in theirs]


def test_templates():
    bert = {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}
    assert template(bert).around([7]) == [1, 7, 2]
    assert template(bert).around_pair([7], [8, 9]) == ([1, 7, 2, 8, 9, 2], [0, 0, 0, 1, 1, 1])
    roberta = bert | {"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": False}
    assert template(roberta).around_pair([7], [8]) == ([1, 7, 2, 2, 8, 2], [0] * 6)
    assert template(None).around_pair([7], [8]) == ([7, 8], [0, 1])
    made = around([1], [2])
    assert made.around([7]) == [1, 7, 2]
    names = ["", "<s>", "</s>"]
    assert template(made.document(names)) == made
    assert template(sequence("processors", [{"type": "ByteLevel"}, made.document(names)])) == made
    with pytest.raises(ValueError, match="adds control tokens twice"):
        template(sequence("processors", [bert, bert]))
    with pytest.raises(ValueError, match=r'template part {"Sequence": {"id": "C"'):
        template(made.document(names) | {"single": [{"Sequence": {"id": "C", "type_id": 0}}]})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "Precompiled", "precompiled_charsmap": "%"}, "precompiled_charsmap is damaged"),
        ({"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "a table of 3 bytes"),
        ({"type": "Replace", "pattern": {"String": ""}, "content": ""}, "pattern {\"String\""),
        ({"type": "Replace", "pattern": {"Regex": "a*"}, "content": ""}, "match nothing"),
        ({"type": "BertNormalizer", "strip_accents": 3}, "strip_accents 3 is not supported"),
        ({"type": "Sequence", "normalizers": {}}, "normalizers is {}, a list is needed"),
        ({"type": "Prepend", "prepend": 1}, "normalizer.prepend 1 is not supported"),
    ],
)  # fmt: skip
def test_damaged_normalizers_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        normalizer(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (sequence("pretokenizers", [SPLITS[1], SPLITS[0]]), "ByteLevel that is not the last"),
        (sequence("pretokenizers", [SPLITS[0], SPLITS[4]]), "Metaspace of scheme \"first\""),
        (SPLITS[3] | {"prepend_scheme": "other"}, "is not supported"),
        (SPLITS[3] | {"replacement": "__"}, "is not supported"),
        (SPLITS[3] | {"add_prefix_space": False}, "but add_prefix_space is false"),
        (isolated("a") | {"behavior": "Other"}, "behavior \"Other\" is not supported"),
        ({"type": "UnicodeScripts"}, "pre_tokenizer.type \"UnicodeScripts\""),
    ],
)  # fmt: skip
def test_damaged_pre_tokenizers_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        pre_tokenizer(spec)
