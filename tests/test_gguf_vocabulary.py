"""Tokenizers as metadata of GGUF files, and back."""

import numpy as np
import pytest

from minillm.formats import gguf
from minillm.models import GPT2, GPT2Config
from minillm.models.gguf_export import write_gguf
from minillm.tokenizers import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    from_document,
    from_gguf,
    to_gguf,
)
from minillm.tokenizers.byte_alphabet import ALPHABET
from minillm.tokenizers.post_processors import around
from minillm.tokenizers.split_patterns import STEPS_BY_NAME

TEXTS = ("the then 12345 don't DON'T", "  naïve\n\n🙂 the", "<|end|> <tool>", "")
FIRST = {"phi-2": "gpt-2", "roberta-bpe": "gpt-2", "starcoder": "smollm", "refact": "smollm"} | {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "dbrx": "smaug-bpe",
}  # names that mean the same cuts: the first one is written


def document(name, **changes):
    """A tokenizer.json that cuts as a name of GGUF says."""
    merges = ["Ġ t", "h e", "Ġt he", "1 2", "12 3", "Ġ Ġ", "' t", "o n"]
    tokens = [*ALPHABET, *(merge.replace(" ", "") for merge in merges), "<|end|>", "<tool>"]
    entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    steps = STEPS_BY_NAME[name]
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"} if name == "qwen2" else None,
        "pre_tokenizer": steps[0]
        if len(steps) == 1
        else {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {"type": "ByteLevel"},
        "added_tokens": [
            {"id": 264, "content": "<|end|>", "special": True, **entry},
            {"id": 265, "content": "<tool>", "special": False, **entry},
        ],
        "model": {
            "type": "BPE",
            "ignore_merges": name in ("llama-bpe", "llama3", "llama-v3"),
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": merges,
        },
    } | changes


class TestTokenizers:
    @pytest.mark.parametrize("name", STEPS_BY_NAME)
    def test_ids_types_and_cuts_come_back(self, name):
        tokenizer = from_document(document(name))
        metadata = to_gguf(tokenizer)
        assert metadata["tokenizer.ggml.pre"] == FIRST.get(name, name)
        assert metadata["tokenizer.ggml.token_type"].tolist() == [1] * 264 + [3, 4]
        again = from_gguf(metadata)
        for text in TEXTS:
            assert again.encode(text) == tokenizer.encode(text)
            assert again.decode(again.encode(text)) == text
        for key, value in to_gguf(again).items():
            assert np.array_equal(metadata[key], value)

    @pytest.mark.parametrize("begin, end", [([264], []), ([], [264]), ([264], [264])])
    def test_tokens_around_a_text(self, begin, end):
        names = [str(id) for id in range(266)]
        template = around(begin, end).document(names)
        tokenizer = from_document(document("gpt-2", post_processor=template))
        tokenizer.role_ids |= {"bos": 264, "eos": 264}
        metadata = to_gguf(tokenizer)
        assert metadata["tokenizer.ggml.add_bos_token"] == bool(begin)
        assert metadata["tokenizer.ggml.add_eos_token"] == bool(end)
        whole = from_gguf(metadata).encode("the", add_special_tokens=True)
        assert whole == tokenizer.encode("the", add_special_tokens=True)
        with pytest.raises(ValueError, match=r"puts \[265\] around a text cannot be written"):
            template = around([265], []).document(names)
            to_gguf(from_document(document("gpt-2", post_processor=template)))

    def test_roles_and_the_template_of_a_conversation(self):
        tokenizer = from_document(document("qwen2"))
        tokenizer.role_ids |= {"pad": 265, "eos": 264}
        tokenizer.chat_template = "{{ messages }}"
        metadata = to_gguf(tokenizer)
        assert metadata["tokenizer.chat_template"] == "{{ messages }}"
        assert metadata["tokenizer.ggml.padding_token_id"] == 265
        again = from_gguf(metadata)
        assert again.chat_template == "{{ messages }}" and again.role_ids["pad"] == 265

    def test_qwens_cuts_without_its_normalizer_are_told_apart(self):
        tokenizer = from_document(document("qwen2", normalizer=None))
        assert to_gguf(tokenizer)["tokenizer.ggml.normalizer.nfc"] is False
        assert from_gguf(to_gguf(tokenizer)).encode("e\u0301") == tokenizer.encode("e\u0301")

    @pytest.mark.parametrize(
        "changes, complaint",
        [
            ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "has no name for"),
            ({"normalizer": {"type": "Lowercase"}}, "normalizer .*Lowercase.* cannot be written"),
        ],
    )
    def test_what_llama_cpp_has_not_is_refused(self, changes, complaint):
        with pytest.raises(ValueError, match=complaint):
            to_gguf(from_document(document("gpt-2", **changes)))


class TestVocabularies:
    def metadata(self, tmp_path, tokenizer, **options):
        model = GPT2(
            GPT2Config(vocab_size=300, n_positions=4, n_embd=4, n_layer=1, n_head=1, **options)
        )
        write_gguf(tmp_path / "a.gguf", model, tokenizer, "f32")
        return gguf.read(tmp_path / "a.gguf")[0]

    def test_byte_level_bpe(self, tmp_path):
        tokenizer = BPETokenizer.from_merges(["Ġ t", "h e", "Ġt he"], ["<|endoftext|>"])
        found = self.metadata(tmp_path, tokenizer)
        assert found["tokenizer.ggml.model"] == "gpt2"
        assert found["tokenizer.ggml.pre"] == "gpt-2"
        assert found["tokenizer.ggml.merges"] == ["Ġ t", "h e", "Ġt he"]
        tokens = found["tokenizer.ggml.tokens"]
        assert tokens[256:262] == ["Ġt", "he", "Ġthe", "<|endoftext|>", "[PAD260]", "[PAD261]"]
        assert len(tokens) == 300
        assert found["tokenizer.ggml.token_type"].tolist() == [1] * 259 + [3] + [5] * 40
        assert found["tokenizer.ggml.eos_token_id"] == 259
        assert not found["tokenizer.ggml.add_bos_token"]

    def test_bytes_are_bpe_without_merges(self, tmp_path):
        found = self.metadata(tmp_path, ByteTokenizer())
        assert found["tokenizer.ggml.model"] == "gpt2" and found["tokenizer.ggml.merges"] == []
        assert found["tokenizer.ggml.tokens"][32] == "Ġ"

    def test_characters_are_pieces_of_sentencepiece(self, tmp_path):
        tokenizer = CharTokenizer.from_characters("ab \n", byte_fallback=True)
        found = self.metadata(tmp_path, tokenizer)
        assert found["tokenizer.ggml.model"] == "llama"
        assert found["tokenizer.ggml.tokens"][:5] == ["\n", "▁", "a", "b", "<0x00>"]
        assert found["tokenizer.ggml.token_type"].tolist() == [1] * 4 + [6] * 256 + [3] + [5] * 39
        assert found["tokenizer.ggml.scores"].shape == (300,)
        assert not found["tokenizer.ggml.add_space_prefix"]
        with pytest.raises(ValueError, match="characters with '▁' cannot be written"):
            self.metadata(tmp_path, CharTokenizer.from_characters("a▁"))

    @pytest.mark.parametrize("fallback", [True, False])
    def test_characters_come_back(self, tmp_path, fallback):
        tokenizer = CharTokenizer.from_characters("ab \né<", byte_fallback=fallback)
        again = from_gguf(self.metadata(tmp_path, tokenizer))
        assert isinstance(again, CharTokenizer) and again.byte_fallback == fallback
        assert again.vocab_size == tokenizer.vocab_size and again.eos_id == tokenizer.eos_id
        for text in (" a  b\n\n", "é", "", *["x🙂 ▁"] * fallback):
            assert again.encode(text) == tokenizer.encode(text)
            assert again.decode(again.encode(text)) == text

    def test_more_tokens_than_embeddings_are_refused(self, tmp_path):
        tokenizer = ByteTokenizer([f"<{id}>" for id in range(50)], "<0>")
        with pytest.raises(ValueError, match="306 tokens for 300 embeddings"):
            self.metadata(tmp_path, tokenizer)
