"""The compiled token step gives what the model gives operation by operation."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import small_gpt2
import small_llama
from minillm import blocks, kernels, no_grad, testing
from minillm.generation import Reader
from minillm.generation.recording import Recorder, Unplanned
from minillm.generation.token_step import TokenStep
from minillm.models.folder import load_model
from minillm.models.gguf_export import write_gguf
from minillm.ops.block_linear import random_blocks

pytestmark = pytest.mark.skipif(kernels.cpu is None, reason="needs the C++ extension")

GPT2S = {
    "gpt2": {},
    "gpt2, exact gelu": {"activation_function": "gelu"},
    "gpt2, untied": {"tie_word_embeddings": False},
}
WITHOUT = {  # what stands in the way
    "linear": "relu has no step",
    "dynamic": "these rotary angles have no step",
    "longrope": "these rotary angles have no step",
    "longrope, short": "these rotary angles have no step",
}
PLANNED = [*GPT2S, *(case for case in small_llama.CASES if case not in WITHOUT)]


def build(case, positions=120):
    if case in GPT2S:
        return small_gpt2.small(n_positions=positions, **GPT2S[case])
    if case == "llama, wide":  # whole blocks in every matrix
        sizes = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
        return small_llama.small("llama", max_position_embeddings=positions, **sizes)
    return small_llama.small(case, max_position_embeddings=positions)


def text(model, length, seed=0):
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, length).tolist()


def whole(model, ids):
    with kernels.use("reference"), no_grad():
        return model(np.array([ids])).numpy()[0]


@pytest.mark.parametrize("case", PLANNED)
def test_logits_are_the_references(case):
    model = build(case)
    ids, reader = text(model, 90), Reader(model)
    expected = whole(model, ids)
    assert reader.compiled
    for pieces in ([90], [1] * 10 + [80], [33, 5, 1, 1, 50], [31, 59]):
        reading, start = reader.begin(), 0
        for size in pieces:
            (got,) = reader.read([(reading, ids[start : start + size])], every=True)
            np.testing.assert_allclose(got, expected[start : start + size], atol=1e-4)
            start += size
    (last,) = reader.read([(reader.begin(), ids)])
    np.testing.assert_allclose(last, expected[-1], atol=1e-4)


@pytest.mark.parametrize("case", ["gpt2", "llama", "mistral"])
def test_a_row_has_the_same_bits_in_any_company_and_on_any_threads(case):
    model = build(case)
    reader = Reader(model)
    prompts = [text(model, length, length) for length in (1, 2, 3, 5, 7, 11)]
    before = kernels.threads()
    try:
        alone = []
        for prompt in prompts:
            reading = reader.begin()
            alone += reader.read([(reading, prompt)]) + reader.read([(reading, [4])])
        kernels.set_threads(3 - before if before < 3 else 1)
        readings = [reader.begin() for _ in prompts]
        first = reader.read(list(zip(readings, prompts)))
        second = reader.read([(reading, [4]) for reading in readings])
    finally:
        kernels.set_threads(before)
    np.testing.assert_array_equal([*zip(first, second)], np.reshape(alone, (6, 2, -1)))


def test_a_long_text_beside_a_short_one():
    """Where the buffers of one have grown and those of the other have not."""
    model = build("gpt2")
    ids, reader = text(model, 40), Reader(model)
    long, short = reader.begin(), reader.begin()
    reader.read([(long, ids[:30]), (short, ids[:3])])
    for id in ids[30:]:
        got, _ = reader.read([(long, [id]), (short, [id])])
    np.testing.assert_allclose(got, whole(model, ids)[-1], atol=1e-4)


def test_more_rows_than_one_call_takes():
    model = build("llama")
    reader = Reader(model)
    readings = [reader.begin() for _ in range(70)]
    got = reader.read([(reading, [place % 17, 3]) for place, reading in enumerate(readings)])
    for place in (0, 31, 32, 69):
        (expected,) = reader.read([(reader.begin(), [place % 17, 3])])
        np.testing.assert_array_equal(got[place], expected)


@pytest.mark.parametrize("case", ["gpt2", "llama", "mistral"])
def test_rewinding_and_forking_leave_the_other_alone(case):
    model = build(case)
    ids, reader = text(model, 60), Reader(model)
    expected = whole(model, ids)
    reading = reader.begin()
    reader.read([(reading, ids[:20])])
    fork = reading.fork()
    reader.read([(reading, [1] * 25)])
    reading.rewind(10)
    for one, start in ((reading, 10), (fork, 20)):
        (got,) = reader.read([(one, ids[start:])], every=True)
        np.testing.assert_allclose(got, expected[start:], atol=1e-4)


def test_a_short_text_takes_no_more_room_beside_a_long_one():
    model = build("llama")
    reader = Reader(model)
    short, long = reader.begin(), reader.begin()
    reader.read([(short, [1]), (long, text(model, 79))])
    before = short.nbytes
    reader.read([(short, [2]), (long, [3])])
    assert short.nbytes == before < long.nbytes


def test_threads_may_share_a_reader():
    model = build("llama")
    reader = Reader(model)
    texts = [text(model, length, length) for length in (1, 9, 30, 70)]
    expected = [reader.read([(reader.begin(), ids)])[0] for ids in texts]

    def again(ids):
        return [reader.read([(reader.begin(), ids)])[0] for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for right, found in zip(expected, pool.map(again, texts)):
            np.testing.assert_array_equal(found, [right] * 20)


@pytest.mark.parametrize("dtype", ["q8_0", "f32"])
def test_weights_that_are_widened_and_changed_count(tmp_path, dtype):
    write_gguf(tmp_path / "a.gguf", build("llama, wide"), None, dtype)
    model = load_model(tmp_path / "a.gguf")
    reader = Reader(model)
    (before,) = reader.read([(reader.begin(), [1, 2, 3])])
    with no_grad():
        model.layers[0].mlp.down_proj.weight.data[...] *= 0.5
    (after,) = reader.read([(reader.begin(), [1, 2, 3])])
    (fresh,) = Reader(model).read([(Reader(model).begin(), [1, 2, 3])])
    np.testing.assert_array_equal(after, fresh)
    assert np.abs(after - before).max() > 1e-3


def test_reading_a_file_records_once(tmp_path, monkeypatch):
    write_gguf(tmp_path / "a.gguf", build("llama, wide"), None, "q8_0")
    recorded = []

    def counting(model):
        recorded.append(model)
        return Recorder(model)

    monkeypatch.setattr("minillm.generation.token_step.Recorder", counting)
    reader = Reader(load_model(tmp_path / "a.gguf"))
    for ids in ([1, 2, 3], [4]):
        reader.read([(reader.begin(), ids)])
    assert len(recorded) == 1


def test_weights_that_change_in_place_count():
    model = build("gpt2")
    reader = Reader(model)
    (before,) = reader.read([(reader.begin(), [1, 2, 3])])
    with no_grad():
        model.h[0].mlp.c_fc.weight[...] = model.h[0].mlp.c_fc.weight.data * 0.5
    (after,) = reader.read([(reader.begin(), [1, 2, 3])])
    np.testing.assert_allclose(after, whole(model, [1, 2, 3])[-1], atol=1e-4)
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("case", WITHOUT)
def test_what_stands_in_the_way_of_a_plan_is_named(case):
    model = small_llama.small(case)
    with pytest.raises(Unplanned, match=WITHOUT[case]):
        TokenStep(model)
    assert not Reader(model).compiled


def test_without_the_extension_or_in_float64_there_is_no_plan():
    model = build("gpt2")
    with kernels.use("reference"):
        assert not Reader(model).compiled
    with no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.astype(np.float64)
    with pytest.raises(Unplanned, match="weights of float64 have no step"):
        TokenStep(model)


class TestPlan:
    """What the extension's own checks refuse."""

    def plan(self):
        plan = kernels.cpu.runtime.Plan([4, 4])
        plan.add((1, 0, 4), (0, 0, 4), (0, 0, 4))
        return plan

    def run(self, plan, **changes):
        given = {
            "inputs": [np.ones((2, 4), np.float32)],
            "positions": np.array([0, 1]),
            "texts": np.array([0, 0]),
            "keys": [kernels.cpu.runtime.Keys([])],
            "cos": None,
            "sin": None,
            "wanted": [0, 1],
            "out": np.empty((2, 4), np.float32),
        }
        plan.run(**given | changes)
        return (given | changes)["out"]

    def test_it_runs(self):
        np.testing.assert_array_equal(self.run(self.plan()), np.full((2, 4), 2))

    @pytest.mark.parametrize("rows", [1, 40])
    @pytest.mark.parametrize("between", [None, (0, 0), (1, 2), (2, 0)])
    def test_products_of_the_same_rows_are_moved_past_nothing_that_matters(self, rows, between):
        """`between`: what a sum after the first product is written to, and what else it reads."""
        kinds = ["Q8_0", "Q4_1", "F32", "Q8_0", "BF16", "Q4_0"]
        draw, end = testing.Draw(0), len(kinds) + 1
        x = draw.normal(rows, 32).astype(np.float32)
        plan, slots = kernels.cpu.runtime.Plan([32] * (end + 1)), {0: x}

        def add(out, a, b):
            plan.add((out, 0, 32), (a, 0, 32), (b, 0, 32))
            slots[out] = slots[a] + slots[b]

        add(2, 0, 0)
        for place, kind in enumerate(kinds, 1):
            raw = random_blocks(draw, kind, 32, 32)
            id = blocks.KINDS[kind].id
            plan.linear((place, 0, 32), (0, 0, 32), None, id, raw, None, 32, 32)
            slots[place] = slots[0] @ blocks.decode_rows(kind, raw).T
            if place == 1 and between:
                add(between[0], between[0], between[1])
        add(end, 1, 2)
        for place in range(3, end):
            add(end, end, place)
        given = {"positions": np.arange(rows), "texts": np.zeros(rows, np.int64)}
        out = np.empty((rows, 32), np.float32)
        self.run(plan, inputs=[x], wanted=list(range(rows)), out=out, **given)
        assert np.abs(out - slots[end]).max() <= 1e-4 * np.abs(slots[end]).max()

    def test_products_of_the_same_rows_are_not_moved_past_a_choice_of_rows(self):
        plan, x = kernels.cpu.runtime.Plan([4] * 5), np.arange(12, dtype=np.float32).reshape(3, 4)
        id, one = blocks.KINDS["F32"].id, np.eye(4, dtype=np.float32).view(np.uint8)
        plan.add((1, 0, 4), (0, 0, 4), (0, 0, 4))
        plan.linear((2, 0, 4), (1, 0, 4), None, id, one, None, 4, 4)
        plan.select([1])
        plan.linear((3, 0, 4), (1, 0, 4), None, id, one, None, 4, 4)
        plan.add((4, 0, 4), (3, 0, 4), (1, 0, 4))
        given = {"positions": np.arange(3), "texts": np.zeros(3, np.int64)}
        out = np.empty((2, 4), np.float32)
        self.run(plan, inputs=[x], wanted=[1, 2], out=out, **given)
        np.testing.assert_array_equal(out, 4 * x[1:])

    @pytest.mark.parametrize(
        "changes",
        [
            {"inputs": [np.ones((2, 5), np.float32)]},
            {"positions": np.array([0, -1])},
            {"texts": np.array([0, 1])},
            {"wanted": [1, 0]},
            {"wanted": [0, 2]},
            {"out": np.empty((3, 4), np.float32)},
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes):
        with pytest.raises((ValueError, IndexError)):
            self.run(self.plan(), **changes)

    def test_a_weight_of_too_few_bytes_is_refused(self):
        plan = kernels.cpu.runtime.Plan([4, 4])
        for kind, size in ((0, 63), (1, 31), (8, 64), (9, 64)):
            with pytest.raises(ValueError, match="plan: "):
                plan.linear((1, 0, 4), (0, 0, 4), None, kind, np.zeros(size, np.uint8), None, 4, 4)

    def test_many_tokens_of_several_texts_are_refused(self):
        given = {
            "inputs": [np.ones((32, 4), np.float32)],
            "positions": np.arange(32),
            "texts": np.arange(32) // 31,
            "keys": [kernels.cpu.runtime.Keys([])] * 2,
            "out": np.empty((2, 4), np.float32),
        }
        with pytest.raises(ValueError, match="so many tokens must belong to one text"):
            self.run(self.plan(), **given)

    def test_views_outside_a_slot_are_refused(self):
        plan = kernels.cpu.runtime.Plan([4, 4])
        for place in ((2, 0, 4), (0, 1, 4), (0, -1, 4), (0, 0, 0)):
            with pytest.raises(ValueError, match="plan: view: sizes do not fit together"):
                plan.add((1, 0, 4), place, (0, 0, 4))
