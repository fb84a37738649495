"""GGUF against the `gguf` package and, for whole models, against transformers."""

import numpy as np
import pytest

import small_llama
from minillm import blocks
from minillm.formats import gguf as ours
from minillm.formats import gguf_writing
from minillm.formats.block_encoding import ENCODERS, encode
from minillm.models.folder import logits_of
from minillm.models.gguf_export import write_gguf
from minillm.models.gguf_names import GPT2_NAMES, NAMES, ROTARY_NAMES
from minillm.tokenizers import BPETokenizer
from minillm.tokenizers.gguf_vocabulary import to_gguf
from small_gguf import METADATA, numbers
from small_gpt2 import IDS, small

gguf = pytest.importorskip("gguf")

QUANTIZED = [kind for kind in blocks.KINDS if kind[0] == "Q"]


def type_of(kind):
    return gguf.GGMLQuantizationType[kind]


@pytest.mark.parametrize("kind", blocks.KINDS)
@pytest.mark.parametrize("top", [256, 124])  # with scales of every kind, and with finite ones
def test_random_bytes_decode_to_the_same_bits(kind, top):
    layout = blocks.KINDS[kind]
    count = 4096 if layout.elements == 1 else 500
    raw = np.random.default_rng(top).integers(0, top, count * layout.block_bytes, np.uint8)
    out = np.empty(count * layout.elements, np.float32)
    blocks.decode(layout, raw, out)
    with np.errstate(all="ignore"):
        rows = raw if kind in ("F32", "F16") else raw.reshape(count, -1)
        right = np.ascontiguousarray(gguf.dequantize(rows, type_of(kind))).reshape(-1)
    np.testing.assert_array_equal(out.view(np.uint32), right.view(np.uint32))
    assert np.isnan(out).any() == (top == 256)


@pytest.mark.parametrize("kind", [kind for kind in ENCODERS if kind[-1] != "K"])
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1, 300])
def test_numbers_encode_to_the_same_bytes(kind, size):
    generator = np.random.default_rng(7)
    x = (generator.standard_normal((300, 96)) * size).astype(np.float32)
    x[:9, :32] = 0
    x[9:30] = x[9:30, :1]  # blocks of one number
    x[30:90] = np.round(x[30:90] / size * 4) / 4 * size  # ties
    x[90:99] = np.abs(x[90:99])
    with np.errstate(all="ignore"):
        right = gguf.quantize(x, type_of(kind))
    assert b"".join(piece.tobytes() for piece in encode(kind, x)) == right.tobytes()


def test_the_types_that_are_not_supported_are_known_by_their_names():
    all_types = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
    supported = {kind.id: name for name, kind in blocks.KINDS.items()}
    assert all_types == supported | blocks.OTHER_KINDS | {
        id: name for id, name in all_types.items() if id > 39
    }


@pytest.mark.parametrize("arch, names", NAMES.items())
def test_names_are_those_of_the_package(arch, names):
    models = {name: id for id, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(models[arch], 4)
    stems = [*names.outer.values(), *(f"{names.layers}.3.{part}" for part in names.layer.values())]
    for stem in stems:
        if arch in ("llama", "qwen2") and stem.endswith(("q_norm", "k_norm")):
            continue
        right = table.get_name(f"{stem}.weight", try_suffixes=(".weight",))
        assert names.gguf_name(f"{stem}.weight") == right
    assert names in (ROTARY_NAMES, GPT2_NAMES)


def test_the_package_reads_what_we_write(tmp_path):
    metadata = {k: v for k, v in METADATA.items() if k not in ("general.alignment", "a.nested")}
    x = numbers(192).reshape(3, 64)
    gguf_writing.write(tmp_path / "a", metadata, {kind: (x, kind) for kind in ENCODERS})
    reader = gguf.GGUFReader(tmp_path / "a")
    for key, value in metadata.items():
        assert reader.get_field(key).contents() == (
            pytest.approx(value) if isinstance(value, float) else value
        )
    assert [tensor.name for tensor in reader.tensors] == list(ENCODERS)
    mine = ours.read(tmp_path / "a")[1]
    for tensor in reader.tensors:
        assert tensor.shape.tolist() == [64, 3]
        right = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(mine[tensor.name].decode(), right.reshape(3, 64))


class TestTransformers:
    """transformers opens our file: names, layout and settings are right together."""

    @pytest.mark.parametrize("tied", [True, False])
    def test_gpt2(self, tmp_path, tied):
        model = small(n_embd=64, n_head=4, tie_word_embeddings=tied)
        write_gguf(tmp_path / "a.gguf", model, None, "f32")
        self.compare(tmp_path, model, IDS, model.config.to_hf())  # positions it does not read

    @pytest.mark.parametrize("case", ["llama", "tied", "yarn", "qwen2", "qwen3"])
    def test_llama(self, tmp_path, case):
        options = {"attention_bias": False} if case == "qwen3" else {}
        model = small_llama.small(case, **options)
        write_gguf(tmp_path / "a.gguf", model, None, "f32")
        self.compare(tmp_path, model, small_llama.IDS, small_llama.content(case) | options)

    def compare(self, folder, model, ids, content):
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file="a.gguf", config=transformers.AutoConfig.for_model(**content)
        )
        with torch.no_grad():
            right = theirs.eval()(torch.tensor(ids)).logits.numpy()
        np.testing.assert_allclose(logits_of(model)(ids), right, atol=1e-4)
        assert np.abs(right).max() > 1

    def test_the_vocabulary(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        tokenizer = BPETokenizer.from_merges(["Ġ t", "h e", "Ġt he", "Ġ a"])
        model = small(n_embd=64, n_head=4, vocab_size=tokenizer.vocab_size)
        write_gguf(tmp_path / "a.gguf", model, tokenizer, "f32")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="a.gguf")
        for text in ("the then a  the", "naïve 🙂\n\n12"):
            assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert to_gguf(tokenizer)["tokenizer.ggml.eos_token_id"] == theirs.eos_token_id
