"""Parameters whose values come later: no memory, no draws, no decoding before they are used."""

import threading
import tracemalloc

import numpy as np
import pytest

import stand_in_cupy
from minillm import nn, optim
from minillm.formats.deferred import Blocks
from minillm.models import GPT2, GPT2Config

BIG = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}
SMALL = {"vocab_size": 7, "n_positions": 5, "n_embd": 4, "n_layer": 1, "n_head": 1}


class Source:
    """Values that are made, and counted, when they are asked for."""

    def __init__(self, shape, value=2.0):
        self.shape, self.value, self.asked = shape, value, 0

    def __array__(self, dtype=None, copy=None):
        self.asked += 1
        return np.full(self.shape, self.value, dtype or np.float16)


def deferred(shape=(2, 3), **options):
    parameter, source = nn.DeferredParameter(shape), Source(shape, **options)
    parameter.defer(source)
    return parameter, source


class TestDeferredParameter:
    def test_what_is_known_before_decodes_nothing(self):
        parameter, source = deferred()
        assert (parameter.shape, parameter.ndim, parameter.size) == ((2, 3), 2, 6)
        assert parameter.dtype == np.float32
        assert parameter.requires_grad and parameter.grad is None
        assert source.asked == 0

    def test_values_are_asked_for_once_and_are_its_own(self):
        parameter, source = deferred()
        data = parameter.data
        assert type(parameter) is nn.Parameter
        assert parameter.data is data and source.asked == 1
        assert data.dtype == np.float32 and (data == 2).all()
        assert data.flags.writeable and data.flags.c_contiguous

    def test_a_read_only_array_is_copied(self):
        held = np.arange(6.0, dtype=np.float32).reshape(3, 2).T
        held.setflags(write=False)
        parameter = nn.DeferredParameter((2, 3))
        parameter.defer(held)
        parameter.data[0, 0] = 9
        assert held[0, 0] == 0 and parameter.data.flags.c_contiguous

    def test_who_asks_while_another_thread_decodes_gets_the_same_values(self):
        seen = []

        class Asked(Source):
            def __array__(self, dtype=None, copy=None):
                array = super().__array__(dtype, copy)
                if self.asked == 1:
                    other.start()
                    other.join(0.1)  # would have decoded by now if nothing kept it waiting
                return array

        parameter, source = nn.DeferredParameter((2, 3)), Asked((2, 3))
        other = threading.Thread(target=lambda: seen.append(parameter.data))
        parameter.defer(source)
        data = parameter.data
        other.join()
        assert source.asked == 1
        assert seen[0] is data

    def test_it_trains_like_any_other(self):
        parameter, _ = deferred()
        (parameter * parameter).sum().backward()
        assert (parameter.grad.data == 4).all()
        optim.AdamW([parameter], lr=0.1, weight_decay=0.0).step()
        assert np.allclose(parameter.data, 1.9)

    def test_to_a_gpu_blocks_go_as_such_whatever_multiplies_there(self):
        source = Blocks(np.arange(4 * 34, dtype=np.uint8), "Q8_0", (4, 32))
        layer = nn.skip_init(nn.Linear, 32, 4, bias=False)
        layer.weight.defer(source)
        with stand_in_cupy.installed() as count:
            layer.to("cuda")
            assert type(layer.weight) is nn.DeferredParameter and layer.weight.device == "cuda:0"
            assert stand_in_cupy.machine.held[0] == source.raw.size
            opened = layer.weight.data  # there, not by the host
            assert not count.waits and type(layer.weight) is nn.Parameter
            assert np.array_equal(opened.get(), source.decode(), equal_nan=True)

    def test_without_values_it_cannot_be_used(self):
        parameter = nn.DeferredParameter((2, 3))
        with pytest.raises(RuntimeError, match=r"values of shape \(2, 3\) used before any were"):
            parameter.sum()

    def test_a_source_of_another_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"defer: shape \(3, 2\) given, \(2, 3\) is needed"):
            nn.DeferredParameter((2, 3)).defer(Source((3, 2)))

    def test_values_may_be_given_outright(self):
        parameter, source = deferred()
        parameter.data = np.ones((2, 3), np.float64)
        assert type(parameter) is nn.Parameter and parameter.dtype == np.float64
        assert source.asked == 0


class TestSkipInit:
    def test_a_model_without_values_takes_neither_memory_nor_draws(self):
        tracemalloc.start()
        try:
            model = nn.skip_init(GPT2, GPT2Config(**BIG))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert model.parameter_count() == 124_439_808
        assert peak < 2e6
        assert not nn.init_skipped()
        GPT2(GPT2Config(**SMALL)).wte.weight.data.sum()

    def test_an_error_inside_ends_it(self):
        with pytest.raises(TypeError):
            nn.skip_init(GPT2, None, None, None)
        assert not nn.init_skipped()

    def test_loading_decodes_nothing_and_gives_the_same_model(self):
        right = GPT2(GPT2Config(**SMALL), seed=3)
        sources = {
            name: Source(array.shape, array.mean()) for name, array in right.state_dict().items()
        }
        model = nn.skip_init(GPT2, GPT2Config(**SMALL))
        model.load_state_dict(sources)
        waiting = [p for p in model.parameters() if isinstance(p, nn.DeferredParameter)]
        assert len(waiting) == len(sources)
        assert not any(source.asked for source in sources.values())
        state = model.state_dict()
        for name, source in sources.items():
            assert source.asked == 1
            assert (state[name] == np.float32(source.value)).all()

    def test_arrays_that_may_change_are_copied_at_once(self):
        state = {n: a.copy() for n, a in GPT2(GPT2Config(**SMALL)).state_dict().items()}
        model = nn.skip_init(GPT2, GPT2Config(**SMALL))
        model.load_state_dict(state)
        right = state["wte.weight"].copy()
        state["wte.weight"][:] = 9
        assert np.array_equal(model.wte.weight.data, right)
