"""Engine: requests side by side, each as if it were alone; what comes out, piece by piece."""

import itertools
import re
import threading

import numpy as np
import pytest

from minillm import Tensor, no_grad
from minillm.arrays import new_generator
from minillm.generation import (
    Engine,
    Options,
    Reader,
    Sampler,
    complete,
    generate,
    generate_ids,
    stream,
    stream_pieces,
)
from minillm.generation.beams import beam_search
from minillm.generation.contrastive import contrastive_search
from minillm.generation.prompts import fitted
from minillm.models import GPT2, GPT2Config
from minillm.tokenizers import ByteTokenizer, CharTokenizer
from small_gpt2 import small
from small_t5 import small as small_t5

LONG = {"n_positions": 64}
RANGE = (0, 1, 2, 7, 8, 9, 10, 11, 40)  # tokens to write, around a context of 9


def letters(end=None, size=13):
    """Characters a, b, c ... as ids; the id `end` is the end of the text."""
    tokens = [chr(ord("a") + place) for place in range(size)]
    special = {}
    if end is not None:
        tokens[end] = "<|endoftext|>"
        special = {"<|endoftext|>": end}
    return CharTokenizer(tokens, special)


def random_gpt2(seed, **options):
    """Far from uniform: greedy texts do not all end in a loop of one id."""
    sizes = {"vocab_size": 13, "n_positions": 64, "n_embd": 12, "n_layer": 2, "n_head": 3}
    model, rng = GPT2(GPT2Config(**sizes | options)), np.random.default_rng(seed)
    with no_grad():
        for parameter in model.parameters():
            parameter.copy_(rng.normal(0, 0.7, parameter.shape))
    return model.eval()


def drained(engine, most=1000):
    """The pieces of each step until nothing is left to do."""
    steps = []
    while not engine.idle:
        steps.append(engine.step())
        assert len(steps) < most
    return steps


def told(steps, ticket, index=0):
    pieces = itertools.chain(*steps)
    return [piece for piece in pieces if piece.ticket is ticket and piece.index == index]


class Script:
    """A decoder that says what it is told to, whatever it reads: logits are one-hot by place."""

    reads_whole = False

    def __init__(self, ids, size=257, context=100, start=1):
        self.ids, self.start = ids, start
        self.config = type("Config", (), {})()
        self.config.kind, self.config.context, self.config.vocab_size = "decoder", context, size
        self.config.n_layer, self.config.eos_token_id = 1, None

    def eval(self):
        return self

    def __call__(self, ids, cache):
        return Tensor(np.zeros((*ids.shape, self.config.vocab_size), np.float32))

    def next_logits(self, ids, cache):
        place = cache.length + ids.shape[1] - self.start
        k = Tensor(np.zeros((1, 1, ids.shape[1], 1), np.float32))
        cache.update(0, k, k)
        logits = np.zeros((1, self.config.vocab_size), np.float32)
        logits[0, self.ids[min(place, len(self.ids) - 1)]] = 20
        return Tensor(logits)


def said(data, **options):
    """(texts, finish reason) of a byte-level model that writes `data`."""
    model = Script(list(data))
    pieces = list(
        stream_pieces(model, ByteTokenizer(), [0], temperature=0, max_tokens=len(data), **options)
    )
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    return [piece.text for piece in pieces], pieces[-1].finish_reason


class TestCharacters:
    def test_a_character_comes_when_its_last_byte_has_come(self):
        texts, reason = said(b"hi \xf0\x9f\x99\x82!")
        assert texts == ["h", "i", " ", "", "", "", "🙂", "!"]
        assert reason == "length"

    def test_what_is_left_of_a_character_at_the_end_is_one_replacement(self):
        assert said(b"a\xf0\x9f") == (["a", "", "\ufffd"], "length")

    def test_a_byte_that_begins_nothing_is_replaced_at_once(self):
        assert said(b"a\x80bc") == (["a", "\ufffd", "b", "c"], "length")

    def test_the_rest_of_a_character_that_a_prompt_began(self):
        model = Script(list("é".encode()[1:] + b"!"), start=2)
        ids = [[97, "é".encode()[0]]]
        (text,) = complete(model, ByteTokenizer(), ids, temperature=0, max_tokens=1)
        assert text.text == "é"

    def test_other_ids_may_end_a_text_too(self):
        model = Script([*b"ab", 7])
        (text,) = complete(model, ByteTokenizer(), "x", temperature=0, stop_ids=[7])
        assert text.text == "ab" and text.ids == [97, 98] and text.finish_reason == "stop"

    def test_at_the_end_token_held_bytes_are_released(self):
        model = Script([0xF0, 0x9F, 256])
        pieces = list(stream_pieces(model, ByteTokenizer(), "a", temperature=0))
        assert [piece.text for piece in pieces] == ["", "", "\ufffd"]
        assert [piece.id for piece in pieces] == [0xF0, 0x9F, None]
        assert pieces[-1].finish_reason == "stop"


class TestStops:
    @pytest.mark.parametrize(
        "data, stop, text, reason",
        [
            (b"alpha beta gamma", ["beta"], "alpha ", "stop"),
            (b"fine\nUs", ["\nUser:"], "fine\nUs", "length"),
            (b"xabc", ["ab", "abc"], "x", "stop"),
            (b"stop here", ["stop"], "", "stop"),
            ("aé!".encode(), ["é"], "a", "stop"),
            (b"never", ["ab"], "never", "length"),
        ],
    )
    def test_a_text_ends_before_the_first_of_them(self, data, stop, text, reason):
        texts, finish = said(data, stop=stop)
        assert "".join(texts) == text and finish == reason

    def test_nothing_of_a_stop_string_is_ever_shown(self):
        texts, _ = said(b"alpha beta gamma", stop=["beta"])
        assert texts == ["a", "l", "p", "h", "a", " ", "", "", "", ""]

    def test_the_tokens_are_those_that_were_written(self):
        (text,) = complete(
            Script(list(b"alpha beta")), ByteTokenizer(), [[0]], temperature=0, stop="beta"
        )
        assert bytes(text.ids) == b"alpha beta" and text.text == "alpha "

    def test_what_is_held_is_released_at_the_end_token(self):
        model = Script([*b"fine\nUs", 256])
        (text,) = complete(model, ByteTokenizer(), [[0]], temperature=0, stop="\nUser:")
        assert text.text == "fine\nUs" and text.finish_reason == "stop"


class TestRows:
    def test_every_request_gets_what_it_gets_alone_whatever_joins_and_leaves(self):
        model, tokenizer = small(**LONG), letters(12)
        requests = [
            (prompt, Options(seed=seed, temperature=heat, max_tokens=most, n=n))
            for seed, (prompt, heat, most, n) in enumerate(
                [("abc", 2.0, 20, 1), ("abcdefg", 0, 9, 1), ("l", 1.5, 30, 3), ("kji", 2.0, 1, 2),
                 ("abcdefgabcdefg", 1.0, 25, 1), ("c", 3.0, 0, 1), ("ggg", 2.0, 40, 2)]
            )
        ]  # fmt: skip
        alone = [Engine(model, tokenizer, chunk=4).complete([p], o) for p, o in requests]
        assert len({text.text for texts in alone for text in texts}) > 8
        for order, late, batch in ((1, 0, 8), (-1, 3, 8), (1, 2, 2), (1, 1, 1)):
            engine = Engine(model, tokenizer, max_batch=batch, chunk=4)
            tickets, steps = {}, []
            for place, (prompt, options) in list(enumerate(requests))[::order]:
                tickets[place] = engine.submit(prompt, options)
                steps += [engine.step() for _ in range(late)]
                assert max(len(step) for step in steps or [[]]) <= batch + 6
            steps += drained(engine)
            for place, ticket in tickets.items():
                assert ticket.done and ticket.error is None
                for index, text in enumerate(alone[place]):
                    pieces = told(steps, ticket, index)
                    assert "".join(piece.text for piece in pieces) == text.text
                    assert [p.id for p in pieces if p.id is not None] == text.ids
                    assert pieces[-1].finish_reason == text.finish_reason

    def test_the_logits_of_a_row_have_the_same_bits_whatever_is_beside_it(self):
        model, tokenizer = small(**LONG), letters()
        options = Options(temperature=0, max_tokens=30, logprobs=13)
        (alone,) = Engine(model, tokenizer).complete(["abcdefg"], options)
        engine = Engine(model, tokenizer)
        texts = engine.complete(["abcdefg", "c", "abc"], options)
        assert texts[0].logprobs == alone.logprobs  # float64 of every token, bit for bit

    def test_a_long_prompt_holds_nobody_up(self):
        engine = Engine(small(**LONG), letters(), chunk=2)
        first = engine.submit("abc", Options(max_tokens=40))
        engine.step(), engine.step()
        long = engine.submit("ab" * 10, Options(max_tokens=3))
        for _ in range(9):
            assert [piece.ticket for piece in engine.step()] == [first]
        assert {piece.ticket for piece in engine.step()} == {first, long}

    def test_more_texts_than_rows_wait_for_their_turn(self):
        engine = Engine(small(**LONG), letters(), max_batch=2)
        ticket = engine.submit("abc", Options(n=5, max_tokens=4))
        steps = drained(engine)
        assert ticket.done
        assert max(len(step) for step in steps) <= 4
        same = complete(small(**LONG), letters(), "abc", n=5, max_tokens=4)
        for index, text in enumerate(same):
            assert "".join(piece.text for piece in told(steps, ticket, index)) == text.text

    def test_the_first_of_n_is_that_of_one_and_the_others_have_streams_of_their_own(self):
        model, tokenizer = small(**LONG), letters()
        (one,) = complete(model, tokenizer, "abc", seed=5, max_tokens=20)
        texts = complete(model, tokenizer, "abc", seed=5, max_tokens=20, n=4)
        assert texts[0] == one
        assert len({text.text for text in texts}) == 4
        ids = generate_ids(model, [0, 1, 2], Sampler(), new_generator(5, 2), vocab_size=13)
        assert texts[2].ids == list(itertools.islice(ids, 20))
        assert complete(model, tokenizer, "abc", seed=5, max_tokens=20, n=2) == texts[:2]


class TestCancel:
    def test_it_acts_within_a_step_and_others_go_on(self):
        model, tokenizer = small(**LONG), letters()
        (alone,) = complete(model, tokenizer, "abc", max_tokens=20)
        engine = Engine(model, tokenizer)
        gone = engine.submit("abcdefg", Options(max_tokens=50))
        stays = engine.submit("abc", Options(max_tokens=20))
        steps = [engine.step() for _ in range(5)]
        assert told(steps, gone)
        engine.cancel(gone)
        later = drained(engine)
        assert not told(later, gone) and gone.done
        assert "".join(piece.text for piece in told(steps + later, stays)) == alone.text

    def test_a_prompt_is_given_up_between_two_chunks(self):
        engine = Engine(small(**LONG), letters(), chunk=2)
        ticket = engine.submit("ab" * 20, Options())
        assert engine.step() == []
        engine.cancel(ticket)
        assert engine.step() == [] and engine.idle

    def test_nothing_more_is_read_for_it(self):
        engine = Engine(small(**LONG), letters())
        ticket = engine.submit("abc", Options(max_tokens=40))
        engine.step(), engine.step()
        (line,) = engine._schedule.running
        before = line.row.reading.length
        engine.cancel(ticket)
        engine.step()
        assert line.row.reading.length == before and engine.idle

    def test_during_a_step_its_pieces_do_not_come_out(self):
        engine = Engine(small(), letters())
        heard = []

        def full(notice):
            heard.append(notice)
            engine.cancel(ticket)

        options = Options(max_tokens=40, overflow="slide")
        ticket = engine.submit("abc", options, on_notice=full)
        steps = []
        while not engine.idle:
            steps.append(engine.step())
        assert heard and steps[-1] == [] and all(len(step) == 1 for step in steps[:-1])

    def test_what_waits_never_begins(self):
        engine = Engine(small(**LONG), letters(), max_batch=1)
        first, second = (engine.submit("abc", Options(max_tokens=5)) for _ in range(2))
        engine.cancel(second)
        assert not told(drained(engine), second) and first.done

    def test_what_waits_is_forgotten_while_others_run_on(self):
        engine = Engine(small(**LONG), letters(), max_batch=1)
        engine.submit("abc", Options(max_tokens=40))
        for gone in [engine.submit("abc", Options()) for _ in range(9)]:
            engine.cancel(gone)
        stays = engine.submit("abc", Options(max_tokens=5))
        engine.step()
        assert engine.waiting == 1
        assert told(drained(engine), stays)

    def test_leaving_a_stream_early_frees_its_row(self):
        engine = Engine(small(**LONG), letters())
        pieces = engine.pieces(engine.submit("abc", Options(max_tokens=50)))
        next(pieces)
        pieces.close()
        assert engine.step() == [] and engine.idle

    def test_from_another_thread_while_steps_run(self):
        engine = Engine(small(**LONG), letters())
        tickets = []

        def client():
            for place in range(50):
                tickets.append(engine.submit("abc", Options(max_tokens=40, seed=place)))
                engine.cancel(tickets[-1])

        thread = threading.Thread(target=client)
        thread.start()
        while thread.is_alive():
            engine.step()
        thread.join()
        assert drained(engine, 5) is not None and all(ticket.done for ticket in tickets)


class TestErrors:
    def test_a_request_that_goes_wrong_hurts_no_other(self):
        model = small(**LONG)
        with no_grad():
            model.wte.weight[12] = np.nan
        tokenizer, options = letters(size=12), Options(max_tokens=10)
        (alone,) = complete(model, tokenizer, "abc", max_tokens=10)
        engine = Engine(model, tokenizer)
        tickets = [engine.submit(prompt, options) for prompt in ("abc", [0, 12], "abc")]
        steps = drained(engine)
        assert isinstance(tickets[1].error, ValueError) and "NaN" in str(tickets[1].error)
        assert [piece.finish_reason for piece in told(steps, tickets[1])] == ["error"]
        for ticket in (tickets[0], tickets[2]):
            assert "".join(piece.text for piece in told(steps, ticket)) == alone.text
        with pytest.raises(ValueError, match="NaN"):
            complete(model, tokenizer, [[0, 12]])

    @pytest.mark.parametrize(
        "prompt, options, message",
        [
            ("abz", {}, r"unknown character 'z' \(U\+007A\) at position 2"),
            ("a" * 10, {}, r"a prompt of 10 tokens, 1 to 9 \(the model's context\) are needed"),
            ("", {}, "a prompt of 0 tokens, at least 1 is needed"),
            ([], {}, "a prompt of 0 tokens, at least 1 is needed"),
            ("abc", {"max_tokens": 8}, "max-tokens 8 after a prompt of 3 tokens, at most 7 fit"),
            ("abc", {"n": 2}, "n: 2 texts in one stream, 1 is needed"),
            ("abc", {"best_of": 2}, "best-of: 2 texts are compared at their end"),
            ("abc", {"nonsense": 2}, "unknown option 'nonsense'"),
        ],
    )
    def test_before_anything_is_written(self, prompt, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            stream(small(), letters(), prompt, **options)  # not even begun

    def test_after_an_error_of_the_model_the_engine_goes_on(self):
        model = Script([97] * 50)
        engine = Engine(model, ByteTokenizer())
        tickets = [engine.submit("a", Options(temperature=0, max_tokens=9)) for _ in range(2)]
        for _ in range(4):
            engine.step()
        model.ids = []
        steps = drained(engine)
        assert all(isinstance(ticket.error, IndexError) and ticket.done for ticket in tickets)
        assert {piece.finish_reason for piece in itertools.chain(*steps)} == {"error"}
        model.ids = [98] * 50
        assert engine.complete(["a"], Options(temperature=0, max_tokens=3))[0].text == "bbb"

    def test_ids_that_the_model_lacks(self):
        with pytest.raises(IndexError, match="id 13, 0 <= id < 13 is needed"):
            complete(small(), letters(), [[13]])

    @pytest.mark.parametrize("id", [-5, 13, 10**9])
    def test_ids_that_cannot_end_a_text(self, id):
        with pytest.raises(IndexError, match=f"^stop-ids: id {id}, 0 <= id < 13 is needed$"):
            complete(small(), letters(), "abc", stop_ids=(5, id))

    @pytest.mark.parametrize(
        "prompts, message",
        [
            ([1, 2], "complete: 1 is no prompt, a text, or a list of texts or of id lists, is n"),
            (7, "complete: 7 is no prompt, a text, or a list of texts or of id lists, is needed"),
            (None, "complete: None is no prompt, a text, or a list of texts or of id lists"),
            ([[1.5]], "generate: a prompt that is neither text nor ids"),
            ([["a"]], "generate: a prompt that is neither text nor ids"),
        ],
    )
    def test_what_is_no_prompt(self, prompts, message):
        with pytest.raises(TypeError, match=message):
            complete(small(), letters(), prompts)
        if not isinstance(prompts, list):
            with pytest.raises(TypeError, match=r"generate: a prompt of type .*, a text or a list"):
                Engine(small(), letters()).submit(prompts)

    @pytest.mark.parametrize(
        "draft, named",
        [("foo", "str"), ((small(),), r"\(GPT2\)"), ((small(), "foo"), r"\(GPT2, str\)")],
    )
    def test_what_is_no_draft(self, draft, named):
        message = rf"^draft: {named}, a model or \(model, tokenizer\) is needed$"
        with pytest.raises(TypeError, match=message):
            complete(small(), letters(), "abc", draft=draft)

    def test_sizes_of_an_engine(self):
        with pytest.raises(ValueError, match="engine: max_batch 0, 1 or more is needed"):
            Engine(small(), letters(), max_batch=0)


class TestOverflow:
    """Context 9."""

    def test_without_a_wish_a_text_ends_where_the_context_does(self):
        (text,) = complete(small(), letters(), "abc")
        assert len(text.ids) == 7 and text.finish_reason == "length" and text.notices == ()

    def test_the_last_token_is_not_read(self):
        (text,) = complete(small(), letters(), "abcdefghi", max_tokens=1)
        assert len(text.ids) == 1

    def test_truncate_drops_the_front_of_the_prompt_and_says_so(self):
        model, tokenizer = small(), letters()
        options = {"max_tokens": 5, "seed": 3}
        (cut,) = complete(model, tokenizer, "abcdefghijkl", overflow="truncate", **options)
        (same,) = complete(model, tokenizer, "hijkl", **options)
        assert cut.text == same.text
        assert cut.notices == ("the prompt of 12 tokens is too long, its last 5 are read",)
        assert same.notices == ()
        (one,) = complete(model, tokenizer, "abcdefghijkl", overflow="truncate", max_tokens=9)
        assert one.notices == ("the prompt of 12 tokens is too long, its last token is read",)
        (fits,) = complete(model, tokenizer, "abc", overflow="truncate", **options)
        assert fits.notices == () and fits.prompt_tokens == 3
        (free,) = complete(model, tokenizer, "abcdefghijkl", overflow="truncate", seed=3)
        assert free.prompt_tokens == 6 and len(free.ids) == 4  # half of the context is left

    def test_truncate_keeps_what_begins_a_text(self):
        model, tokenizer = small(), letters(12)
        tokenizer.role_ids["bos"] = 12
        (cut,) = complete(model, tokenizer, [[12, *range(11)]], overflow="truncate", max_tokens=5)
        (same,) = complete(model, tokenizer, [[12, 7, 8, 9, 10]], max_tokens=5)
        assert cut.ids == same.ids

    def test_truncate_cannot_make_room_for_more_than_the_context(self):
        with pytest.raises(ValueError, match="max-tokens 10, at most 9 fit into the model's cont"):
            complete(small(), letters(), "abc", overflow="truncate", max_tokens=10)

    @pytest.mark.parametrize("given", [{}, {"lookup": 2}, {"contrastive": 0.5, "top_k": 4}])
    def test_what_is_advised_is_what_fits(self, given):
        def fits(ids, kept, **options):
            try:
                fitted(ids, kept, 9, Options(temperature=0, **given, **options))
            except ValueError as error:
                return str(error)
            return None

        ways = ("truncate", "slide") if not given else ("truncate",)
        for length, kept, most in itertools.product((1, 2, 8, 9, 10, 30), (0, 1), (None, *RANGE)):
            ids, kept = [1] * length, min(kept, length)
            for overflow in ("error", *ways):
                refusal = fits(ids, kept, overflow=overflow, max_tokens=most)
                if refusal is None:
                    continue
                for way in ("truncate", "slide"):
                    right = way in ways and way != overflow
                    right = right and not fits(ids, kept, overflow=way, max_tokens=most)
                    assert (f"overflow {way} " in refusal) == right, (length, kept, most, overflow)

    def test_slide_goes_on_and_says_so(self):
        heard = []
        options = {"max_tokens": 40, "overflow": "slide", "seed": 4}
        text = "".join(stream(small(), letters(), "abc", on_notice=heard.append, **options))
        assert heard == ["the context is full, going on from the last 4 tokens"]
        ids = generate_ids(small(), [0, 1, 2], Sampler(), new_generator(4), overflow="slide")
        assert letters().decode(list(itertools.islice(ids, 40))) == text
        (same,) = complete(small(), letters(), ["abc"], **options)
        assert same.text == text and same.notices == tuple(heard)

    def test_slide_keeps_what_begins_a_text(self):
        model, tokenizer = random_gpt2(3, n_positions=9), letters()
        tokenizer.role_ids["bos"] = 12
        options = {"temperature": 0, "max_tokens": 9, "overflow": "slide"}
        (text,) = complete(model, tokenizer, [[12, 0, 1, 2]], **options)
        assert text.notices == ("the context is full, going on from the last 3 tokens",)
        ids = [12, 0, 1, 2, *text.ids]
        for place in range(10, 13):  # 9 fit, the 10th is the first that is read anew
            with no_grad():
                logits = model(np.array([[12, *ids[7:place]]])).numpy()[0, -1]
            assert ids[place] == logits.argmax()
        tiny = random_gpt2(3, n_positions=1)
        assert len(complete(tiny, tokenizer, [[12]], **options)[0].ids) == 9

    def test_ids_without_end_need_slide(self):
        ids = generate_ids(small(), [0, 1, 2], Sampler(), new_generator(0))
        assert len(list(itertools.islice(ids, 7))) == 7
        with pytest.raises(ValueError, match="generate: the model's context of 9 tokens is full"):
            next(ids)


class TestLikelihood:
    def test_logprobs_are_those_of_the_model_whatever_the_sampler_does(self):
        model = small(**LONG)
        (text,) = complete(
            model, letters(), "abc", max_tokens=6, logprobs=3, temperature=0.3, top_k=2
        )
        ids = [0, 1, 2, *text.ids]
        with no_grad():
            logits = model(np.array([ids])).numpy()[0].astype(float)
        table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert [entry.id for entry in text.logprobs] == text.ids
        for place, entry in enumerate(text.logprobs, 2):
            assert entry.logprob == pytest.approx(table[place, entry.id], abs=1e-5)
            best = np.argsort(-table[place], kind="stable")[:3]
            assert [id for id, _ in entry.top] == best.tolist()
            np.testing.assert_allclose([p for _, p in entry.top], table[place, best], atol=1e-5)

    def test_echo_begins_with_the_prompt_and_its_likelihoods(self):
        model = small(**LONG)
        options = {"max_tokens": 4, "logprobs": 2, "seed": 1}
        engine = Engine(model, letters(), chunk=3)
        (text,) = engine.complete(["abcdefg"], Options(echo=True, **options))
        (bare,) = engine.complete(["abcdefg"], Options(**options))
        assert text.text == "abcdefg" + bare.text
        assert text.ids == [0, 1, 2, 3, 4, 5, 6, *bare.ids]
        assert text.logprobs[7:] == bare.logprobs
        assert text.logprobs[0].logprob is None
        with no_grad():
            logits = model(np.array([text.ids])).numpy()[0].astype(float)
        table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for place, entry in enumerate(text.logprobs[1:]):
            assert entry.logprob == pytest.approx(table[place, entry.id], abs=1e-5)
            assert entry.top[0][0] == table[place].argmax()

    def test_scoring_a_prompt_alone(self):
        (text,) = complete(small(), letters(), "abcdefghi", echo=True, logprobs=0, max_tokens=0)
        assert text.text == "abcdefghi" and len(text.logprobs) == 9
        assert text.finish_reason == "length"

    def test_echo_without_logprobs_is_the_prompt_as_it_was_given(self):
        pieces = list(stream_pieces(small(), letters(), "abc", echo=True, max_tokens=2))
        assert [(piece.text, piece.id) for piece in pieces[:3]] == [("abc", 0), ("", 1), ("", 2)]
        assert {piece.logprob for piece in pieces} == {None}
        assert generate(small(), letters(), [3, 4], echo=True, max_tokens=0) == "de"

    @pytest.mark.parametrize("given", [{}, {"best_of": 3}, {"beams": 3}, {"lookup": 2},
                                       {"contrastive": 0.5, "top_k": 3}])  # fmt: skip
    def test_echo_puts_the_ids_of_the_prompt_first_however_it_goes_on(self, given):
        options = {"max_tokens": 4} | given
        bare = complete(random_gpt2(3), letters(), "abc", **options)
        texts = complete(random_gpt2(3), letters(), "abc", echo=True, **options)
        for text, same in zip(texts, bare, strict=True):
            assert text.ids == [0, 1, 2, *same.ids] and text.logprobs is None
            assert text.text == "abc" + same.text

    @pytest.mark.parametrize("use_cache", [True, False])
    def test_beams_have_the_likelihoods_of_their_prompt_too(self, use_cache):
        options = {"echo": True, "logprobs": 2, "max_tokens": 4, "use_cache": use_cache}
        engine = Engine(random_gpt2(3), letters(), chunk=3)
        found = engine.complete(["abcdefg"], Options(beams=3, n=2, **options))
        (right,) = engine.complete(["abcdefg"], Options(**options))
        for text in found:
            assert [entry.id for entry in text.logprobs] == text.ids
            assert text.logprobs[:7] == right.logprobs[:7]
            assert None not in [entry.logprob for entry in text.logprobs[1:]]

    def test_the_best_of_several_are_those_the_model_finds_most_probable(self):
        model, tokenizer = small(**LONG), letters(5)
        options = {"seed": 2, "max_tokens": 8, "temperature": 3.0}
        all_of_them = complete(model, tokenizer, "abc", n=6, logprobs=0, **options)
        best = complete(model, tokenizer, "abc", n=2, best_of=6, **options)

        def mean(text):
            ids = text.ids + [5] * (text.finish_reason == "stop")
            with no_grad():
                logits = model(np.array([[0, 1, 2, *ids]])).numpy()[0].astype(float)
            table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            return table[np.arange(2, 2 + len(ids)), ids].mean()

        assert {text.finish_reason for text in all_of_them} == {"stop", "length"}
        right = sorted(all_of_them, key=lambda text: -mean(text))
        assert [text.ids for text in best] == [text.ids for text in right[:2]]
        assert best[0].logprobs is None


class TestEncoderDecoder:
    def test_the_prompt_is_the_source(self):
        model, tokenizer = small_t5(), letters()
        (text,) = complete(model, tokenizer, "abcd", temperature=0, max_tokens=6)
        ids = generate_ids(model, [], Sampler(0.0), new_generator(0), source=[0, 1, 2, 3])
        assert text.ids == list(itertools.islice(ids, 6)) and text.prompt_tokens == 4
        texts = complete(model, tokenizer, ["abc", "abcdefg", "abcd"], temperature=0, max_tokens=6)
        assert texts[2] == text

    def test_it_has_nothing_to_echo(self):
        with pytest.raises(ValueError, match="echo: an encoder-decoder writes another text"):
            complete(small_t5(), letters(), "abc", echo=True)
        with pytest.raises(ValueError, match="a source of 0 tokens, at least 1 is needed"):
            complete(small_t5(), letters(), "")


def test_two_streams_of_one_engine_take_turns():
    engine = Engine(small(**LONG), letters())
    streams = [
        engine.pieces(engine.submit("abc", Options(seed=seed, max_tokens=12))) for seed in (1, 2)
    ]
    texts = ["", ""]
    for pair in itertools.zip_longest(*streams):
        for place, piece in enumerate(pair):
            texts[place] += piece.text if piece else ""
    alone = [generate(small(**LONG), letters(), "abc", seed=s, max_tokens=12) for s in (1, 2)]
    assert texts == alone


class TestSearch:
    def test_beams_are_those_of_beam_search(self):
        model, tokenizer = random_gpt2(3), letters(5)
        options = {"beams": 4, "max_tokens": 8, "length_penalty": 0.5}
        texts = complete(model, tokenizer, "abc", n=3, logprobs=2, **options)
        found = beam_search(Reader(model), [0, 1, 2], n=3, ends={5}, vocab_size=13, **options)
        for text, right in zip(texts, found, strict=True):
            ended = right.ids[-1] == 5
            assert text.ids == right.ids[: len(right.ids) - ended]
            assert text.finish_reason == ("stop" if ended else "length")
            shown = [entry.logprob for entry in text.logprobs]
            np.testing.assert_allclose(shown, right.log_probabilities[: len(shown)], atol=1e-5)
            assert all(len(entry.top) == 2 for entry in text.logprobs)
        stop = texts[2].text[1]
        (stopped, *_) = complete(model, tokenizer, "abc", n=3, stop=stop, **options)[2:]
        assert stopped.text == texts[2].text.partition(stop)[0]

    def test_beams_beside_others_change_nothing(self):
        model, tokenizer = random_gpt2(3), letters()
        engine = Engine(model, tokenizer)
        plain = engine.submit("abcd", Options(max_tokens=12))
        wide = engine.submit("abc", Options(beams=3, n=2, max_tokens=6))
        steps = drained(engine)
        alone = complete(model, tokenizer, "abc", beams=3, n=2, max_tokens=6)
        assert ["".join(p.text for p in told(steps, wide, i)) for i in (0, 1)] == [
            text.text for text in alone
        ]
        assert "".join(p.text for p in told(steps, plain)) == generate(
            model, tokenizer, "abcd", max_tokens=12
        )

    @pytest.mark.parametrize("given", [{"lookup": 2}, {"draft": random_gpt2(4)},
                                       {"draft": (random_gpt2(4), letters(9))}])  # fmt: skip
    def test_speculation_gives_the_text_it_gives_without(self, given):
        model, tokenizer = random_gpt2(3), letters(9)
        options = {"temperature": 0, "max_tokens": 30}
        plain = complete(model, tokenizer, ["abc", "lkihab"], **options)
        given = given | {"ahead": 3}
        assert complete(model, tokenizer, ["abc", "lkihab"], **options, **given) == plain
        engine = Engine(model, tokenizer)
        tickets = [engine.submit("abc", Options(**options, **given)),
                   engine.submit("lkihab", Options(**options))]  # fmt: skip
        steps = drained(engine)
        for ticket, text in zip(tickets, plain):
            assert "".join(p.text for p in told(steps, ticket)) == text.text

    def test_lookup_with_a_seed_gives_the_text_it_gives_without(self):
        model, tokenizer = random_gpt2(3), letters()
        options = {"temperature": 1.3, "max_tokens": 30, "n": 3, "repetition_penalty": 1.2}
        plain = complete(model, tokenizer, "abcabc", **options)
        assert complete(model, tokenizer, "abcabc", lookup=2, **options) == plain

    def test_contrastive_search_up_to_the_end_of_the_context(self):
        model, tokenizer = random_gpt2(3, n_positions=20), letters()
        options = {"contrastive": 0.5, "top_k": 3}
        (text,) = complete(model, tokenizer, "abc", **options)
        found = contrastive_search(Reader(model), [0, 1, 2], alpha=0.5, top_k=3, max_tokens=17)
        assert text.ids == list(found) and text.finish_reason == "length"
        with pytest.raises(ValueError, match="at most 17 fit"):
            complete(model, tokenizer, "abc", max_tokens=18, **options)

    def test_a_draft_with_another_vocabulary_is_refused(self):
        draft = random_gpt2(4), letters(12)
        with pytest.raises(ValueError, match=r"draft: id 12 is .*endoftext.* to it and 'm' to"):
            stream(random_gpt2(3), letters(), "abc", draft=draft)


class TestConstraints:
    @pytest.mark.parametrize(
        "given, right",
        [
            ({"regex": "(ab|ba){2,9}c"}, "(ab|ba){2,9}c"),
            ({"choices": ["abba", "cab", "dad"]}, "abba|cab|dad"),
        ],
    )
    @pytest.mark.parametrize(
        "way",
        [
            {"temperature": 2.0, "n": 4},
            {"temperature": 0},
            {"beams": 3, "n": 2},
            {"lookup": 2, "temperature": 1.5},
            {"draft": random_gpt2(4), "temperature": 0},
        ],
    )
    def test_every_text_is_of_the_form_within_its_budget(self, given, right, way):
        model = random_gpt2(3)
        for tokenizer, most in ((letters(12), 5), (letters(), 6), (letters(), 20)):
            texts = complete(model, tokenizer, "abc", max_tokens=most, **given, **way)
            assert texts
            for text in texts:
                assert re.fullmatch(right, text.text) and text.finish_reason == "stop"
                assert len(text.ids) <= most

    def test_what_cannot_be_met_is_refused_before_anything_is_written(self):
        for options, message in (
            ({"regex": "abba", "max_tokens": 3}, "regex: 3 tokens .* at least 4 are needed"),
            ({"regex": "(", "max_tokens": 3}, "regex: "),
            ({"choices": ["xyz"]}, "choices: "),
        ):
            with pytest.raises(ValueError, match=message):
                stream(small(), letters(), "abc", **options)

    def test_an_empty_text_that_is_complete(self):
        (text,) = complete(small(), letters(), "abc", choices=[""], max_tokens=3)
        assert (text.text, text.finish_reason) == ("", "stop")

    def test_a_row_has_a_state_of_its_own(self):
        model, tokenizer = random_gpt2(3), letters()
        options = {"regex": "[a-f]{3}|[g-m]{9}", "temperature": 2.0, "max_tokens": 12}
        texts = complete(model, tokenizer, ["abc", "d"], n=5, **options)
        assert {len(text.text) for text in texts} == {3, 9}
        assert complete(model, tokenizer, "abc", n=5, **options) == texts[:5]


@pytest.mark.parametrize("options", [{}, {"beams": 3}, {"lookup": 2}, {"draft": True}], ids=str)
def test_a_complete_text_ends_where_too_little_is_left_to_go_on(options):
    """Of eight tokens "abcabc" leaves two, and no token could say that it is complete."""
    model, tokenizer = random_gpt2(1, vocab_size=8), letters(size=8)
    if "draft" in options:
        options = {"draft": (random_gpt2(2, vocab_size=8), letters(size=8))}
    for tokens in (6, 8, 9):
        done = complete(model, tokenizer, "a", regex="(abc){2,5}", max_tokens=tokens, **options)
        assert done[0].text == "abc" * (tokens // 3)
        assert done[0].finish_reason == "stop"


@pytest.mark.parametrize("chunk", [None, 7])
def test_searches_read_prompts_in_the_chunks_of_the_engine(chunk):
    """Other pieces have other bits: a search would not write what plain decoding writes."""
    given = {} if chunk is None else {"chunk": chunk}
    engine = Engine(small(), letters(), **given)
    reader = engine._writer.reader(Options())
    assert reader.chunk == engine.chunk == Reader(small(), **given).chunk
