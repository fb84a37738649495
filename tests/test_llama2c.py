"""llama2.c's files: a small one written here, and the published stories260K."""

import struct

import numpy as np
import pytest

from minillm.arrays import new_generator
from minillm.formats import llama2c
from minillm.generation import Sampler, generate_ids
from minillm.models import Llama, LlamaConfig, llama
from small_llama import logits

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, POSITIONS = SIZES = (8, 6, 2, 4, 2, 11, 5)
COUNT = VOCAB * WIDTH + LAYERS * (2 * WIDTH + 3 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN) + WIDTH


def written(path, sizes=SIZES, count=COUNT + POSITIONS * 2, cut=0):
    numbers = np.sin(np.arange(count, dtype=np.float32) ** 2)
    data = struct.pack("<7i", *sizes) + numbers.tobytes()
    path.write_bytes(data[: len(data) - cut])
    return numbers


def opened(path):
    content, arrays = llama2c.read(path)
    config = LlamaConfig.from_hf(content)
    model = Llama(config)
    model.load_state_dict(llama.from_files(arrays, config))
    return model.eval(), arrays


class TestModel:
    def test_parts_lie_one_after_the_other(self, tmp_path):
        numbers = written(tmp_path / "m.bin")
        model, arrays = opened(tmp_path / "m.bin")
        assert np.array_equal(arrays["model.embed_tokens.weight"].ravel(), numbers[:88])
        assert np.array_equal(
            arrays["model.layers.1.input_layernorm.weight"], numbers[88 + 8 : 88 + 16]
        )
        queries = numbers[88 + 16 + 64 : 88 + 16 + 128].reshape(4, 2, 8)  # pairs are the heads
        stored = arrays["model.layers.1.self_attn.q_proj.weight"]
        assert np.array_equal(stored, queries.reshape(8, 8))
        assert np.array_equal(arrays["model.norm.weight"], numbers[COUNT - 8 : COUNT])
        assert model.config.tie_word_embeddings and model.config.context == POSITIONS
        assert model.parameter_count() == COUNT

    def test_a_negative_vocabulary_means_a_head_of_its_own(self, tmp_path):
        sizes = (*SIZES[:5], -VOCAB, POSITIONS)
        numbers = written(tmp_path / "m.bin", sizes, COUNT + 10 + VOCAB * WIDTH)
        model, arrays = opened(tmp_path / "m.bin")
        assert np.array_equal(arrays["lm_head.weight"].ravel(), numbers[-VOCAB * WIDTH :])
        assert logits(model, np.array([[1, 2]])).shape == (1, 2, VOCAB)

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"cut": 4}, rf"{28 + 4 * COUNT + 36:,} bytes, {28 + 4 * COUNT + 40:,} are needed"),
            ({"count": 0, "cut": 1}, "27 bytes, a header of 28"),
            ({"sizes": (*SIZES[:6], 0)}, "whole numbers from 1"),
            ({"sizes": (9, *SIZES[1:])}, "dim a multiple of n_heads"),
            ({"sizes": (2**30, 2**30, 2**30, 1, 1, 2**30, 2**30)}, "are needed for"),
        ],
    )
    def test_a_file_of_another_size_is_refused(self, tmp_path, options, message):
        written(tmp_path / "m.bin", **options)
        with pytest.raises(ValueError, match=message):
            llama2c.read(tmp_path / "m.bin")


class TestVocabulary:
    def test_pieces_and_scores(self, tmp_path):
        pieces = [(b"<unk>", 0.0), (b"", -1.0), (b" \xc3\xa9", -2.5)]
        data = struct.pack("<i", 5)
        data += b"".join(struct.pack("<fi", score, len(piece)) + piece for piece, score in pieces)
        path = tmp_path / "t.bin"
        path.write_bytes(data)
        assert llama2c.read_vocabulary(path) == tuple(map(list, zip(*pieces)))
        for damaged in (data[:-1], data + b"\0", data[:-3] + b"\xff" * 12, data + b"\xff" * 8):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"damaged, piece \d does not fit"):
                llama2c.read_vocabulary(path)
        path.write_bytes(data[:4])
        with pytest.raises(ValueError, match="a vocabulary of at least 1 piece"):
            llama2c.read_vocabulary(path)


@pytest.fixture(scope="module")
def stories(shared_data):
    folder = shared_data / "models" / "stories260K"
    if not (folder / "stories260K.bin").is_file():
        pytest.skip("no stories260K beside the checkout")
    return folder


def text_of(pieces, ids):
    """As llama2.c prints: the space that starts a text dropped, bytes by their number."""
    out = b"".join(
        bytes([int(pieces[i][3:5], 16)]) if pieces[i].startswith(b"<0x") else pieces[i] for i in ids
    )
    return out.removeprefix(b" ").decode("utf-8")


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_published_model_tells_its_documented_story(stories, use_cache):
    """256 tokens at temperature 0 after the token that begins a text."""
    model, _ = opened(stories / "stories260K.bin")
    assert model.parameter_count() == model.config.parameter_count == 260_032
    pieces, scores = llama2c.read_vocabulary(stories / "tok512.bin")
    assert len(pieces) == len(scores) == 512
    generated = generate_ids(model, [1], Sampler(0.0), new_generator(0), use_cache=use_cache)
    told = text_of(pieces, [next(generated) for _ in range(256)])
    assert told + "\n" == (stories / "greedy.txt").read_text(encoding="utf-8")
