"""Beginnings that were read before: the same bits as without, and never another's text."""

import numpy as np
import pytest

import small_llama
import small_t5
from minillm import no_grad
from minillm.formats import safetensors
from minillm.generation import Engine, Options, Reader
from minillm.generation.prefixes import Prefixes, common, fingerprint, load_reading, save_reading
from minillm.tokenizers import CharTokenizer
from test_equality import ENDLESS, FAMILIES, size, tokenizer

DECODERS = [name for name in FAMILIES if name not in ("t5", "transformer")]
BEGIN = [3, 1, 7, 2, 9, 4, 11, 0, 6, 5, 8, 8]


@pytest.fixture(params=DECODERS)
def model(request):
    return FAMILIES[request.param]()


def engine(model, **options):
    return Engine(model, tokenizer(model), **{"chunk": 4, "prefix_bytes": 10**7} | options)


def run(engine, prompt, options):
    ticket = engine.submit(prompt, options)
    pieces = list(engine.pieces(ticket))
    return [(piece.id, piece.top) for piece in pieces], ticket.reused


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("heat", [0, 1.7])
def test_all_bits_are_those_of_a_fresh_engine(model, heat, dtype):
    options = Options(
        temperature=heat, max_tokens=10, logprobs=size(model), seed=5, cache_dtype=dtype
    )
    prompts = [BEGIN, [*BEGIN, 1, 2], [*BEGIN[:9], 1, 1, 1], BEGIN[:5], BEGIN[:4], [1, *BEGIN],
               [*BEGIN, 1, 2, 3, 4, 5], BEGIN]  # fmt: skip
    warm = engine(model)
    got = [run(warm, prompt, options) for prompt in prompts]
    for prompt, (pieces, _) in zip(prompts, got):
        assert pieces == run(engine(model, prefix_bytes=0), prompt, options)[0]
    assert [reused for _, reused in got] == [0, 12, 8, 4, 0, 0, 12, 8]


def test_no_text_sees_another():
    """A canary in one prompt, and prompts that share none, one or all but one of its tokens."""
    model = FAMILIES["llama"]()
    rng = np.random.default_rng(0)
    prompts = [BEGIN, BEGIN[::-1], [BEGIN[0], *BEGIN[::-1]], [*BEGIN[:-1], 9], [*BEGIN, 4]]
    asked = [Options(max_tokens=4, seed=seed, temperature=1.3) for seed in range(3)]
    alone = {
        (p, s): run(engine(model, prefix_bytes=0), prompt, o)[0]
        for p, prompt in enumerate(prompts)
        for s, o in enumerate(asked)
    }
    warm = engine(model, max_batch=3)
    for _ in range(40):
        places = [(int(rng.integers(5)), int(rng.integers(3))) for _ in range(5)]
        tickets = {warm.submit(prompts[p], asked[s]): (p, s) for p, s in places}
        found = {ticket: [] for ticket in tickets}
        while not all(ticket.done for ticket in tickets):
            for piece in warm.step():
                found[piece.ticket].append((piece.id, piece.top))
        for ticket, place in tickets.items():
            assert found[ticket] == alone[place]


class TestStore:
    def read(self, ids, model=None):
        reader = Reader(model or FAMILIES["gpt2"]())
        reading = reader.begin()
        reader.read([(reading, ids)])
        return reading

    def test_what_was_not_used_for_longest_goes_first(self):
        texts = [[k, *BEGIN[:7]] for k in range(3)]
        readings = [self.read(ids) for ids in texts]
        store = Prefixes(2 * readings[0].nbytes, 4)
        store.keep("a", readings[0])
        store.keep("a", readings[1])
        assert store.find("a", [*texts[0], 1]).ids == texts[0]
        store.keep("a", readings[2])
        assert len(store) == 2 and store.nbytes <= store.most
        assert store.find("a", [*texts[1], 1]) is None
        assert store.find("a", [*texts[2], 1]).ids == texts[2]
        store.clear()
        assert not len(store) and store.nbytes == 0

    def test_a_longer_one_takes_the_place_of_its_beginning(self):
        store = Prefixes(10**7, 4)
        store.keep("a", self.read(BEGIN[:4]))
        store.keep("a", self.read(BEGIN[:8]))
        store.keep("a", self.read(BEGIN[:8]))
        assert len(store) == 1
        assert store.find("a", BEGIN[:7]).ids == BEGIN[:4]

    def test_another_kind_parts_of_chunks_and_too_much_do_not_count(self):
        store = Prefixes(10**7, 4)
        store.keep("a", self.read(BEGIN[:6]))
        assert not len(store)
        store.keep("a", self.read(BEGIN[:8]))
        assert store.find("b", BEGIN) is None
        small = Prefixes(10, 4)
        small.keep("a", self.read(BEGIN[:8]))
        assert not len(small)

    def test_what_is_given_out_is_a_copy(self):
        store, reading = Prefixes(10**7, 4), self.read(BEGIN[:8])
        store.keep("a", reading)
        reading.rewind(0)
        first = store.find("a", BEGIN)
        first.rewind(2)
        first.cache.buffers[0][0][...] = 7
        assert store.find("a", BEGIN).ids == BEGIN[:8]
        assert not (store.find("a", BEGIN).cache.buffers[0][0] == 7).all()

    def test_shorter_ones_serve_where_a_window_cannot_go_back(self):
        model = small_llama.small("mistral", max_position_embeddings=240, **ENDLESS)
        text = [place * 5 % 13 for place in range(160)]
        reader, store = Reader(model, cache_dtype="int8"), Prefixes(10**7, 4)
        short, long = reader.begin(), reader.begin()
        reader.read([(short, text[:8])])
        reader.read([(long, text[:8])])
        for start in range(8, 160, 4):
            reader.read([(long, text[start : start + 4])])
        assert not long.cache.reaches(8)
        store.keep("a", short)
        store.keep("a", long)
        assert store.find("a", [*text[:12], 1]).ids == text[:8]
        assert store.find("a", [*text, 1]).ids == text
        assert store.find("a", [*text[:4], 1]).ids == text[:4]
        late = reader.begin()
        reader.read([(late, text[:12])])
        store.keep("a", late)  # goes back to all that the shortest does
        assert len(store) == 2 and store.find("a", [*text[:8], 1]).ids == text[:8]

    def test_common_beginnings(self):
        assert common([1, 2, 3], [1, 2, 4, 5]) == 2 and common([], [1]) == 0
        assert common((1, 2), [1, 2, 3]) == 2 and common([4], [1]) == 0


class TestFiles:
    @pytest.mark.parametrize("dtype", ["float32", "bf16", "int8"])
    @pytest.mark.parametrize("name", FAMILIES)
    def test_a_reading_comes_back_with_all_its_bits(self, name, dtype, tmp_path):
        model = FAMILIES[name]()
        reader = Reader(model, cache_dtype=dtype)
        reading = reader.begin(BEGIN if reader.kind == "encoder-decoder" else None)
        reader.read([(reading, BEGIN)])
        save_reading(tmp_path / "text.safetensors", reading, reader)
        again = load_reading(tmp_path / "text.safetensors", Reader(model, cache_dtype=dtype))
        assert again.ids == BEGIN and again.length == len(BEGIN)
        for id in (4, 2, 9):
            right, got = reader.read([(reading, [id]), (again, [id])])
            assert np.array_equal(right, got)

    def test_an_engine_goes_on_from_a_file(self, tmp_path):
        model = FAMILIES["qwen3"]()
        letters = tokenizer(model)
        prompt = letters.decode(BEGIN)
        assert engine(model).save_prefix(tmp_path / "p", prompt[:11]) == 8
        other = engine(model)
        assert other.load_prefix(tmp_path / "p") == 8
        with pytest.raises(ValueError, match="bytes, prefix_bytes is 0; raise it"):
            engine(model, prefix_bytes=0).load_prefix(tmp_path / "p")
        options = Options(max_tokens=6, logprobs=size(model))
        got, reused = run(other, prompt, options)
        assert reused == 8 and got == run(engine(model, prefix_bytes=0), prompt, options)[0]

    def test_what_is_not_this_models_is_refused(self, tmp_path):
        model, path = FAMILIES["llama"](), tmp_path / "text"
        reader = Reader(model)
        reading = reader.begin()
        reader.read([(reading, BEGIN)])
        save_reading(path, reading, reader)
        for other, message in (
            (Reader(FAMILIES["qwen3"]()), "read by another model"),
            (Reader(changed(FAMILIES["llama"]())), "read by another model"),
            (Reader(model, cache_dtype="bf16"), "holds a float32 cache, this reader keeps bf16"),
            (Reader(model, use_cache=False), "holds a float32 cache, this reader keeps no cache"),
        ):
            with pytest.raises(ValueError, match=message):
                load_reading(path, other)
        safetensors.write(tmp_path / "weights", {"a": np.zeros(3, np.float32)})
        with pytest.raises(ValueError, match="weights: no reading, a file of save_reading"):
            load_reading(tmp_path / "weights", reader)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load_reading(path, reader)
        with pytest.raises(ValueError, match="save: a reading without a cache"):
            save_reading(path, Reader(model, use_cache=False).begin(), reader)

    @pytest.mark.parametrize("dtype", ["float32", "bf16", "int8"])
    @pytest.mark.parametrize("name", ["llama", "mistral, window 7", "t5"])
    def test_a_cache_that_does_not_fit_is_refused(self, name, dtype, tmp_path):
        path, reader = tmp_path / "text", Reader(FAMILIES[name](), cache_dtype=dtype)
        reading = reader.begin(BEGIN if reader.kind == "encoder-decoder" else None)
        reader.read([(reading, BEGIN)])
        save_reading(path, reading, reader)
        right, notes = safetensors.read(path)
        right = {name: np.array(array) for name, array in right.items()}
        layer = {name: array for name, array in right.items() if name.startswith("cache.1.")}
        parts = {name: array for name, array in layer.items() if array.ndim}
        batch, heads, _, width = right["cache.1.0"].shape
        kind = right["cache.1.0"].dtype
        for change, message in (
            (
                {name: array[:, :, :10] for name, array in parts.items()},
                "layer 1 holds 10 pos.* 12",
            ),
            ({"cache.1.1": right["cache.1.1"][:, :, :10]}, "layer 1 holds 10 positions.* 12"),
            (
                {"cache.1.0": np.repeat(right["cache.1.0"], 2, 1)},
                rf"cache.1.0 is {kind} \({batch}, {2 * heads}, T, {width}\), "
                rf"{kind} \({batch}, {heads}, T, {width}\) is needed",
            ),
            ({"cache.1.0": right["cache.1.0"][..., :-1]}, rf"T, {width - 1}\), .* T, {width}\) is"),
            ({"cache.0.0": right["cache.0.0"].astype(np.float64)}, f"is float64 .*, {kind} "),
            ({"ids": None}, r"ids is nothing, int64 \(T\) is needed"),
            ({"ids": right["ids"].astype(np.float32)}, r"ids is float32 \(T\), int64 \(T\) is"),
            ({"ids": right["ids"][:-1]}, "layer 0 holds 12 positions.* 11"),
            ({"cache.1.1": None}, "cache.1.1 is nothing, "),
            ({"cache.2.0": right["cache.1.0"]}, r"cache.2.0 is .*, nothing is needed"),
        ):
            arrays = {k: v for k, v in (right | change).items() if v is not None}
            safetensors.write(path, arrays, notes)
            with pytest.raises(ValueError, match=f"^{path}: .*{message}"):
                load_reading(path, reader)
        if dtype != "float32":  # of a window of 7 the last 6 are enough, of others none are missing
            windowed = name.startswith("mistral")
            for first in (1, 6, 7, -1):
                change = {name: array[:, :, max(first, 0) :] for name, array in parts.items()}
                safetensors.write(path, right | change | {"cache.1.first": np.array(first)}, notes)
                if windowed and first in (1, 6):
                    again, twin = load_reading(path, reader), reading.fork()
                    assert np.array_equal(*reader.read([(again, [3]), (twin, [3])]))
                else:
                    with pytest.raises(
                        ValueError, match=f"layer 1 holds .* from {first} on, those"
                    ):
                        load_reading(path, reader)

    def test_another_chunk_and_parts_of_one_are_refused(self, tmp_path):
        model, path = FAMILIES["qwen3"](), tmp_path / "p"
        prompt = tokenizer(model).decode(BEGIN)
        with pytest.raises(
            ValueError, match=r"engine: a prompt of 3 tokens, 4 or more \(a chunk\)"
        ):
            engine(model).save_prefix(path, prompt[:3])
        assert not path.exists()
        engine(model).save_prefix(path, prompt)
        for chunk in (3, 8, 12):
            with pytest.raises(ValueError, match=f"p: read in chunks of 4, this.* of {chunk}$"):
                engine(model, chunk=chunk).load_prefix(path)
        reader = Reader(model)
        reading = reader.begin()
        with pytest.raises(ValueError, match="save: a reading of 0 tokens, at least 1 is needed"):
            save_reading(path, reading, reader)
        reader.read([(reading, BEGIN[:6])])
        save_reading(path, reading, Reader(model, chunk=4))
        with pytest.raises(ValueError, match="p holds 6 tokens, whole chunks of 4 are needed"):
            engine(model).load_prefix(path)

    def test_one_weight_makes_another_fingerprint(self):
        model = small_llama.small("tied")
        assert fingerprint(model) == fingerprint(small_llama.small("tied"))
        before = fingerprint(model)
        assert before != fingerprint(changed(model))
        assert fingerprint(small_t5.small()) != fingerprint(small_t5.small(**ENDLESS))


def changed(model):
    with no_grad():
        list(model.parameters())[-1].data[..., -1] += 1e-3
    return model


def test_sizes():
    letters = CharTokenizer(list("abc"), {})
    with pytest.raises(ValueError, match="engine: prefix_bytes -1, 0 or more is needed"):
        Engine(FAMILIES["gpt2"](), letters, prefix_bytes=-1)
