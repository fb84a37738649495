"""Reader: however a text enters, and in whatever company, its logits are the same."""

import numpy as np
import pytest

import small_gpt2
import small_llama
import small_t5
import small_transformer
from minillm import kernels, no_grad
from minillm.generation import Reader

TEXT = [1, 5, 12, 0, 5, 7, 3, 8, 4]
SOURCE = [2, 9, 11, 4, 0, 6]
FAMILIES = {
    "gpt2": small_gpt2.small,
    "llama": lambda: small_llama.small("llama"),
    "mistral": lambda: small_llama.small("mistral"),
    "qwen2": lambda: small_llama.small("qwen2, window"),
    "qwen3": lambda: small_llama.small("qwen3"),
    "t5": small_t5.small,
    "transformer": small_transformer.small,
}


def begin(reader):
    return reader.begin(SOURCE if reader.kind == "encoder-decoder" else None)


@pytest.fixture(params=FAMILIES)
def model(request):
    return FAMILIES[request.param]()


def whole(model):
    """The logits after each id of TEXT, by one call of the model."""
    with no_grad():
        if model.config.kind == "encoder-decoder":
            return model(np.array([SOURCE]), np.array([TEXT])).numpy()[0]
        return model(np.array([TEXT])).numpy()[0]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("pieces", [[9], [1] * 9, [2, 3, 4], [8, 1]])
def test_logits_are_the_models_however_the_text_is_cut(model, pieces, use_cache):
    reader = Reader(model, use_cache=use_cache)
    expected = whole(model)
    for every in (False, True):
        text, start = begin(reader), 0
        for size in pieces:
            end = start + size
            (got,) = reader.read([(text, TEXT[start:end])], every=every)
            np.testing.assert_allclose(
                got, expected[start:end] if every else expected[end - 1], atol=1e-5
            )
            start = end
        assert text.ids == TEXT and text.length == 9


def test_what_is_read_again_after_a_rewind_or_in_a_fork(model):
    reader, expected = Reader(model), whole(model)
    text = begin(reader)
    reader.read([(text, TEXT[:4])])
    fork = text.fork()
    reader.read([(text, [0, 1, 2])])
    text.rewind(3)
    (again,) = reader.read([(text, TEXT[3:])])
    (other,) = reader.read([(fork, TEXT[4:])])
    np.testing.assert_allclose([again, other], [expected[-1]] * 2, atol=1e-5)
    assert text.ids == fork.ids == TEXT


def test_a_row_has_the_same_bits_alone_and_among_others(model):
    reader = Reader(model)
    alone, among, other = begin(reader), begin(reader), begin(reader)
    for start in range(0, 9, 3):
        (expected,) = reader.read([(alone, TEXT[start : start + 3])])
        got = reader.read([(other, [start, 2]), (among, TEXT[start : start + 3])])[1]
        np.testing.assert_array_equal(got, expected)


def test_a_long_prompt_enters_in_chunks():
    model = small_gpt2.small()
    with kernels.use("reference"):
        text = begin(reader := Reader(model, chunk=4))
        sizes = []
        original = model.features
        model.features = lambda ids, cache=None: sizes.append(ids.shape[1]) or original(ids, cache)
        reader.read([(text, TEXT[:3])])
        (got,) = reader.read([(text, TEXT[3:])], every=True)
    assert sizes == [3, 1, 4, 1]
    np.testing.assert_allclose(got, whole(model)[3:], atol=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
def test_features_are_what_the_head_reads(model, use_cache):
    reader = Reader(model, use_cache=use_cache)
    with no_grad():
        if reader.kind == "encoder-decoder":
            right = model.features(np.array([SOURCE]), np.array([TEXT])).numpy()[0]
        else:
            right = model.features(np.array([TEXT])).numpy()[0]
    text = begin(reader)
    (first,) = reader.read([(text, TEXT[:4])], every=True, features=True)
    (last,) = reader.read([(text, TEXT[4:])], features=True)
    assert text.ids == TEXT
    np.testing.assert_allclose(first, right[:4], atol=1e-5)
    np.testing.assert_allclose(last, right[-1], atol=1e-5)
    np.testing.assert_allclose(reader.logits(right), whole(model), atol=1e-4)


@pytest.mark.parametrize(
    "ids, kind, message",
    [
        ([], ValueError, "generate: 0 tokens to read, at least 1 is needed"),
        ([1] * 8, ValueError, "generate: 10 tokens, the model's context is 9"),
        ([1, 13], IndexError, "generate: id 13, 0 <= id < 13 is needed"),
        ([-1], IndexError, "generate: id -1, 0 <= id < 13 is needed"),
    ],
)
def test_what_cannot_be_read_changes_nothing(ids, kind, message):
    reader = Reader(small_gpt2.small())
    text, other = reader.begin(), reader.begin()
    reader.read([(text, [3, 4])])
    with pytest.raises(kind, match=message):
        reader.read([(other, [1]), (text, ids)])
    assert text.ids == [3, 4] and not other.ids
    reader.read([(text, [5])])


def test_rewinding_to_where_nothing_was_is_refused():
    text = Reader(small_gpt2.small()).begin()
    with pytest.raises(ValueError, match="rewind: 1 of 0 ids"):
        text.rewind(1)


def test_a_source_belongs_to_an_encoder_decoder():
    with pytest.raises(ValueError, match="this model has no encoder"):
        Reader(small_gpt2.small()).begin([1])
    for source in (None, []):
        with pytest.raises(ValueError, match="a source of 0 tokens, at least 1 is needed"):
            Reader(small_t5.small()).begin(source)
