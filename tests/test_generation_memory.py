"""What is refused because memory would not hold it, and what runs a few texts at a time instead."""

import itertools
import tracemalloc

import pytest

import small_gpt2
import small_llama
import small_t5
import small_transformer
from minillm import machine
from minillm.generation import Engine, Options, Reader
from minillm.generation.budget import Budget
from minillm.generation.completions import Completion, Logprob
from minillm.generation.memory import SMALL, require_list, text_bytes
from minillm.tokenizers import CharTokenizer

MODELS = {
    "gpt2": small_gpt2.small,
    **{case: lambda case=case: small_llama.small(case) for case in small_llama.CASES},
    **{kind: lambda kind=kind: small_t5.small(kind) for kind in ("v1.0", "v1.1")},
    "transformer": small_transformer.small,
}
TEXT = 2 * 2 * 12 * 4 * 60  # bytes of keys and values of 60 tokens of the model below


def letters():
    return CharTokenizer([chr(ord("a") + place) for place in range(13)], {})


@pytest.fixture
def engine():
    model = small_gpt2.small(n_positions=64)
    return Engine(model, letters())


@pytest.fixture
def free(monkeypatch):
    """free(n): so many bytes of memory are left."""
    return lambda count: monkeypatch.setattr(machine, "available_memory", lambda: count)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bf16", "int8"])
def test_a_cache_takes_the_bytes_that_were_told(name, dtype):
    model = MODELS[name]()
    reader = Reader(model, cache_dtype=dtype)
    decodes = model.config.kind == "encoder-decoder"
    reading = reader.begin([1] if decodes else None)
    reader.read([(reading, reader.start_ids or [1])])
    told = text_bytes(model.config, 32, dtype)  # there is room for so many from the first on
    if decodes:  # and those of the source, one token
        told += text_bytes(model.config, 1, "float32")
    windows = getattr(model.config, "windows", None) or (None,)
    if dtype == "float32" or windows == (None,) * len(windows):
        assert reading.nbytes == told
    else:
        assert 0 < told < reading.nbytes


@pytest.mark.parametrize("given, name, needed", [
    ({"beams": 100_000}, "beams", 100_000 * (TEXT + 13 * 20)),
    ({"beams": 100_000, "n": 3}, "beams", 100_000 * (TEXT + 13 * 20)),
])  # fmt: skip
def test_what_is_needed_at_once_and_is_not_there_is_refused(engine, free, given, name, needed):
    options = Options(max_tokens=58, **given)
    free(needed)
    engine.cancel(engine.submit("abc", options))
    free(needed - 1)
    with pytest.raises(ValueError, match=rf"^{name}: 100,000 texts of up to 60 tokens at once: "):
        engine.submit("abc", options)
    free(None)  # a system that does not tell
    engine.cancel(engine.submit("abc", options))


def test_one_text_and_the_candidates_of_a_search_are_refused_too(free):
    wide = small_gpt2.small(n_positions=1 << 15, n_embd=300)
    engine = Engine(wide, letters())
    each = 2 * 2 * 300 * 4 * (1 << 14)
    assert each > SMALL
    options = {"max_tokens": (1 << 14) - 2}
    free(each)
    engine.submit("abc", Options(**options))
    free(each - 1)
    with pytest.raises(ValueError, match=r"^max-tokens: 1 text of up to 16,384 tokens at once: "):
        engine.submit("abc", Options(**options))
    engine.submit("abc", Options(**options, cache_dtype="bf16"))
    free(13 * each)
    search = Options(**options, contrastive=0.6, top_k=100_000_000)  # of 13 ids
    engine.submit("abc", search)
    free(13 * each - 1)
    with pytest.raises(ValueError, match=r"^top-k: 13 texts of up to 16,384 tokens at once: "):
        engine.submit("abc", search)


def test_beams_that_no_text_can_fill_need_no_memory(engine, free):
    free(0)
    (text,) = engine.complete(["abc"], Options(beams=100_000, max_tokens=1))
    assert len(text.ids) == 1
    (text,) = engine.complete(["abc"], Options(beams=100_000, max_tokens=3))
    assert len(text.ids) == 3


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_texts_without_end_come_one_by_one(engine, limit):
    options = Options(n=10**9, max_tokens=limit)
    texts = list(itertools.islice(engine.completed("abc", options), 30))
    assert texts == engine.complete(["abc"], Options(n=30, max_tokens=limit))
    assert engine.step() == [] and engine.idle


@pytest.mark.parametrize("given, said", [
    ({"n": 10**9}, "n: 1,000,000,000 texts of up to 5 tokens to be kept: 625 GB are needed, "
                   "9.0 GB are free; lower n or max-tokens"),
    ({"n": 1, "best_of": 10**9}, "best-of: 1,000,000,000 texts of up to 5 tokens to be kept: "),
    ({"n": 10**5, "logprobs": 1000, "echo": True}, "n: 100,000 texts of up to 8 tokens"),
])  # fmt: skip
def test_lists_that_memory_does_not_hold_are_refused_at_once(engine, free, given, said):
    free(9 * 10**9)
    with pytest.raises(ValueError, match=f"^{said}"):
        engine.complete(["abc"], Options(max_tokens=5, **given))
    assert engine.step() == [] and engine.idle  # nothing of it was begun
    if "best_of" in given:
        with pytest.raises(ValueError, match=f"^{said}"):
            engine.completed("abc", Options(max_tokens=5, **given))


@pytest.mark.parametrize("top", [None, 0, 20])
def test_a_list_takes_about_the_bytes_that_were_told(engine, free, top):
    ticket = engine.submit("abc", Options(n=100_000, max_tokens=60, logprobs=top))
    tracemalloc.start()
    found = [one(60, top, seed) for seed in range(20)]
    bytes_of_one = tracemalloc.get_traced_memory()[0] / len(found)
    tracemalloc.stop()
    free(int(85_000 * bytes_of_one))
    with pytest.raises(ValueError, match=r"^n: 100,000 texts"):
        require_list([ticket])
    free(int(120_000 * bytes_of_one))
    require_list([ticket])


def one(length, top, seed):
    ids = [1000 + seed * length + place for place in range(length)]
    logprobs = None
    if top is not None:
        logprobs = [Logprob(i, -i / 7, [(i + k + 10**6, -k / 7) for k in range(top)]) for i in ids]
    return Completion("abcd" * length, ids, "length", logprobs, 3, 0)


def test_only_so_many_texts_run_as_memory_holds(engine, free):
    options = Options(n=10_000, max_tokens=58)
    free(3 * TEXT + TEXT // 2)
    ticket = engine.submit("abc", options)
    assert ticket.side_by_side == 3
    free(10**12)
    for _ in range(200):
        engine.step()
        assert len(engine._schedule.running) <= 3
    engine.cancel(ticket)


def room(prompt, options):
    """Bytes of keys and values of one text of the model above, its buffers doubled."""
    return (
        Engine(small_gpt2.small(n_positions=64), letters(), budget=Budget(1 << 30))
        .ticket(prompt, options)
        .room
    )


@pytest.mark.parametrize("prompt, tokens", [("abc", 5), ("abc", 40), ("abc" * 11, 3), ("a", 64)])
def test_the_room_of_a_text_is_what_its_buffers_grow_to(prompt, tokens):
    engine = Engine(small_gpt2.small(n_positions=64), letters())
    ticket = engine.submit(prompt, Options(max_tokens=tokens))
    most = 0
    while not engine.idle:
        engine.step()
        most = max([most, *(line.row.reading.nbytes for line in engine._schedule.running)])
    assert ticket.written == tokens
    assert room(prompt, Options(max_tokens=tokens)) == most


def test_requests_wait_until_their_keys_and_values_fit():
    options = Options(max_tokens=20, temperature=0)
    budget = Budget(2 * room("abc", options))
    model = small_gpt2.small(n_positions=64)
    engines = [Engine(model, letters(), budget=budget) for _ in range(2)]
    tickets = [engine.submit("abc", options) for engine in engines * 3]
    most = 0
    while not all(ticket.done for ticket in tickets):
        for engine in engines:
            engine.step()
            most = max(most, sum(one.running for one in engines))
            assert budget.held <= budget.most
    assert most == 2
    assert budget.held == 0
    assert all(ticket.written == 20 for ticket in tickets)


def test_a_text_that_never_fits_is_refused_with_its_figures():
    options = Options(max_tokens=40)
    needed = room("abc", options)
    engine = Engine(small_gpt2.small(n_positions=64), letters(), budget=Budget(needed - 1))
    with pytest.raises(
        ValueError, match=r"^max-tokens: a text of up to 43 tokens may need 12.3 kB"
    ):
        engine.submit("abc", options)
    engine.submit("abc", Options(max_tokens=5))


def test_many_texts_of_one_request_do_not_hold_the_next_one_up():
    engine = Engine(small_gpt2.small(n_positions=64), letters(), max_batch=2)
    many = engine.submit("abc", Options(max_tokens=4, n=20))
    one = engine.submit("abc", Options(max_tokens=4))
    while not one.done:
        engine.step()
    assert many.left > 15
