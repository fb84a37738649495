"""Caches of fewer bytes: bounds of their rounding, windows, and texts that stay the same."""

import numpy as np
import pytest

import small_gpt2
import small_llama
import small_t5
import small_transformer
from minillm import Tensor, no_grad
from minillm.generation import Cache, Options, Reader, complete
from minillm.generation.compact_cache import CompactCache, decode, encode
from minillm.generation.reading import Reading
from minillm.tokenizers import CharTokenizer

ENDLESS = {"eos_token_id": None}
FAMILIES = {
    "gpt2": lambda: small_gpt2.small(n_positions=240),
    "llama": lambda: small_llama.small("llama", max_position_embeddings=240, **ENDLESS),
    "mistral, window 7": lambda: small_llama.small(
        "mistral", max_position_embeddings=240, **ENDLESS
    ),
    "qwen3, window 6": lambda: small_llama.small(
        "qwen3, window", max_position_embeddings=240, **ENDLESS
    ),
    "t5": lambda: small_t5.small(**ENDLESS),
    "transformer": lambda: small_transformer.small(**ENDLESS),
}
TEXT = (np.arange(200) ** 2 * 7 % 11).tolist()


def random(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 3).astype(np.float32)


def keys(length, seed=0):
    return tuple(Tensor(random(1, 2, length, 8, seed=seed + part)) for part in (0, 100))


class TestRounding:
    def test_bf16_is_at_most_one_256th_off(self):
        x = random(2, 3, 50, 16)
        x[0, 0, 0] = 0
        got = decode(encode(x, "bf16"), "bf16")
        assert (np.abs(got - x) <= np.abs(x) * 2.0**-8).all() and (got != x).any()
        assert np.array_equal(got.view(np.uint32) & 0xFFFF, np.zeros_like(x, np.uint32))

    def test_int8_is_at_most_half_a_step_of_its_position_off(self):
        x = random(2, 3, 50, 16) * np.logspace(-6, 6, 50)[:, None].astype(np.float32)
        x[1, 2, 3] = 0
        codes, scale = encode(x, "int8")
        assert codes.dtype == np.int8 and scale.shape == (2, 3, 50, 1)
        got = decode([codes, scale], "int8")
        most = np.abs(x).max(axis=-1, keepdims=True) / 254
        assert (np.abs(got - x) <= most * (1 + 1e-5)).all() and np.abs(codes).max() == 127
        assert got.dtype == np.float32


class TestCache:
    @pytest.mark.parametrize("dtype, share", [("bf16", 0.5), ("int8", 0.25 + 1 / 8)])
    def test_it_keeps_what_it_was_given_in_fewer_bytes(self, dtype, share):
        cache, plain = CompactCache(2, dtype), Cache(2)
        for step, length in enumerate((5, 1, 40, 2, 1, 80)):
            for layer in (0, 1):
                new = keys(length, seed=10 * step + layer)
                got, right = cache.update(layer, *new), plain.update(layer, *new)
                for a, b in zip(got, right):
                    assert a.shape == b.shape and a.data.dtype == np.float32
                    np.testing.assert_allclose(a.data, b.data, atol=0.05)
        assert cache.length == plain.length == 129
        assert cache.nbytes == pytest.approx(share * plain.nbytes, rel=0.02)

    def test_only_what_a_window_needs_is_kept(self):
        cache, whole = CompactCache(2, "bf16", [None, 10]), CompactCache(2, "bf16")
        for step in range(600):
            for layer in (0, 1):
                new = keys(1 if step else 25, seed=step)
                got, right = cache.update(layer, *new), whole.update(layer, *new)
                seen = got[0].shape[2]
                assert seen == (right[0].shape[2] if layer == 0 else 25 if step == 0 else 10)
                assert np.array_equal(got[1].data, right[1].data[:, :, -seen:])
        full, windowed = (sum(part.nbytes for part in layer.parts) for layer in (cache._layers))
        assert windowed < full / 4 and windowed <= 2 * 2 * 8 * 2 * 2 * (10 + 64)

    def test_a_window_can_go_back_a_little_and_to_the_beginning(self):
        cache = CompactCache(1, "int8", [10])
        for step in range(500):
            cache.update(0, *keys(1, seed=step))
        cache.rewind(480)
        got, _ = cache.update(0, *keys(1, seed=480))
        whole = CompactCache(1, "int8")
        for step in range(481):
            right, _ = whole.update(0, *keys(1, seed=step))
        assert np.array_equal(got.data, right.data[:, :, -10:])
        with pytest.raises(RuntimeError, match=r"cache: back to 50 positions, .* window of 10"):
            cache.rewind(50)
        cache.clear()
        assert cache.length == 0 and cache.update(0, *keys(3))[0].shape[2] == 3

    def test_what_cannot_go_back_stays_as_it_is(self):
        cache = CompactCache(3, "int8", [None, 10, None])
        for step in range(200):
            for layer in range(3):
                cache.update(layer, *keys(1, seed=step))
        reading = Reading(cache)
        reading.ids = list(range(200))
        before = {name: array.copy() for name, array in cache.to_arrays().items()}
        assert cache.reaches(190) and cache.reaches(0) and not cache.reaches(50)
        with pytest.raises(RuntimeError, match="cache: back to 50 positions"):
            reading.rewind(50)
        after = cache.to_arrays()
        assert reading.length == cache.length == 200
        assert all(np.array_equal(after[name], array) for name, array in before.items())
        reading.rewind(190)
        assert reading.length == cache.length == 190

    def test_a_fork_is_independent(self):
        cache = CompactCache(1, "bf16")
        cache.update(0, *keys(5))
        twin = cache.fork()
        cache.rewind(2)
        cache.update(0, *keys(3, seed=50))
        assert np.array_equal(
            twin.update(0, *keys(1, seed=9))[0].data[:, :, :5],
            decode(encode(keys(5)[0].data, "bf16"), "bf16"),
        )

    def test_what_cannot_be(self):
        with pytest.raises(ValueError, match="cache: dtype 'fp8', bf16 or int8 is needed"):
            CompactCache(1, "fp8")
        with pytest.raises(ValueError, match="cache-dtype: 'fp8', one of float32, bf16, int8"):
            Reader(small_gpt2.small(), cache_dtype="fp8")
        grown = Tensor(random(1, 2, 3, 8), requires_grad=True)
        with pytest.raises(RuntimeError, match="require a gradient"):
            CompactCache(1, "bf16").update(0, grown, grown)


def test_a_static_cache_has_its_room_from_the_beginning_and_no_more():
    cache = Cache(1, capacity=50)
    cache.update(0, *keys(5))
    before = cache.nbytes
    assert before == 2 * 2 * 50 * 8 * 4
    for step in range(45):
        got, _ = cache.update(0, *keys(1, seed=step))
    assert cache.nbytes == before and got.shape[2] == 50
    with pytest.raises(ValueError, match="cache: 51 positions, at most 50 are possible"):
        cache.update(0, *keys(1))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype, near", [("bf16", 0.02), ("int8", 0.04)])
def test_logits_stay_near_and_greedy_texts_agree(name, dtype, near):
    model = FAMILIES[name]()
    decodes = model.config.kind == "encoder-decoder"
    readers = [Reader(model, cache_dtype=kind) for kind in ("float32", dtype)]
    texts = [reader.begin(TEXT[:9] if decodes else None) for reader in readers]
    rows = [[], []]
    for piece in (TEXT[:40], *([id] for id in TEXT[40:150])):
        for place, (reader, text) in enumerate(zip(readers, texts)):
            rows[place] += list(reader.read([(text, piece)], every=True)[0])
    right, got = (np.array(found) for found in rows)
    spread = right.max(axis=1) - right.min(axis=1)
    assert (np.abs(got - right).max(axis=1) / spread).mean() < near
    assert (got != right).any()
    assert texts[1].nbytes < 0.7 * texts[0].nbytes
    second = np.sort(right, axis=1)[:, -2]
    clear = right.max(axis=1) - second > 4 * np.abs(got - right).max(axis=1)
    assert clear.mean() > 0.5
    assert np.array_equal(got.argmax(axis=1)[clear], right.argmax(axis=1)[clear])


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_it_is_an_option_of_every_request(dtype):
    model = small_gpt2.small(n_positions=64)
    tokenizer = CharTokenizer([chr(ord("a") + place) for place in range(13)], {})
    options = {"cache_dtype": dtype, "max_tokens": 30, "temperature": 0.9, "n": 2}
    texts = complete(model, tokenizer, ["abc", "defghij"], **options)
    assert texts[2:] == complete(model, tokenizer, "defghij", **options)
    assert Options(**options).cache_dtype == dtype
    with no_grad():
        plain = complete(model, tokenizer, ["abc"], **options | {"cache_dtype": "float32"})
    assert plain[0].ids[:2] == texts[0].ids[:2]
