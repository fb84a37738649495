"""Weights that stay as blocks: rows that do not know each other, threads, edges, whole models."""

import subprocess
import sys

import numpy as np
import pytest

from minillm import blocks, kernels, nn, ops, testing
from minillm.formats.deferred import Blocks, Changed, Reordered
from minillm.nn.parameter import blocks_of
from minillm.ops.block_linear import random_blocks
from minillm.tensor import Tensor, no_grad
from real_models import smollm2

KINDS = list(blocks.KINDS)
each_kind = pytest.mark.parametrize("kind", KINDS)
needs_extension = pytest.mark.skipif(
    kernels.cpu is None, reason="the C++ extension is not installed: weights are widened"
)


def weight_of(kind, rows, width, seed=0):
    return random_blocks(testing.Draw(seed), kind, rows, width)


def product(x, raw, kind, **more):
    return ops.block_linear.compute(x, raw, more.get("bias"), more.get("residual"), kind=kind)[0]


def normal(*shape):
    return testing.Draw(3).normal(*shape).astype(np.float32)


@needs_extension
@each_kind
def test_a_row_has_the_same_bits_alone_and_among_others(kind):
    raw, x = weight_of(kind, 43, 512), normal(31, 512)
    bias, residual = normal(43), normal(31, 43)
    for isa in kernels.cpu.runtime.available_isas():
        before = kernels.cpu.runtime.isa()
        kernels.cpu.runtime.set_isa(isa)
        try:
            alone = [
                product(x[i : i + 1], raw, kind, bias=bias, residual=residual[i : i + 1])
                for i in range(31)
            ]
            for start, stop in ((0, 31), (0, 2), (1, 4), (5, 9), (3, 8), (10, 26), (7, 30)):
                together = product(
                    x[start:stop], raw, kind, bias=bias, residual=residual[start:stop]
                )
                assert together.tobytes() == np.concatenate(alone[start:stop]).tobytes(), isa
        finally:
            kernels.cpu.runtime.set_isa(before)


@needs_extension
@each_kind
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_threads_change_no_bit(kind, rows):
    raw, x = weight_of(kind, 1030, 256), normal(rows, 256)
    before, found = kernels.threads(), []
    try:
        for threads in (1, 2, 3, 5):
            kernels.set_threads(threads)
            found.append(product(x, raw, kind).tobytes())
    finally:
        kernels.set_threads(before)
    assert len(set(found)) == 1


@each_kind
def test_blocks_may_begin_at_any_byte_and_nothing_is_read_beyond_them(kind):
    raw, x = weight_of(kind, 7, 256), normal(3, 256)
    right = product(x, raw, kind)
    for start in (1, 2, 5):
        buffer = np.full(raw.size + 64, 0xFF, np.uint8)
        buffer[start : start + raw.size] = raw.reshape(-1)
        view = buffer[start : start + raw.size].reshape(raw.shape)
        assert product(x, view, kind).tobytes() == right.tobytes()


@each_kind
def test_the_product_is_that_of_the_decoded_weight(kind):
    raw = weight_of(kind, 19, 768)
    weight = blocks.decode_rows(kind, raw).astype(np.float64)
    for rows in (1, 2, 7, 33, 530):
        x = normal(rows, 768)
        exact = x @ weight.T
        assert np.abs(product(x, raw, kind) - exact).max() < 1e-4 * np.abs(exact).max()


@needs_extension
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q6_K"])
def test_the_largest_number_makes_no_nan_in_many_rows(kind):
    raw, x = random_blocks(testing.Draw(1), kind, 40, 256), normal(40, 256)
    x[11, 2] = np.finfo(np.float32).max
    exact = x[11].astype(np.float64) @ blocks.decode_rows(kind, raw).T.astype(np.float64)
    found, fits = product(x, raw, kind)[11], np.abs(exact) < 3.4e38
    np.testing.assert_allclose(found[fits], exact[fits], rtol=1e-4, atol=1e34)
    assert not np.isnan(found).any()


@needs_extension
@each_kind
@pytest.mark.parametrize("rows", [1, 3, 31, 32, 40])
@pytest.mark.parametrize("wild", [(np.inf,), (-np.inf,), (np.nan,), (np.inf, np.inf)])
def test_infinity_and_nan_go_where_the_reference_has_them(kind, rows, wild):
    raw, x = random_blocks(testing.Draw(1), kind, 40, 256), normal(rows, 256)
    x[rows // 2, 2 : 2 + 68 * len(wild) : 68] = wild
    with kernels.use("reference"), np.errstate(invalid="ignore"):
        right = product(x, raw, kind)
    for isa in kernels.cpu.runtime.available_isas():
        before = kernels.cpu.runtime.isa()
        kernels.cpu.runtime.set_isa(isa)
        try:
            most = 1e-4 * np.abs(right[np.isfinite(right)]).max(initial=1)
            np.testing.assert_allclose(product(x, raw, kind), right, 0, most, err_msg=isa)
        finally:
            kernels.cpu.runtime.set_isa(before)


@needs_extension
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("rows, lines, width", [(40, 0, 256), (40, 3, 0), (3, 0, 256), (3, 3, 0)])
def test_nothing_times_something_is_bias_and_residual(kind, rows, lines, width):
    size = blocks.KINDS[kind]
    raw = np.zeros((lines, width // size.elements * size.block_bytes), np.uint8)
    bias, residual = normal(lines), normal(rows, lines)
    out = np.empty((rows, lines), np.float32)
    kernels.cpu.block_linear_forward(size.id, raw, normal(rows, width), bias, residual, out)
    assert np.array_equal(out, residual + bias)


@pytest.mark.parametrize("rows, lines", [(1, 3), (5, 70), (33, 70), (63, 2), (40, 64)])
@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_bias_and_residual_are_added_once_however_deep_the_product(kind, rows, lines):
    """Deep products are computed slice by slice."""
    raw, x = weight_of(kind, lines, 1536), normal(rows, 1536)
    bias, residual = 1000 + normal(lines), 10000 * normal(rows, lines)
    exact = x @ blocks.decode_rows(kind, raw).T.astype(np.float64) + bias + residual
    out = product(x, raw, kind, bias=bias, residual=residual)
    assert np.abs(out - exact).max() < 0.5
    if kind == "F32":
        out, _ = ops.linear.compute(x, raw.view(np.float32), bias, residual)
        assert np.abs(out - exact).max() < 0.5


@needs_extension
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q6_K", "F16"])
def test_what_is_not_finite_stays_so_in_its_row_only(kind):
    raw, x = weight_of(kind, 9, 256), normal(3, 256)
    right = product(x, raw, kind)
    for value in (np.nan, np.inf, -np.inf):
        spoilt = x.copy()
        spoilt[1, 70] = value
        out = product(spoilt, raw, kind)
        assert not np.isfinite(out[1]).any()
        assert out[[0, 2]].tobytes() == right[[0, 2]].tobytes()


@needs_extension
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e30])
def test_activations_of_any_size_keep_their_precision(scale):
    raw, x = weight_of("Q8_0", 9, 64), normal(2, 64)
    exact = (x * np.float64(np.float32(scale))) @ blocks.decode_rows("Q8_0", raw).T.astype(float)
    out = product(x * np.float32(scale), raw, "Q8_0")
    assert np.abs(out - exact).max() <= max(1e-4 * np.abs(exact).max(), 1e-28)


@pytest.mark.parametrize(
    "x, raw, kind, error, words",
    [
        ((2, 33), (3, 20), "Q4_1", ValueError, "x (2, 33), (..., in) with a multiple of 32"),
        ((2, 128), (3, 144), "Q4_K", ValueError, "multiple of 256 for Q4_K"),
        ((2, 64), (3, 20), "Q4_1", ValueError, "blocks (3, 20), 40 bytes a row are needed"),
        ((), (3, 20), "Q4_1", ValueError, "x (), (..., in)"),
        ((2, 32), (60,), "Q4_1", TypeError, "blocks (60,) of uint8, uint8 (out, bytes) is needed"),
        ((2, 32), (3, 20), "Q4_2", ValueError, "kind='Q4_2', one of F32, F16"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(x, raw, kind, error, words):
    with pytest.raises(error) as told:
        ops.block_linear(np.zeros(x, np.float32), np.zeros(raw, np.uint8), kind=kind)
    assert words in str(told.value) and "\n" not in str(told.value)


def held(source):
    parameter = nn.DeferredParameter(source.shape)
    parameter.defer(source)
    return parameter


def blocks_source(kind="Q4_1", rows=6, width=64):
    return Blocks(weight_of(kind, rows, width).reshape(-1), kind, (rows, width))


def layer_with(source):
    layer = nn.skip_init(nn.Linear, source.shape[1], source.shape[0], bias=False)
    layer.weight.defer(source)
    return layer


class TestModules:
    def test_blocks_are_handed_out_as_they_lie(self):
        source = blocks_source()
        kind, raw, m, k = blocks_of(held(source))
        assert (kind, m, k) == (3, 6, 64) and np.shares_memory(raw, source.raw)
        plain = nn.Parameter(normal(4, 3))
        kind, raw, m, k = blocks_of(plain)
        assert (kind, m, k) == (0, 4, 3) and np.shares_memory(raw, plain.data)
        assert blocks_of(nn.Parameter(normal(4))) is None
        assert blocks_of(nn.Parameter(np.zeros((2, 2)))) is None

    def test_a_mapped_matrix_of_float16_is_one_of_blocks(self):
        array = normal(4, 3).astype(np.float16)
        array.setflags(write=False)
        assert blocks_of(held(array))[0] == 1
        assert blocks_of(held(array.T))[0] == 0  # widened: no rows of the file

    def test_reordered_rows_are_reordered_blocks(self):
        source, order = blocks_source(), np.array([3, 1, 2, 0, 5, 4])
        moved = held(Reordered(source, order))
        assert np.array_equal(blocks.decode_rows("Q4_1", blocks_of(moved)[1]), moved.data)
        assert np.array_equal(moved.data, source.decode()[order])

    @needs_extension
    def test_a_layer_computes_from_blocks_until_it_is_to_be_trained(self):
        layer, x = layer_with(blocks_source()), Tensor(normal(2, 64))
        assert layer.nbytes == 6 * 2 * 20
        with no_grad():
            out = layer(x).data
        assert isinstance(layer.weight, nn.DeferredParameter)
        widened = layer(x)
        assert type(layer.weight) is nn.Parameter and layer.nbytes == 6 * 64 * 4
        np.testing.assert_allclose(out, widened.data, atol=1e-4 * np.abs(out).max())
        widened.sum().backward()
        assert layer.weight.grad.shape == (6, 64)

    @needs_extension
    def test_a_frozen_weight_hands_gradients_on_without_being_widened(self):
        layer, x = layer_with(blocks_source()), Tensor(normal(2, 64), requires_grad=True)
        layer.weight.requires_grad = False
        layer(x).sum().backward()
        assert isinstance(layer.weight, nn.DeferredParameter)
        right = layer.weight.data.sum(axis=0)
        np.testing.assert_allclose(x.grad.data, np.tile(right, (2, 1)), rtol=1e-5, atol=1e-5)

    def test_the_reference_path_widens(self):
        layer = layer_with(blocks_source())
        with kernels.use("reference"), no_grad():
            layer(Tensor(normal(2, 64)))
        assert type(layer.weight) is nn.Parameter

    @needs_extension
    def test_transposed_matrices_are_widened(self):
        source = blocks_source()
        layer = layer_with(Changed(source, (64, 6), np.transpose))
        with no_grad():
            layer(Tensor(normal(2, 6)))
        assert type(layer.weight) is nn.Parameter

    @needs_extension
    @each_kind
    def test_an_embedding_decodes_the_rows_asked_for(self, kind):
        table = nn.skip_init(nn.Embedding, 6, 256)
        source = blocks_source(kind, 6, 256)
        table.weight.defer(source)
        ids = np.array([[3, 0], [5, 3]])
        with no_grad():
            rows = table(ids).data
            with pytest.raises(IndexError, match="embedding: id 6, 0 <= id < 6"):
                table(np.array([6]))
        assert rows.shape == (2, 2, 256) and np.array_equal(rows, source.decode()[ids])
        assert kind == "F32" or isinstance(table.weight, nn.DeferredParameter)


RESIDENT = """
import sys
from minillm.models.folder import load_model
from minillm.generation.reading import Reader
reader = Reader(load_model(sys.argv[1]))
reading = reader.begin()
(logits,) = reader.read([(reading, [1])])
reader.read([(reading, [int(logits.argmax())])])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@needs_extension
class TestSmolLM2:
    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
    def test_a_token_takes_little_more_memory_than_the_file(self):
        path = smollm2()
        done = subprocess.run(
            [sys.executable, "-c", RESIDENT, str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        resident = int(done.stdout) * 1024
        assert resident <= path.stat().st_size + 60e6

    def test_the_logits_are_those_of_the_widened_model(self):
        from minillm.models.folder import load_model

        path = smollm2()
        model = load_model(path)
        ids = np.random.default_rng(0).integers(0, 49152, (1, 40))
        with no_grad():
            found = {n: model(ids[:, :n]).data for n in (1, 20, 40)}
            assert isinstance(model.head, nn.DeferredParameter)
            assert model.nbytes < path.stat().st_size
            for parameter in model.parameters():
                assert parameter.data is not None
            for n, logits in found.items():
                right = model(ids[:, :n]).data
                assert np.abs(logits - right).max() <= 1e-3 * np.abs(right).max()
                assert np.array_equal(logits.argmax(-1), right.argmax(-1))
