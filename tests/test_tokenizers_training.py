"""Training: what is learnt, that nothing but the content counts, and what is refused."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.tokenizers import train
from minillm.tokenizers.bpe_training import count_words, learn_merges
from minillm.tokenizers.splitting import split

RHYME = (
    "she sells sea shells by the sea shore; the shells she sells are sea shells, I'm sure.\n" * 3
)


def naive_merges(words, size):
    """Count every pair anew for each merge; the highest count, then the smallest pair of bytes."""
    pieces = {word: [bytes([byte]) for byte in word.encode("utf-8")] for word in words}
    merges, known = [], set()
    while len(known) < size:
        counts = Counter()
        for word, tokens in pieces.items():
            for pair in itertools.pairwise(tokens):
                counts[pair] += words[word]
        pair = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if pair is None or counts[pair] < 2:
            break
        merges.append(pair)
        known.add(pair[0] + pair[1])
        for tokens in pieces.values():
            at = 0
            while at < len(tokens) - 1:
                if (tokens[at], tokens[at + 1]) == pair:
                    tokens[at : at + 2] = [pair[0] + pair[1]]
                at += 1
    return merges


@given(text=st.text("aab bé'\n", max_size=150), size=st.integers(0, 30))
@settings(max_examples=200)
def test_merges_are_those_of_counting_anew(text, size):
    words = Counter(split(text))
    assert learn_merges(words, size) == naive_merges(words, size)


def test_merges_on_real_text_are_those_of_counting_anew():
    words = Counter(split(RHYME))
    merges = learn_merges(words, 60)
    assert len(merges) > 20
    assert merges == naive_merges(words, 60)


def test_merges_by_hand():
    """ "hug" 10, "pug" 5, "pun" 12, "bun" 4, "hugs" 5: ug 20, then un 16, then h+ug 15."""
    words = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    assert learn_merges(words, 3) == [(b"u", b"g"), (b"u", b"n"), (b"h", b"ug")]
    assert learn_merges({"aaa": 2}, 2) == [(b"a", b"a"), (b"aa", b"a")]
    assert learn_merges({"ba": 2, "ab": 2, "Ab": 2}, 2) == [(b"A", b"b"), (b"a", b"b")]


@given(text=st.text("aab 's\n ré1", max_size=80), cuts=st.lists(st.integers(0, 80), max_size=6))
@settings(max_examples=100)
def test_borders_of_chunks_make_no_difference(text, cuts):
    bounds = [0, *sorted(cuts), len(text)]
    chunks = [text[low:high] for low, high in itertools.pairwise(bounds)]
    assert count_words(chunks) == count_words([text]) == Counter(split(text))
    whole = train("bpe", [text], vocab_size=270)
    assert train("bpe", chunks, vocab_size=270).fingerprint == whole.fingerprint
    if text:
        assert train("char", chunks).fingerprint == train("char", [text]).fingerprint


def test_chunks_larger_than_a_window_make_no_difference():
    draw = random.Random(0)
    text = "".join(draw.choice(["ab", "a ", "b'", "s", "\n", "  "]) for _ in range(100_000))
    chunks = [text[start : start + 999] for start in range(0, len(text), 999)]
    assert count_words(chunks) == count_words([text]) == Counter(split(text))


def test_endless_pre_tokens_are_counted_in_pieces():
    counts = count_words(["a" * 2500 + " b", "b" * 70_000])
    assert counts == {
        "a" * 1024: 2,
        "a" * 452: 1,
        " " + "b" * 1023: 1,
        "b" * 1024: 67,
        "b" * 370: 1,
    }


def test_vocabulary_has_the_size_asked_for_or_what_the_text_gives():
    assert train("bpe", [RHYME], vocab_size=280).vocab_size == 280
    assert train("bpe", [RHYME], vocab_size=257).merges == []
    small = train("bpe", ["abcabd"], vocab_size=5000)
    assert small.merges == [("a", "b")] and small.vocab_size == 258
    assert train("bpe", [], vocab_size=5000).vocab_size == 257


def test_frequent_words_become_one_token():
    tokenizer = train("bpe", [RHYME], vocab_size=320)
    assert len(tokenizer.encode(" shells")) == 1
    assert tokenizer.decode(tokenizer.encode(RHYME)) == RHYME
    assert len(tokenizer.encode(RHYME)) < len(RHYME) / 2.5


def test_progress_counts_up_to_the_merges_asked_for():
    seen = []
    train("bpe", [RHYME], vocab_size=267, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 10) for done in range(1, 11)]


@pytest.mark.parametrize(
    ("kind", "texts", "options", "error", "message"),
    [
        (
            "words",
            [],
            {},
            ValueError,
            "kind 'words', one of byte, char, bpe, wordpiece, unigram, word",
        ),
        ("bpe", [], {}, ValueError, "a bpe vocabulary of None, at least 257 are needed"),
        ("bpe", [], {"vocab_size": 256}, ValueError, "of 256, at least 257"),
        (
            "byte",
            [],
            {"vocab_size": 300},
            ValueError,
            "a vocabulary of 300 bytes, it always has 257",
        ),
        ("byte", [], {"byte_fallback": True}, ValueError, "byte_fallback is of kind 'char'"),
        ("bpe", ["a", b"b"], {"vocab_size": 300}, TypeError, "tokenizer: text is bytes"),
        ("char", ["é\udc80"], {}, ValueError, r"tokenizer: lone surrogate U\+DC80 at position 1"),
    ],
)
def test_impossible_requests_are_refused(kind, texts, options, error, message):
    with pytest.raises(error, match=message):
        train(kind, texts, **options)
