"""Constraints: texts of a form, within a budget, whatever the model likes to write."""

import random
import re

import numpy
import pytest

from frozen_sentencepiece import BPE
from minillm.generation.constraints import TokenPieces, choices, regex
from minillm.tokenizers import CharTokenizer, load
from small_constraints import BIASES, BYTES, LETTERS, MERGED, bias, least, write

TEXTS = ["alpha", "alphabet", "beta", "zé!", "né", "", "🙂🙂", "abc cab"]


@pytest.mark.parametrize("tokenizer", [BYTES, MERGED], ids=["bytes", "merged"])
def test_every_choice_can_be_written_and_nothing_else(tokenizer):
    constraint = choices(TEXTS[:5], tokenizer)
    rng, seen = numpy.random.default_rng(0), set()
    for name in BIASES:
        liking = bias(tokenizer, name)
        for budget in (least(constraint), least(constraint) + 1, 20):
            for _ in range(20):
                ids, state = write(constraint, tokenizer, budget, rng, liking)
                assert state.complete and len(ids) <= budget
                seen.add(tokenizer.decode(ids))
    assert seen == set(TEXTS[:5])


def test_what_follows_is_what_the_texts_say():
    state = choices(TEXTS, BYTES).start()
    assert state.complete and not state.finished  # the empty text is one of them
    for byte in b"alpha":
        state.advance(byte)
    assert state.complete and not state.finished
    assert numpy.flatnonzero(state.allowed(9)).tolist() == [ord("b"), BYTES.eos_id]
    assert numpy.flatnonzero(state.allowed(2)).tolist() == [BYTES.eos_id]  # b, e, t are three
    other = state.fork()
    for byte in b"bet":
        other.advance(byte)
    assert other.finished and other.complete and not state.finished
    assert numpy.flatnonzero(other.allowed(1)).tolist() == [BYTES.eos_id]
    other.advance(BYTES.eos_id)
    with pytest.raises(RuntimeError, match="the text has ended"):
        other.allowed(1)


def test_a_token_may_hold_many_characters_or_a_part_of_one():
    state = choices(["abc cab"], MERGED).start()
    names = {MERGED.token_bytes(id) for id in numpy.flatnonzero(state.allowed(9))}
    assert names == {b"a", b"ab", b"abc"}
    state = choices(["é"], MERGED).start()
    names = {MERGED.token_bytes(id) for id in numpy.flatnonzero(state.allowed(2))}
    assert names == {b"\xc3", b"\xc3\xa9"}
    names = {MERGED.token_bytes(id) for id in numpy.flatnonzero(state.allowed(1))}
    assert names == {b"\xc3\xa9"}


def test_ends_are_allowed_exactly_where_the_text_is_complete():
    state = regex("a+", BYTES).start(ends={7, 999})
    assert not state.allowed(5)[[7, BYTES.eos_id]].any()
    state.advance(ord("a"))
    assert state.allowed(5)[[7, BYTES.eos_id, ord("a")]].all()
    assert state.allowed(1)[ord("a")] and state.complete and not state.finished
    state.advance(7)
    assert state.finished


@pytest.mark.parametrize("budget, needed", [(0, 3), (2, 3), (-1, 3)])
def test_a_budget_that_cannot_do_is_refused_with_the_number_needed(budget, needed):
    with pytest.raises(ValueError, match=rf"^choices: {budget} tokens .* at least {needed} are"):
        choices(["zab", "xyzt"], BYTES).start().allowed(budget)


def test_a_token_that_the_mask_forbids_is_refused():
    state = choices(["ab"], BYTES).start()
    for wrong in (ord("b"), BYTES.eos_id, -1, 5000):
        with pytest.raises(ValueError, match=f"^choices: token {wrong} cannot come here"):
            state.fork().advance(wrong)
    state.advance(ord("a"))
    assert state.allowed(1)[ord("b")]


def test_control_tokens_are_never_text():
    tokenizer = CharTokenizer.from_characters("<|>ab", ["<|a|>", "<|endoftext|>"])
    state = regex(".*", tokenizer).start()
    assert numpy.flatnonzero(state.allowed(3)).tolist() == [0, 1, 2, 3, 4, tokenizer.eos_id]


def test_what_a_vocabulary_cannot_write_is_named():
    assert least(regex("[a-zé]{3}", LETTERS)) == 3
    for pattern, missing in (("abz", "'abz'"), ("a[xyz]", "any character like 'x'")):
        with pytest.raises(ValueError, match=f"vocabulary, which has none for {missing}"):
            regex(pattern, LETTERS)
    written = set()
    constraint, rng = regex("[a-zé]|xyz|[x-z]*a", LETTERS), numpy.random.default_rng(0)
    for _ in range(40):
        ids, _ = write(constraint, LETTERS, 5, rng, bias(LETTERS, "none"))
        written.add(LETTERS.decode(ids))
    assert written == {"a", "b", "c", "é"}


def test_what_has_been_compiled_is_kept_for_the_tokenizer():
    assert regex("ab*", BYTES) is regex("ab*", BYTES)
    assert regex("ab*", BYTES) is not regex("ab*", MERGED)
    assert regex("ab*", BYTES).pieces is choices(["x"], BYTES).pieces
    assert TokenPieces(BYTES).later[:256] == [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize(
    "texts, error, complaint",
    [
        ([], ValueError, "none is given"),
        ("yes", TypeError, "a list of str"),
        (["a", 1], TypeError, "a list of str"),
        (["a", "b\ud800"], ValueError, r"U\+D800 at position 1 of choice 1"),
    ],
)
def test_choices_that_are_none(texts, error, complaint):
    with pytest.raises(error, match=f"^choices: .*{complaint}"):
        choices(texts, BYTES)


def test_states_that_are_forgotten_are_found_again(monkeypatch):
    from minillm.generation.constraints import constraint as module

    monkeypatch.setattr(module, "MOST_STATES", 4)
    constraint = regex("(ab|ba|c[0-9]+){10,20}end", MERGED)
    rng = numpy.random.default_rng(1)
    for budget in (least(constraint), 30):
        for _ in range(10):
            ids, state = write(constraint, MERGED, budget, rng, bias(MERGED, "digits"))
            assert state.complete and MERGED.decode(ids).endswith("end")
    assert constraint.automaton.epoch > 5


def test_too_many_ways_to_read_a_text_are_refused():
    with pytest.raises(ValueError, match="ways to read the text so far, at most 4096"):
        state = regex("(a?){9000}", BYTES).start()
        state.allowed(5)


def test_spaces_that_sentencepiece_drops_at_the_beginning_are_no_text(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(BPE)
    tokenizer = load(tmp_path / "tokenizer.model")
    rng, liking = numpy.random.default_rng(0), bias(load(tmp_path / "tokenizer.model"), "none")
    for pattern in ("a [a-z]+ b", " ?x[a-z]{3}", "(  ?[a-c]){3}|b"):
        constraint = regex(pattern, tokenizer)
        for _ in range(20):
            ids, _ = write(constraint, tokenizer, least(constraint) + 2, rng, liking)
            assert re.fullmatch(pattern, tokenizer.decode(ids))
    with pytest.raises(ValueError, match="drops spaces at the beginning"):
        regex(" x", tokenizer)


def fewest(data, tokens):
    """Tokens that `data` is made of at least, None where there are none."""
    best = {0: 0}
    for end in range(1, len(data) + 1):
        found = [best[start] + 1 for start in best if data[start:end] in tokens]
        if found:
            best[end] = min(found)
    return best.get(len(data))


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_exact_for_a_text_and_sound_for_several(seed):
    rng, tokens = random.Random(seed), {MERGED.token_bytes(id) for id in range(MERGED.vocab_size)}
    words = ["abc", "12", "é", '":', "  ", "🙂", "name", "tru", "[[["]
    texts = ["".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(4)]
    data = [text.encode() for text in texts]
    for known in (data[:1], data):
        constraint = choices([text.decode() for text in known], MERGED)
        todo = [(constraint.start(), b"", least(constraint) + extra) for extra in (0, 2)]
        assert min(fewest(one, tokens) for one in known) <= todo[0][2]
        while todo:
            state, written, remaining = todo.pop()
            allowed = state.allowed(remaining)
            for id in range(MERGED.vocab_size - 1):
                longer = written + MERGED.token_bytes(id)
                ends = [one[len(longer) :] for one in known if one.startswith(longer)]
                right = any(fewest(end, tokens) <= remaining - 1 for end in ends)
                assert right or not allowed[id]
                assert allowed[id] or not right or len(known) > 1
                if allowed[id]:
                    todo.append((state.fork(), longer, remaining - 1))
                    todo[-1][0].advance(id)
