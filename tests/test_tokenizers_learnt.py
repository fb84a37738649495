"""WordPiece and Unigram vocabularies: against plain counting, and the tokenizers library."""

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest

from minillm.tokenizers import load, train
from minillm.tokenizers.unigram_training import (
    _expected,
    _maximised,
    _without,
    digamma,
    learn_pieces,
)
from minillm.tokenizers.word_piece_training import _pieces
from small_runs import minillm, tree
from small_texts import sentences

TEXT = "".join(sentences(i, 6) for i in range(12)) + (
    "Er läuft über die Straße, naïvely; 日本語 и текст, don't stop at 12 345!\n" * 3
)
HARD = [
    TEXT[:600],
    "unseen ☃ characters 🙂 and U+2581",
    "  two  spaces \n\n\ttabs",
    "<|endoftext|> [MASK] <unk> <0x41>",
    "x" * 150,
    "",
]


def naive_word_pieces(words, size):
    pieces = {w: [w[0], *("##" + c for c in w[1:])] for w in words}
    known = list(dict.fromkeys(sorted({p for ps in pieces.values() for p in ps})))
    while len(known) < size:
        counts = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                counts[pair] += words[word]
        pair = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if pair is None or counts[pair] < 2:
            break
        made = pair[0] + pair[1][2:]
        if made not in known:
            known.append(made)
        for parts in pieces.values():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == pair:
                    parts[at : at + 2] = [made]
                at += 1
    return known


@pytest.mark.parametrize("size", [20, 40, 70])
def test_word_pieces_are_those_of_counting_anew(size):
    words = Counter(TEXT.lower().replace(".", "").split())
    words = Counter({w: c for w, c in words.items() if w.isascii()})
    least = len(naive_word_pieces(words, 0))
    assert _pieces(words, least + size, None) == naive_word_pieces(words, least + size)


def all_cuts(word, scores):
    if not word:
        yield []
    for end in range(1, len(word) + 1):
        if word[:end] in scores:
            for rest in all_cuts(word[end:], scores):
                yield [word[:end], *rest]


def test_expected_uses_are_sums_over_all_ways_to_cut():
    rng = np.random.default_rng(0)
    words = {"abab": 3, "aab": 2, "b": 5, "abba": 1}
    pieces = sorted({w[i:j] for w in words for i in range(4) for j in range(i + 1, len(w) + 1)})
    chances = rng.dirichlet(np.ones(len(pieces)))
    scores = dict(zip(pieces, np.log(chances).tolist()))
    wanted = Counter()
    for word, count in words.items():
        cuts = list(all_cuts(word, scores))
        weights = [math.exp(sum(scores[piece] for piece in cut)) for cut in cuts]
        for cut, weight in zip(cuts, weights):
            for piece in cut:
                wanted[piece] += count * weight / sum(weights)
    found = _expected(words, scores)
    assert found == pytest.approx(dict(wanted), rel=1e-12)
    for piece in pieces:
        others = {p: s for p, s in scores.items() if p != piece}
        best = max(
            (sum(others[p] for p in cut) for cut in all_cuts(piece, others)), default=-math.inf
        )
        assert _without(piece, scores) == pytest.approx(best)


def test_digamma_is_the_slope_of_log_gamma():
    for x in (0.5, 1.0, 3.7, 12.0, 400.0):
        slope = (math.lgamma(x + 1e-5) - math.lgamma(x - 1e-5)) / 2e-5
        assert digamma(x) == pytest.approx(slope, rel=1e-7, abs=1e-9)


def test_each_round_makes_the_words_more_probable():
    words = Counter(TEXT.replace("\n", " ").split())
    known = set("".join(words))
    pieces = {w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1)}
    scores = dict.fromkeys(sorted(pieces), -math.log(len(pieces)))

    def likelihood(scores):
        total = 0.0
        for word, count in words.items():
            ways = [1.0] + [0.0] * len(word)
            for start, end in itertools.combinations(range(len(word) + 1), 2):
                if word[start:end] in scores:
                    ways[end] += ways[start] * math.exp(scores[word[start:end]])
            total += count * math.log(ways[-1])
        return total

    before = likelihood(scores)
    for _ in range(3):
        scores = _maximised(_expected(words, scores), known)
        now = likelihood(scores)
        assert now > before
        before = now


def test_frequent_words_become_pieces_and_sizes_are_kept():
    words = Counter({"▁river": 900, "▁stone": 700, "▁riverstone": 40, "▁a": 30, "▁vines": 20})
    for size in (14, 16, 20):
        found = dict(learn_pieces(words, size))
        assert len(found) <= size
        assert set("".join(words)) <= set(found)
        assert {"▁river", "▁stone"} <= set(found)
    with pytest.raises(ValueError, match="a unigram vocabulary of 5, at least 10 are needed"):
        learn_pieces(words, 5)
    text, specials = "abcabc", ("<a>", "</a>")  # < and > and others of the names of bytes as well
    least = 1 + 256 + len(specials) + len(set("<0123456789ABCDEFunkx>abc"))
    match = f"a unigram vocabulary of 100, at least {least} are needed"
    with pytest.raises(ValueError, match=match):
        train("unigram", [text], vocab_size=100, special_tokens=specials)
    made = train("unigram", [text], vocab_size=least, special_tokens=specials)
    assert made.vocab_size == least


@pytest.fixture(scope="module")
def learnt():
    return {
        "wordpiece": train("wordpiece", [TEXT], vocab_size=200),
        "cased": train("wordpiece", [TEXT], vocab_size=200, lowercase=False),
        "unigram": train("unigram", [TEXT], vocab_size=450),
        "bpe": train("bpe", [TEXT], vocab_size=400),
    }


@pytest.mark.parametrize("kind", ["wordpiece", "cased", "unigram", "bpe"])
def test_the_library_gives_equal_ids(learnt, kind, tmp_path):
    library = pytest.importorskip("tokenizers")
    tokenizer = learnt[kind]
    tokenizer.save(tmp_path)
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    python = load(tmp_path, backend="python")
    assert python.fingerprint == tokenizer.fingerprint
    for text in HARD:
        wanted = theirs.encode(text, add_special_tokens=False).ids
        assert python.encode(text) == wanted
        assert tokenizer.encode(text) == wanted
        around = theirs.encode(text).ids
        assert python.encode(text, add_special_tokens=True) == around


def test_unigram_gives_back_any_text(learnt):
    tokenizer = learnt["unigram"]
    for text in HARD:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_id == tokenizer.vocab_size - 1
    assert tokenizer.eos_id not in tokenizer.encode("<|endoftext|>")


def test_where_texts_are_cut_makes_no_difference():
    for kind, size in (("wordpiece", 200), ("unigram", 450)):
        whole = train(kind, [TEXT * 40], vocab_size=size)
        rng = np.random.default_rng(1)
        cuts = [0, *sorted(rng.integers(0, 40 * len(TEXT), 200).tolist()), 40 * len(TEXT)]
        pieces = [(TEXT * 40)[a:b] for a, b in itertools.pairwise(cuts)]
        assert train(kind, pieces, vocab_size=size).fingerprint == whole.fingerprint


def test_roles_and_templates_are_those_of_bert(learnt, tmp_path):
    tokenizer = learnt["wordpiece"]
    assert tokenizer.role_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.encode("River", add_special_tokens=True)[::2] == [2, 3]
    assert tokenizer.decode(tokenizer.encode("RIVER läuft")) == "river lauft"
    learnt["cased"].save(tmp_path)
    assert load(tmp_path).decode(load(tmp_path).encode("läuft über")) == "läuft über"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_command_saves_what_prepare_takes(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    words = ["tokenizer", "train", "a.txt", "--kind", kind, "--vocab-size", 500, "--out", "tok"]
    assert minillm(*words) == 0
    assert f"tok: {kind} of " in capsys.readouterr().err
    assert json.loads((tmp_path / "tok/tokenizer.json").read_text())["version"] == "1.0"
    assert minillm("data", "prepare", "a.txt", "--out", "d", "--tokenizer", "tok",
                   "--workers", 1) == 0  # fmt: skip
    before = tree(tmp_path)
    assert minillm(*words, "--vocab-size", 400) == 2
    assert "tokenizer train: tok holds a tokenizer.json" in capsys.readouterr().err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "words, said",
    [
        (["a.txt", "--vocab-size", 20], "a bpe vocabulary of 20, at least 257 are needed"),
        (["a.txt", "--vocab-size", 20, "--kind", "wordpiece"], "a wordpiece vocabulary of 20, at "),
        (["a.txt", "--vocab-size", 270, "--kind", "unigram"], "a unigram vocabulary of 270, at"),
        (["a.txt", "--vocab-size", 0, "--kind", "unigram"], "a unigram vocabulary of 0, 1 or"),
        (["a.txt", "--vocab-size", 300, "--cased"], "cased: a bpe tokenizer always is"),
        (["--vocab-size", 300], "tokenizer train: no file given"),
        (["empty.txt", "--vocab-size", 300], "tokenizer train: no text in empty.txt"),
        (["a.txt", "--vocab-size", 300, "--kind", "unigrm"], "did you mean unigram?"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    assert minillm("tokenizer", "train", *words, "--out", "tok") == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "tok").exists()
