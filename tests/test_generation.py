"""Generation: the cache changes nothing, sampling does what it says, streams add up."""

import numpy as np
import pytest

from minillm import Tensor, generate, kernels, no_grad, stream
from minillm.arrays import default_generator, new_generator
from minillm.generation import Cache, Sampler, generate_ids
from minillm.tokenizers import ByteTokenizer, CharTokenizer
from small_gpt2 import IDS, SIZES, logits, small

GREEDY = Sampler(temperature=0)


def take(count, model, prompt, sampler=GREEDY, seed=0, **options):
    options = {"overflow": "slide"} | options
    ids = generate_ids(model, prompt, sampler, new_generator(seed), **options)
    return [next(ids) for _ in range(count)]


class TestCache:
    @pytest.mark.parametrize("pieces", [[7], [3, 4], [1] * 7, [2, 1, 4]])
    def test_a_prompt_in_pieces_gives_the_same_logits(self, pieces):
        model, cache, place = small(), Cache(2), 0
        whole = logits(model)
        with no_grad():
            for length in pieces:
                chunk = IDS[:, place : place + length]
                got = model(chunk, cache).numpy()
                np.testing.assert_allclose(got, whole[:, place : place + length], atol=1e-5)
                place += length
                assert cache.length == place

    def test_it_grows_without_losing_anything(self):
        rng, cache, seen = np.random.default_rng(0), Cache(1), []
        for length in (1, 30, 5, 1, 100, 3):
            k, v = (rng.standard_normal((2, 3, length, 4)).astype(np.float32) for _ in range(2))
            seen.append((k, v))
            keys, values = cache.update(0, Tensor(k), Tensor(v))
            assert np.array_equal(keys.data, np.concatenate([k for k, _ in seen], axis=2))
            assert np.array_equal(values.data, np.concatenate([v for _, v in seen], axis=2))
        assert cache.length == 140
        assert 2 * 140 * 24 * 4 <= cache.nbytes <= 4 * 140 * 24 * 4
        cache.clear()
        keys, _ = cache.update(0, Tensor(seen[0][0]), Tensor(seen[0][1]))
        assert cache.length == 1
        assert np.array_equal(keys.data, seen[0][0])

    def test_a_gradient_does_not_get_lost_in_it(self):
        with pytest.raises(RuntimeError, match=r"cache: .* require a gradient, no_grad"):
            small()(IDS, Cache(2))

    def test_positions_go_on_where_the_cache_ends(self):
        model, cache = small(), Cache(2)
        with no_grad():
            model(IDS, cache)
            with pytest.raises(ValueError, match="position 9 asked for, the model has 9"):
                model(IDS[:, :3], cache)


class TestIds:
    def naive(self, model, prompt, count, sampler):
        """Everything computed anew; half the context is kept when it is full."""
        window, out, generator = list(prompt), [], new_generator(0)
        for _ in range(count):
            if len(window) > 9:
                window = window[-4:]
            out.append(sampler.pick(logits(model, np.array([window]))[0, -1], generator))
            window.append(out[-1])
        return out

    @pytest.mark.parametrize("prompt", [[3], [1, 5, 12], [2, 2, 9, 11, 4, 0, 6, 1, 1]])
    @pytest.mark.parametrize("sampler", [GREEDY, Sampler(2.0)])
    def test_with_and_without_the_cache_far_beyond_the_context(self, prompt, sampler):
        model = small()
        expected = self.naive(model, prompt, 40, sampler)
        assert len(set(expected)) > (1 if sampler is GREEDY else 5)
        for use_cache in (True, False):
            slides = []
            ids = take(40, model, prompt, sampler, use_cache=use_cache, on_slide=slides.append)
            assert ids == expected
            assert slides[0] == 4 and len(slides) == -(-(40 - (9 - len(prompt) + 1)) // 6)

    def test_a_prompt_longer_than_a_chunk(self):
        model = small(n_positions=1100)
        prompt = (np.arange(1050) * 7 % 13).tolist()
        assert take(20, model, prompt) == take(20, model, prompt, use_cache=False)

    def test_a_context_of_one_token(self):
        model = small(n_positions=1)
        assert take(5, model, [3]) == take(5, model, [3], use_cache=False)

    def test_dropout_does_not_act(self):
        model = small(dropout=0.9)
        tokenizer = letters()
        expected = generate(model, tokenizer, "abc", temperature=0)
        assert generate(model.train(), tokenizer, "abc", temperature=0) == expected

    @pytest.mark.parametrize(
        "prompt, message", [([], "a prompt of 0 tokens, 1 to 9"), ([1] * 10, "a prompt of 10")]
    )
    def test_a_prompt_that_does_not_fit_is_refused(self, prompt, message):
        with pytest.raises(ValueError, match=f"generate: {message}"):
            take(1, small(), prompt)

    def test_an_id_the_model_does_not_have_is_refused(self):
        with pytest.raises(IndexError, match="id 13, 0 <= id < 13 is needed"):
            take(1, small(), [13])


def letters(end=None, size=13):
    """Characters a, b, c ... as ids; the id `end` is the end of the text."""
    tokens = [chr(ord("a") + place) for place in range(size)]
    special = {}
    if end is not None:
        tokens[end] = "<|endoftext|>"
        special = {"<|endoftext|>": end}
    return CharTokenizer(tokens, special)


class TestText:
    def test_a_stream_adds_up_to_the_whole(self):
        model, tokenizer = small(vocab_size=257, n_positions=30), ByteTokenizer()
        for seed in range(20):  # some end in the middle of a character
            options = {"max_tokens": seed + 5, "seed": seed, "temperature": 5.0}
            pieces = list(stream(model, tokenizer, "é", **options))
            ids = take(seed + 5, model, tokenizer.encode("é"), Sampler(5.0), seed)
            ids = ids[: ids.index(256)] if 256 in ids else ids
            whole = generate(model, tokenizer, "é", **options)
            assert "".join(pieces) == whole == tokenizer.decode(ids)

    def test_the_same_seed_gives_the_same_text_whatever_else_runs(self):
        model, tokenizer = small(), letters()
        before = default_generator.bit_generator.state["state"]["counter"].tolist()
        texts = []
        for seed, threads in ((7, 1), (7, 2), (8, 1)):
            np.random.seed(seed)
            options = {"seed": seed, "max_tokens": 50, "overflow": "slide"}
            running = kernels.threads()
            kernels.set_threads(threads)
            try:
                texts.append(generate(model, tokenizer, "abc", **options))
            finally:
                kernels.set_threads(running)
        assert texts[0] == texts[1] != texts[2]
        assert len(texts[0]) == 50
        assert default_generator.bit_generator.state["state"]["counter"].tolist() == before

    def test_it_ends_at_the_end_of_text_token(self):
        model = small()
        ids = take(20, model, [0, 1, 2], Sampler(), 3)
        end = next(i for i in ids if i not in (0, 1, 2, ids[0]))
        before = ids[: ids.index(end)]
        assert before
        text = generate(model, letters(end), "abc", seed=3, overflow="slide")
        assert text == letters().decode(before)

    def test_an_empty_prompt_begins_after_the_end_of_a_text(self):
        ids = take(5, small(), [12])
        text = generate(small(), letters(12), "", temperature=0, max_tokens=5)
        assert text == letters(12).decode(ids)

    def test_an_empty_prompt_needs_an_end_of_text_token(self):
        with pytest.raises(ValueError, match="a prompt of 0 tokens"):
            generate(small(), letters(), "")

    def test_ids_that_the_tokenizer_lacks_are_never_drawn(self):
        """A model may have more rows than the tokenizer has ids."""
        model, tokenizer = small(), letters(size=5)
        assert max(take(50, model, [0], Sampler(3.0))) > 4
        options = {"max_tokens": 50, "temperature": 3.0, "overflow": "slide"}
        assert len(generate(model, tokenizer, "abc", **options)) == 50

    def test_no_tokens_give_no_text(self):
        assert generate(small(), letters(), "abc", max_tokens=0) == ""

    @pytest.mark.parametrize(
        "prompt, options, message",
        [
            ("abz", {}, r"unknown character 'z' \(U\+007A\) at position 2"),
            ("a" * 10, {}, "a prompt of 10 tokens, 1 to 9"),
            ("a", {"max_tokens": -1}, "max-tokens: -1, 0 or more is needed"),
            ("a", {"temperature": -1}, "temperature: -1"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, prompt, options, message):
        with pytest.raises(ValueError, match=message):
            generate(small(), letters(), prompt, **options)

    def test_sizes(self):
        assert letters().vocab_size == SIZES["vocab_size"]
