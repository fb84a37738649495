"""What minillm writes runs in llama.cpp (llama-cpp-python) and says the same."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

import small_llama
from minillm import no_grad, tokenizers
from minillm.blocks import KINDS
from minillm.formats import llama2c
from minillm.formats.block_encoding import ENCODERS, encode
from minillm.formats.gguf import read
from minillm.models import Llama, LlamaConfig, llama
from minillm.models.folder import load, load_model, logits_of
from minillm.models.gguf_export import FILE_TYPES, write_gguf
from real_models import smollm2
from small_gpt2 import small
from small_runs import minillm, story, written

llama_cpp = pytest.importorskip("llama_cpp")

WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "vocab_size": 50}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
FAMILY = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "one key-value head": {"num_key_value_heads": 1, "head_dim": 8},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "yarn": {
        "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 10,
        },
    },
    "llama3": {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
}


def opened(path, n_ctx=64):
    """llama.cpp's model, with a cache in float32, which its own default is not."""
    return llama_cpp.Llama(
        str(path), n_ctx=n_ctx, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1
    )


def their_logits(path, ids):
    model = opened(path)
    model.eval(list(map(int, ids)))
    return np.array(model.scores[: len(ids)])


def theirs_greedy(model, ids, count):
    found = model.generate(list(map(int, ids)), temp=0.0, top_k=1, repeat_penalty=1.0)
    return [next(found) for _ in range(count)]


def greedy(model, ids, count):
    ids = list(ids)
    for _ in range(count):
        with no_grad():
            ids.append(int(model.next_logits(np.array([ids])).numpy()[0].argmax()))
    return ids[-count:]


def error(got, right):
    return np.abs(got - right).max() / np.abs(right).max()


@pytest.mark.parametrize("case", FAMILY)
def test_logits_of_the_llama_family(tmp_path, case):
    content = {"model_type": "llama"} | small_llama.SIZES | WIDE | FAMILY[case]
    model = Llama(LlamaConfig.from_hf(content), seed=1).eval()
    for parameter in model.parameters():
        parameter.data *= 5 if parameter.ndim == 2 else 1
    write_gguf(tmp_path / "a.gguf", model, None, "f32")
    ids = small_llama.IDS[0]
    ours = logits_of(model)(ids[None])[0]
    assert error(their_logits(tmp_path / "a.gguf", ids), ours) < 1e-4


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_gpt2(tmp_path, tied):
    model = small(n_embd=64, n_head=4, tie_word_embeddings=tied)
    write_gguf(tmp_path / "a.gguf", model, None, "f32")
    ids = np.array([1, 5, 12, 0, 5, 7, 3])
    ours = logits_of(model)(ids[None])[0]
    assert error(their_logits(tmp_path / "a.gguf", ids), ours) < 5e-3  # its GELU is a table


@pytest.mark.parametrize(
    "dtype, tolerance",
    [("f16", 0.005), ("bf16", 0.02)]
    + [(dtype, 0.03) for dtype in FILE_TYPES if dtype.startswith("q")],
)
def test_smaller_numbers_mean_the_same(tmp_path, dtype, tolerance):
    """Ours are decoded, llama.cpp's multiplied with activations of eight bits."""
    content = {"model_type": "llama"} | small_llama.SIZES | WIDE
    model = Llama(LlamaConfig.from_hf(content), seed=1).eval()
    for parameter in model.parameters():
        parameter.data *= 5 if parameter.ndim == 2 else 1
    write_gguf(tmp_path / "a.gguf", model, None, dtype)
    ids = small_llama.IDS[0]
    ours = logits_of(load_model(tmp_path / "a.gguf"))(ids[None])[0]
    assert error(their_logits(tmp_path / "a.gguf", ids), ours) < tolerance
    assert error(logits_of(model)(ids[None])[0], ours) > tolerance / 100


@pytest.mark.parametrize(
    "file_type, kinds",
    [(8, {"Q5_0"}), (9, {"Q5_1"}), (14, {"Q4_K"}), (16, {"Q5_K"}), (18, {"Q6_K"})],
)
def test_what_llama_cpp_quantizes_opens_here(tmp_path, file_type, kinds):
    content = {"model_type": "llama"} | small_llama.SIZES | WIDE
    content |= {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    model = Llama(LlamaConfig.from_hf(content), seed=1).eval()
    write_gguf(tmp_path / "a.gguf", model, None, "f32")
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = file_type, 1
    names = [str(tmp_path / name).encode() for name in ("a.gguf", "b.gguf")]
    assert llama_cpp.llama_model_quantize(*names, options) == 0
    assert kinds <= {tensor.kind for tensor in read(tmp_path / "b.gguf")[1].values()}
    ids = small_llama.IDS[0]
    ours = logits_of(load_model(tmp_path / "b.gguf"))(ids[None])[0]
    assert error(their_logits(tmp_path / "b.gguf", ids), ours) < 0.03
    assert 1e-4 < error(logits_of(model)(ids[None])[0], ours) < 0.2


def test_a_published_model_goes_on_alike(tmp_path):
    """Once as numbers that both sides multiply as they are; prompts whose best tokens are clear."""
    assert minillm("convert", smollm2(), tmp_path / "a.gguf", "--dtype", "f32") == 0
    model, tokenizer = load(tmp_path / "a.gguf")
    for prompt in ("The capital of France is", "Once upon a time"):
        ids = tokenizer.encode(prompt)
        assert theirs_greedy(opened(tmp_path / "a.gguf"), ids, 16) == greedy(model, ids, 16)


def test_a_published_model_of_llama2c_tells_its_story(tmp_path, shared_data):
    """Weights and vocabulary of a third format; its pieces are SentencePiece's."""
    folder = shared_data / "models" / "stories260K"
    content, arrays = llama2c.read(folder / "stories260K.bin")
    config = LlamaConfig.from_hf(content)
    model = Llama(config).eval()
    model.load_state_dict(llama.from_files(arrays, config))
    tokenizer = tokenizers.load(folder / "tok512.bin")
    write_gguf(tmp_path / "a.gguf", model, tokenizer, "f32")
    theirs = opened(tmp_path / "a.gguf", n_ctx=300)
    told = theirs_greedy(theirs, [1], 256)
    text = (folder / "greedy.txt").read_text(encoding="utf-8").removesuffix("\n")
    assert tokenizer.decode(told).lstrip(" ") == text
    assert theirs.detokenize(told).decode().lstrip(" ") == text
    for line in (text[:200], "  naïve 🙂\n\n12", "<s> a</s>", ""):
        assert theirs.tokenize(line.encode(), add_bos=False) == tokenizer.encode(line)


@pytest.fixture(scope="module", params=["bpe", "byte", "char"])
def trained(request, tmp_path_factory):
    """A trained model and its GGUF file."""
    place = tmp_path_factory.mktemp(request.param)
    written(place / "text.txt", story(400))
    words = {"tokenizer": request.param, "steps": 150, "lr": 0.01, "width": 64, "heads": 4}
    words |= {"layers": 2, "context": 64, "sample_tokens": 0, "precision": "f32"}
    words |= {"vocab_size": 300} if request.param == "bpe" else {}
    flags = [word for k, v in words.items() for word in (f"--{k.replace('_', '-')}", v)]
    assert minillm("train", place / "text.txt", "--out", place / "run", *flags) == 0
    assert minillm("convert", place / "run", place / "a.gguf") == 0
    return place


class TestTrained:
    def test_llama_cpp_goes_on_with_the_same_tokens(self, trained):
        model, tokenizer = load(trained / "run")
        for prompt in ("the cat", "a dog sat on the red mat", "then"):
            ids = tokenizer.encode(prompt)
            ours = greedy(model, ids, 20)
            assert theirs_greedy(opened(trained / "a.gguf"), ids, 20) == ours
            text = opened(trained / "a.gguf").create_completion(
                prompt, max_tokens=20, temperature=0.0, repeat_penalty=1.0
            )
            # of SentencePiece's kind, which ours of characters becomes, a first space is dropped
            theirs = text["choices"][0]["text"]
            assert theirs in (tokenizer.decode(ours), tokenizer.decode(ours).lstrip(" "))

    def test_llama_cpp_encodes_text_in_the_same_ids(self, trained):
        tokenizer = load(trained / "run")[1]
        theirs = opened(trained / "a.gguf")
        for text in ("the cat sat.\n", " under  the\n\ntree", "the then that a"):
            assert theirs.tokenize(text.encode(), add_bos=False) == tokenizer.encode(text)

    def test_our_own_reading_gives_the_same_tokens(self, trained):
        model, tokenizer = load(trained / "a.gguf")
        other, right = load(trained / "run")
        assert tokenizer.encode("the cat sat") == right.encode("the cat sat")
        ids = right.encode("the cat")
        assert greedy(model, ids, 20) == greedy(other, ids, 20)


class TestQuantization:
    @pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind[0] == "Q"])
    @pytest.mark.parametrize("size", [1e-6, 1e-3, 0.02, 1, 5])
    def test_numbers_encode_to_the_same_bytes(self, kind, size):
        generator = np.random.default_rng(3)
        x = (generator.standard_normal((512, 256)) * size).astype(np.float32)
        x[:9, :32] = 0
        x[9] = 0
        x[10:30] = x[10:30, :1]  # blocks of one number
        x[30:90] = np.round(x[30:90] / size * 4) / 4 * size  # ties
        x[90:99], x[99:110] = np.abs(x[90:99]), -np.abs(x[99:110])
        x[110:150, :128] *= 1e-4
        x[150:170, ::7] *= 100
        x[170:200] = np.clip(generator.standard_cauchy((30, 256)), -900, 900) * size
        got = b"".join(piece.tobytes() for piece in encode(kind, x))
        assert got == their_blocks(kind, x)


def their_blocks(kind, x):
    """What ggml makes of float32 rows (n, k)."""
    libraries = Path(llama_cpp.llama_cpp._lib._name).parent.glob("libggml-base.*")
    quantize = ctypes.CDLL(str(next(libraries))).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    layout = KINDS[kind]
    out = np.empty(x.size // layout.elements * layout.block_bytes, np.uint8)
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    written = quantize(
        layout.id, pointer(x.ctypes.data), pointer(out.ctypes.data), count(0),
        *map(count, x.shape), pointer(None),
    )  # fmt: skip
    assert written == out.size
    return out.tobytes()
