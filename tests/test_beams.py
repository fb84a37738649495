"""Beam search: against all texts there are, greedy search, and sums done by hand."""

import itertools
import math
import re

import numpy as np
import pytest

import small_gpt2
import small_llama
import small_t5
import small_transformer
from minillm.generation import Reader
from minillm.generation.beams import beam_search
from minillm.generation.constraints import regex
from minillm.tokenizers import CharTokenizer
from table_model import log, table_reader

V, T = 4, 4  # ids of the enumerated texts, and their longest
EARLY = (False, True, "never")


def random_table(seed, vocab_size=V, spread=1.5):
    """The logits after a text are drawn anew for each text."""

    def row(text):
        return np.random.default_rng([seed, len(text), *text]).normal(0, spread, vocab_size)

    return table_reader(row, vocab_size)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())


def every_text(reader, prompt, ends, length, penalty, vocab_size=V):
    """(score, ids) of all texts of at most `length` ids, best first; all are computed anew."""
    found = []
    for ids in itertools.product(range(vocab_size), repeat=length):
        stops = [place for place, id in enumerate(ids) if id in ends]
        ids = ids[: stops[0] + 1] if stops else ids
        reading = reader.begin()
        rows = reader.read([(reading, [*prompt, *ids])], every=True)[0][len(prompt) - 1 :]
        total = sum(log_softmax(row)[id] for row, id in zip(rows, ids))
        found.append((total / len(ids) ** penalty, list(ids)))
    unique = {tuple(ids): score for score, ids in found}
    return sorted(((score, list(ids)) for ids, score in unique.items()), reverse=True)


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_enough_beams_find_the_best_of_all_texts(seed, penalty):
    reader, ends = random_table(seed), {seed % V}
    right = every_text(reader, [1, 2], ends, T, penalty)
    got = beam_search(
        reader, [1, 2], beams=V**T, max_tokens=T, ends=ends, length_penalty=penalty, n=V**T,
        early_stopping="never",
    )  # fmt: skip
    assert len(got) == len(right) == len({tuple(text.ids) for text in got})
    np.testing.assert_allclose([t.score for t in got], [s for s, _ in right], rtol=1e-12)
    assert [text.ids for text in got] == [ids for _, ids in right]
    few = beam_search(
        reader, [1, 2], beams=V ** (T - 1), max_tokens=T, ends=ends, length_penalty=penalty,
        early_stopping="never",
    )  # fmt: skip
    assert few == got[:1]
    for text in got:
        assert text.finished == (text.ids[-1] in ends)
        assert text.score == pytest.approx(
            sum(text.log_probabilities) / len(text.ids) ** penalty, rel=1e-12
        )


def test_several_ends():
    reader, ends = random_table(9), {0, 3}
    right = every_text(reader, [1], ends, T, 1.0)
    got = beam_search(reader, [1], beams=64, max_tokens=T, ends=ends, n=5, early_stopping="never")
    assert [text.ids for text in got] == [ids for _, ids in right[:5]]


def by_hand():
    """Id 0 ends. 1 0 has -1.0 in all; 2 3 3 0 has -1.2; nothing else comes near."""
    rows = {
        (): {1: -0.9, 2: -0.96}, (1,): {0: -0.1}, (2,): {3: -0.08}, (2, 3): {3: -0.08},
        (2, 3, 3): {0: -0.08},
    }  # fmt: skip

    def row(text):
        known = {id: math.exp(value) for id, value in rows.get(text[1:], {}).items()}
        rest = (1 - sum(known.values())) / (5 - len(known))
        return log(*[known.get(id, rest) for id in range(5)])

    return table_reader(row, 5)


@pytest.mark.parametrize("early", [False, "never"])
def test_it_goes_on_when_the_best_beam_has_ended(early):
    """A sum of -1.0 over 2 ids is -0.5 each, -1.2 over 4 is -0.3: the longer text wins."""
    best, second = beam_search(
        by_hand(), [4], beams=2, n=2, max_tokens=6, ends={0}, early_stopping=early
    )
    assert best.ids == [2, 3, 3, 0] and best.score == pytest.approx(-0.30, abs=1e-6)
    assert second.ids == [1, 0] and second.score == pytest.approx(-0.50, abs=1e-6)
    np.testing.assert_allclose(best.log_probabilities, [-0.96, -0.08, -0.08, -0.08], atol=1e-6)
    assert best.finished and second.finished


def test_without_a_length_penalty_the_shorter_text_wins():
    for early in EARLY:
        (best,) = beam_search(
            by_hand(), [4], beams=2, max_tokens=6, ends={0}, length_penalty=0, early_stopping=early
        )
        assert best.ids == [1, 0] and best.score == pytest.approx(-1.0, abs=1e-6)


def late_bloomer():
    """Two texts end at once, at -1.0 and -1.1; a third, -1.7 so far, goes on for nothing."""

    def row(text):
        if len(text) == 1:
            rest = 1 - math.exp(-1.0) - math.exp(-1.1) - math.exp(-1.7)
            return log(math.exp(-1.0), math.exp(-1.1), math.exp(-1.7), rest / 2, rest / 2)
        return log(1e-9, 1e-9, 1 - 4e-9, 1e-9, 1e-9)

    return table_reader(row, 5)


def test_what_early_stopping_means():
    """Only "never" waits for the third, whose score is -1.7 / 4 in the end."""

    def best(early, **options):
        options = {"beams": 2, "max_tokens": 4, "ends": {0, 1}} | options
        return beam_search(late_bloomer(), [4], early_stopping=early, **options)[0]

    assert best(True).ids == best(False).ids == [0]
    assert best("never").ids == [2, 2, 2, 2]
    assert best("never").score == pytest.approx(-1.7 / 4, abs=1e-6)
    assert not best("never").finished
    assert best("never", length_penalty=0.0).ids == [0]


def test_it_stops_as_soon_as_no_continuation_can_be_better():
    """The third text reaches -1.7 / 4 ** penalty at most; the second that ended has -1.1."""
    asked = []

    def row(text):
        asked.append(text)
        return late_bloomer().model.row(text)

    for early, penalty, longest in ((True, 1.0, 1), (False, 1.0, 1), ("never", 0.2, 1),
                                    ("never", 1.0, 4), ("never", -1.0, 1)):  # fmt: skip
        asked.clear()
        reader = table_reader(row, 5)
        beam_search(
            reader, [4], beams=2, max_tokens=4, ends={0, 1}, length_penalty=penalty,
            early_stopping=early,
        )  # fmt: skip
        assert max(map(len, asked)) == longest, (early, penalty)


def greedy(reader, prompt, source, count, ends, vocab_size=None):
    reading, ids = reader.begin(source), []
    unread = [*reader.start_ids, *prompt]
    while len(ids) < count and not (ids and ids[-1] in ends):
        logits = reader.read([(reading, unread)])[0][:vocab_size]
        unread = [int(logits.argmax())]
        ids += unread
    return ids


REAL = {
    "gpt2": (small_gpt2.small, [1, 5, 12], None),
    "llama": (small_llama.small, [1, 5, 12], None),
    "qwen3, window": (lambda: small_llama.small("qwen3, window"), [1, 5, 12], None),
    "dynamic": (lambda: small_llama.small("dynamic"), [1, 5, 12], None),
    "t5": (small_t5.small, [], [1, 5, 12, 7]),
    "transformer": (small_transformer.small, [], [1, 5, 12, 7]),
}


# the logits of the others depend on the pieces in which a text is read
SAME_IN_PIECES = [name for name in REAL if name != "dynamic"]


class TestRealModels:
    @pytest.mark.parametrize("name", REAL)
    def test_one_beam_is_greedy_search(self, name):
        make, prompt, source = REAL[name]
        reader = Reader(make())
        whole = greedy(reader, prompt, source, 6, ())
        for ends in ({99}, {whole[2]}, {whole[0], 3}):
            for early, penalty in itertools.product(EARLY, (-1.0, 0.0, 3.0)):
                (got,) = beam_search(
                    reader, prompt, source=source, beams=1, max_tokens=6, ends=ends,
                    early_stopping=early, length_penalty=penalty,
                )  # fmt: skip
                right = greedy(reader, prompt, source, 6, ends)
                assert got.ids == right
                assert got.finished == (right[-1] in ends)

    @pytest.mark.parametrize("name", SAME_IN_PIECES)
    def test_the_caches_follow_the_beams(self, name):
        make, prompt, source = REAL[name]
        model = make()
        for beams in (2, 5, 40):
            options = {"source": source, "beams": beams, "n": min(beams, 4), "max_tokens": 6,
                       "ends": {3}, "early_stopping": "never"}  # fmt: skip
            got = beam_search(Reader(model), prompt, **options)
            right = beam_search(Reader(model, use_cache=False), prompt, **options)
            assert [text.ids for text in got] == [text.ids for text in right]
            np.testing.assert_allclose([t.score for t in got], [t.score for t in right], rtol=1e-5)
            assert len({tuple(text.ids) for text in got}) == len(got)

    @pytest.mark.parametrize("name", SAME_IN_PIECES)
    def test_scores_are_what_the_model_says_of_the_text(self, name):
        make, prompt, source = REAL[name]
        reader = Reader(make())
        first = [*reader.start_ids, *prompt]
        for text in beam_search(
            reader, prompt, source=source, beams=5, n=5, max_tokens=6, ends={3}
        ):
            rows = reader.read([(reader.begin(source), first + text.ids)], every=True)[0]
            rows = rows[len(first) - 1 :]
            right = [log_softmax(row)[id] for row, id in zip(rows, text.ids)]
            np.testing.assert_allclose(text.log_probabilities, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_copies_of_caches_of_fewer_bytes_are_their_own(dtype):
    reader = Reader(small_llama.small("mistral"), cache_dtype=dtype)
    for text in beam_search(reader, [1, 5, 12], beams=5, n=5, max_tokens=12, ends={3}):
        reading, unread, right = reader.begin(), [1, 5, 12], []
        for id in text.ids:
            right.append(log_softmax(reader.read([(reading, unread)])[0])[id])
            unread = [id]
        np.testing.assert_allclose(text.log_probabilities, right, rtol=1e-9)


def test_more_beams_than_ids():
    reader = random_table(3, 2)
    got = beam_search(reader, [0], beams=9, n=9, max_tokens=2, ends=set())
    assert sorted(text.ids for text in got) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert [text.score for text in got] == sorted((t.score for t in got), reverse=True)


def test_ties_go_to_the_lowest_id():
    reader = table_reader(lambda text: -2.0 * (np.arange(90) * 7 % 3), 90)
    got = beam_search(reader, [0], beams=40, n=40, max_tokens=1, ends={89})
    best, second = ([id for id in range(90) if id * 7 % 3 == rank] for rank in (0, 1))
    assert [text.ids[0] for text in got] == [*best, *second][:40]


def test_ids_from_vocab_size_on_are_never_chosen():
    reader = random_table(3, 9, 4.0)
    options = {"beams": 4, "n": 4, "max_tokens": 5, "ends": {1}}
    assert any(max(text.ids) > 4 for text in beam_search(reader, [0], **options))
    got = beam_search(reader, [0], vocab_size=5, **options)
    assert all(max(text.ids) <= 4 for text in got)
    assert math.fsum(np.exp(t.score) for t in beam_search(
        reader, [0], vocab_size=5, beams=5, n=5, max_tokens=1, ends=set()
    )) == pytest.approx(1.0)  # fmt: skip


class Copied(Reader):
    """Counts the copies of caches."""

    copies = 0

    def begin(self, source=None):
        reading = super().begin(source)
        cache_fork = type(reading.cache).fork
        owner = self

        class Counting(type(reading.cache)):
            def fork(self):
                owner.copies += 1
                return cache_fork(self)

        reading.cache.__class__ = Counting
        return reading


def test_a_beam_that_goes_on_alone_is_not_copied():
    reader = Copied(small_gpt2.small())
    beam_search(reader, [1], beams=1, max_tokens=6, ends={99})
    assert reader.copies == 0
    beam_search(reader, [1], beams=3, max_tokens=2, ends={99})
    assert reader.copies == 2  # three beams out of one


class Alternating:
    """A constraint: even and odd ids in turn; it may end (3) after two ids, and must at the end."""

    finished = False

    def __init__(self, text=()):
        self.text = list(text)

    def fork(self):
        return Alternating(self.text)

    def allowed(self, remaining):
        assert remaining == 5 - len(self.text)
        mask = np.arange(6) % 2 == len(self.text) % 2
        mask[3] = len(self.text) >= 2
        return mask & (np.arange(6) == 3) if remaining == 1 else mask

    def advance(self, id):
        self.text.append(id)


@pytest.mark.parametrize("beams", [1, 3, 8])
def test_a_constraint_holds_in_every_beam(beams):
    state = Alternating()
    got = beam_search(
        random_table(5, 6), [1], beams=beams, n=beams, max_tokens=5, ends={3}, allowed=state
    )
    assert len(got) == beams
    for text in got:
        assert text.finished and 3 <= len(text.ids) <= 5
        assert all(id % 2 == place % 2 for place, id in enumerate(text.ids[:-1]))
        rows = random_table(5, 6)
        read = rows.read([(rows.begin(), [1, *text.ids])], every=True)[0]
        right = [log_softmax(row)[id] for row, id in zip(read, text.ids)]
        np.testing.assert_allclose(text.log_probabilities, right, rtol=1e-9)


def test_no_tokens_give_an_empty_text():
    assert beam_search(random_table(0), [0], beams=2, max_tokens=0, ends=())[0].ids == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beams": 0}, "beams: 0, 1 or more is needed"),
        ({"n": 0}, "n: 0 of 2 beams, 1 to 2 is needed"),
        ({"n": 3}, "n: 3 of 2 beams, 1 to 2 is needed"),
        ({"max_tokens": -1}, "max-tokens: -1, 0 or more"),
        ({"length_penalty": math.nan}, "length-penalty: nan, a number"),
        ({"length_penalty": -1e9}, "length-penalty: -1000000000.0, a number"),
        ({"early_stopping": "always"}, "early-stopping: 'always', True, False or 'never'"),
        ({"max_tokens": 9}, "beam search: 2 tokens and 9 to come, the model's context is 9"),
        ({"source": [1]}, "a source was given, this model has no encoder"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message):
    options = {"beams": 2, "max_tokens": 5, "ends": {0}} | options
    with pytest.raises(ValueError, match=message):
        beam_search(Reader(small_gpt2.small()), [1, 2], **options)


def test_the_context_can_be_filled():
    (got,) = beam_search(Reader(small_gpt2.small()), [1, 2], beams=2, max_tokens=8, ends={99})
    assert len(got.ids) == 8


@pytest.mark.parametrize("damaged", [math.nan, math.inf])
def test_damaged_logits_are_refused(damaged):
    reader = table_reader(lambda text: np.array([0.0, damaged, 1.0]), 3)
    with pytest.raises(ValueError, match=r"the logits hold (NaN|infinity), finite numbers"):
        beam_search(reader, [0], beams=2, max_tokens=2, ends=())


class TestRegex:
    """A real constraint, over a tokenizer of letters; with and without an end token."""

    PATTERN = "(ab|ba)+c|(cd){2,3}"

    def search(self, end, **options):
        tokens = [*"abcdefgh", *(["<end>"] if end else [])]
        tokenizer = CharTokenizer(tokens, {"<end>": 8} if end else {})
        ends = frozenset({8} if end else ())
        state = regex(self.PATTERN, tokenizer).start(ends=ends)
        reader = random_table(8, len(tokens))
        return [
            (tokenizer.decode([id for id in text.ids if id not in ends]), text)
            for text in beam_search(
                reader, [0], max_tokens=9, ends=ends, allowed=state, early_stopping="never",
                **options,
            )
        ]  # fmt: skip

    @pytest.mark.parametrize("end", [True, False])
    @pytest.mark.parametrize("beams", [1, 3, 60])
    def test_every_text_matches(self, end, beams):
        found = self.search(end, beams=beams, n=beams)
        assert beams == 60 or len(found) == beams
        assert len(found) == len({words for words, _ in found})
        for words, text in found:
            assert re.fullmatch(self.PATTERN, words)
            assert text.finished == (text.ids[-1] == 8 or not end)
            assert text.score == pytest.approx(sum(text.log_probabilities) / len(text.ids))

    @pytest.mark.parametrize("end", [True, False])
    def test_enough_beams_find_every_text(self, end):
        """Without an end token a text that could go on does."""
        words = {"cdcdcd"} | ({"cdcd"} if end else set())
        for count in range(1, 5):
            parts = itertools.product(("ab", "ba"), repeat=count)
            words |= {"".join(text) + "c" for text in parts}
        assert {text for text, _ in self.search(end, beams=60, n=60)} == words
