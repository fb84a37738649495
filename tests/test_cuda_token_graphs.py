"""Token steps that are repeated as CUDA graphs have the bits of those launched one by one."""

import gc
import itertools

import numpy as np
import pytest

import small_gpt2
import small_llama
from cuda_device import device, library, needs_device
from minillm import kernels, no_grad
from minillm.arrays import new_generator
from minillm.generation import Reader
from test_cuda_training import engine

pytestmark = needs_device
__all__ = ["engine"]
CASES = {
    "gpt2": lambda: small_gpt2.small(n_positions=400),
    "llama": lambda: small_llama.small("llama", max_position_embeddings=400),
    "mistral": lambda: small_llama.small("mistral", max_position_embeddings=400),  # with a window
}
BORDER = 256  # positions from which on other launches are needed


@pytest.fixture(autouse=True)
def graphs():
    before = library.runtime.graphs()
    library.runtime.set_graphs(True)
    yield
    library.runtime.set_graphs(before)


def on_host():
    if device.name != "cuda on host":
        pytest.skip("a GPU does not count its graphs")
    return library.on_host


def text(model, length, seed=0):
    return new_generator(seed).integers(0, model.config.vocab_size, length).tolist()


def both(model, story):
    """What `story(reader)` gives with graphs, which has to be what it gives without."""
    library.runtime.set_graphs(False)
    wanted = story(Reader(model))
    library.runtime.set_graphs(True)
    got = story(Reader(model))
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    return got


def whole(model, ids):
    with kernels.use("reference"), no_grad():
        return model(np.array([ids])).numpy()[0]


@pytest.mark.parametrize("case", CASES)
def test_a_text_grows_beyond_a_border_while_its_keys_move(case):
    model = CASES[case]()
    ids = text(model, BORDER + 6)
    expected = whole(model, ids)
    model.to("cuda")

    def story(reader):
        reading, found = reader.begin(), []
        for first, end in itertools.pairwise([0, BORDER - 6, *range(BORDER - 5, len(ids) + 1)]):
            found += reader.read([(reading, ids[first:end])], every=True)
            if end == BORDER - 3:
                reading = reading.fork()  # its keys lie elsewhere from now on
        return found

    found = both(model, story)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)


def test_a_graph_is_not_used_once_memory_has_moved_nor_for_a_longer_text():
    model = CASES["gpt2"]().to("cuda")
    ids = text(model, BORDER + 4)

    def story(reader):
        short, *long = (reader.begin() for _ in range(3))
        found = []

        def read(times, *readings):
            for _ in range(times):
                found.extend(reader.read([(reading, [3]) for reading in readings]))

        read(3, short)
        found.extend(reader.read([(reading, ids) for reading in long]))  # takes more memory
        read(3, *long)
        read(3, short)
        read(2, long[0])  # in the room that both had
        return found

    both(model, story)


def test_texts_come_and_go_and_go_back():
    model = CASES["llama"]()
    ids = text(model, 40)
    model.to("cuda")

    def story(reader):
        readings = [reader.begin() for _ in range(3)]
        found = reader.read([(reading, ids[: 3 * i + 2]) for i, reading in enumerate(readings)])
        for step in range(12):
            if step == 4:
                readings.pop(0)
            if step == 7:
                readings[0].rewind(3)
            if step == 9:
                readings.insert(0, readings[1].fork())
            found += reader.read([(reading, [ids[20 + step]]) for reading in readings])
        return found

    found = both(model, story)
    expected = whole(model.to("cpu"), [*ids[:8], *ids[20:32]])
    np.testing.assert_allclose(found[-1], expected[-1], atol=1e-4)


@pytest.mark.parametrize("case", ["gpt2", "mistral"])
def test_a_row_has_the_same_bits_in_any_company(case):
    """Beside texts beyond the border too, and of more rows than a product takes at once."""
    model = CASES[case]().to("cuda")
    reader, prompt = Reader(model), text(model, 9)
    tokens = [5, 3, 4]
    alone = [reader.begin() for _ in range(2)]
    expected = reader.read([(alone[0], prompt)])
    expected += [reader.read([(alone[0], [id])])[0] for id in tokens]
    readings = [reader.begin() for _ in range(11)]
    for reading in readings[1:]:
        reader.read([(reading, text(model, BORDER + 1 if reading is readings[1] else 2))])
    (first,) = reader.read([(readings[0], prompt)])
    np.testing.assert_array_equal(first, expected[0])
    for id, wanted in zip(tokens, expected[1:]):
        got = reader.read([(reading, [id]) for reading in readings])
        np.testing.assert_array_equal(got[0], wanted)


def test_weights_that_change_in_place_count():
    model = CASES["gpt2"]().to("cuda")
    reader = Reader(model)
    reading = reader.begin()
    for id in (1, 2, 3):
        reader.read([(reading, [id])])
    with no_grad():
        model.h[0].mlp.c_fc.weight.data[...] *= 0.5
    (after,) = reader.read([(reading, [4])])
    library.runtime.set_graphs(False)
    reading.rewind(3)
    (wanted,) = Reader(model).read([(reading, [4])])
    np.testing.assert_array_equal(after, wanted)


def test_a_token_is_one_launch_of_a_graph():
    played = on_host()
    reader = Reader(CASES["gpt2"]().to("cuda"))
    reading = reader.begin()
    reader.read([(reading, text(reader.model, 40))])
    launched, kept = played.launched_graphs(), played.graphs()
    for id in range(8):
        reader.read([(reading, [id])])
    assert played.launched_graphs() - launched == 7  # the first was met for the first time
    assert played.graphs() - kept == 1
    library.runtime.set_graphs(False)
    reader.read([(reading, [1])])
    assert played.launched_graphs() - launched == 7
    del reader
    gc.collect()
    assert played.graphs() == kept


def test_what_cannot_be_captured_names_the_switch():
    played = on_host()
    reader = Reader(CASES["gpt2"]().to("cuda"))
    reading = reader.begin()
    reader.read([(reading, [1])])
    played.refuse_captures(True)
    try:
        with pytest.raises(RuntimeError) as caught:
            reader.read([(reading, [2])])
    finally:
        played.refuse_captures(False)
    assert str(caught.value) == (
        "plan: capture: cudaErrorStreamCaptureUnsupported, played by the host, a CUDA graph of the "
        "step is needed; MINILLM_GRAPHS=off does without"
    )
    (after,) = reader.read([(reading, [2])])
    library.runtime.set_graphs(False)
    (wanted,) = reader.read([(reader.begin(), [1, 2])])
    np.testing.assert_allclose(after, wanted, atol=1e-5)


class TestPlan:
    """Plans of a step or two."""

    def run(self, plan, *inputs, wanted=(0,), width=4, keys=(), positions=None):
        count = len(inputs[0])
        out = device.put(np.full((len(wanted), width), np.nan, np.float32))
        plan.run(
            inputs=[device.put(np.asarray(rows, np.float32)) for rows in inputs],
            positions=np.arange(count) if positions is None else positions,
            texts=np.zeros(count, np.int64),
            keys=[library.runtime.Keys([tuple(map(device.put, pair)) for pair in keys])],
            cos=None,
            sin=None,
            wanted=list(wanted),
            out=out,
        )
        return out.get()

    def test_each_choice_of_rows_has_its_graph_and_there_are_not_ever_more(self):
        plan = library.runtime.Plan([4, 4, 4])
        plan.add((1, 0, 4), (0, 0, 4), (0, 0, 4))
        plan.select([1])
        plan.add((2, 0, 4), (1, 0, 4), (1, 0, 4))
        gc.collect()
        kept = library.on_host.graphs() if device.name == "cuda on host" else 0
        choices = [(0, 1, 2, 3), (3, 4, 5, 6), (0, 2, 4, 6), (0, 1, 2, 6)]  # the most rows first
        for size in (1, 2, 3):
            choices += itertools.combinations(range(7), size)
        assert len(choices) == 67
        for turn, wanted in enumerate(choices):
            for again in range(2):
                x = new_generator(turn, again).standard_normal((7, 4)).astype(np.float32)
                got = self.run(plan, x, wanted=wanted)
                np.testing.assert_array_equal(got, 4 * x[list(wanted)])
        if device.name == "cuda on host":
            assert library.on_host.graphs() - kept == 64

    def test_graphs_give_way_where_memory_ends(self):
        played = on_host()
        plan = library.runtime.Plan([8, 4])
        plan.add((1, 0, 4), (0, 0, 4), (0, 4, 4))  # of rows that are copied first
        x = np.arange(16.0).reshape(2, 8)
        gc.collect()
        kept, asked = played.graphs(), []

        def make_room(size, refused):
            asked.append(refused)
            library.runtime.set_most_bytes(2**62)

        def run():
            np.testing.assert_array_equal(self.run(plan, x, wanted=(0, 1)), x[:, :4] + x[:, 4:])

        run()
        library.runtime.ask_for_room(make_room, False)
        library.runtime.set_most_bytes(0)
        try:
            run()
        finally:
            library.runtime.set_most_bytes(2**62)
            library.runtime.ask_for_room(None, False)
        assert asked == [1] and played.graphs() == kept
        run()
        run()
        assert played.graphs() == kept + 1

    @pytest.mark.parametrize("last", [3, 255, 256, 700, 16383, 17000])
    @pytest.mark.parametrize("window", [0, 300])
    def test_attention_to_many_keys_is_split(self, last, window):
        """Also where splits have more than the least number of keys."""
        rng = new_generator(last, window)
        keys = [rng.standard_normal((1, 1, last + 3, 4)).astype(np.float32) for _ in range(2)]
        plan = library.runtime.Plan([8, 4, 4, 8])
        plan.attend((3, 0, 8), (0, 0, 8), (1, 0, 4), (2, 0, 4), 0, 2, 1, 0.7, window)
        bound = [tuple(array.copy() for array in keys)]
        for position in (last, last + 1, last):
            q, k, v = (rng.standard_normal((1, width)).astype(np.float32) for width in (8, 4, 4))
            got = self.run(plan, q, k, v, width=8, keys=bound, positions=np.array([position]))
            for array, new in zip(bound[0], (k, v)):
                array[0, 0, position] = new
            begin = max(0, position + 1 - window) if window else 0
            seen, values = (a[0, 0, begin : position + 1].astype(float) for a in bound[0])
            weights = np.exp(0.7 * q.reshape(2, 4) @ seen.T)
            expected = weights / weights.sum(-1)[:, None] @ values
            np.testing.assert_allclose(got.reshape(2, 4), expected, atol=1e-5)
