"""SentencePiece: ids that it gave, its files, the same vocabularies in GGUF and tokenizer.json."""

import json
import struct

import numpy as np
import pytest

from frozen_sentencepiece import BPE, BPE_IDS, TEXTS, UNIGRAM, UNIGRAM_IDS
from minillm.tokenizers import SentencePieceTokenizer, from_document, from_gguf, load, to_gguf
from minillm.tokenizers.precompiled import CharsMap
from minillm.tokenizers.protobuf import fields
from minillm.tokenizers.sentencepiece_model import parse
from minillm.tokenizers.unigram import Unigram

MODELS = {"bpe": (BPE, BPE_IDS), "unigram": (UNIGRAM, UNIGRAM_IDS)}
each = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture
def opened(tmp_path):
    """Open the frozen model of a kind, or other bytes, as a file."""

    def open_model(content, name="tokenizer.model"):
        (tmp_path / name).write_bytes(MODELS[content][0] if content in MODELS else content)
        return load(tmp_path / name)

    return open_model


@each
def test_ids_are_those_of_sentencepiece(opened, kind):
    tokenizer = opened(kind)
    assert isinstance(tokenizer, SentencePieceTokenizer) and tokenizer.kind == kind
    for text, ids in zip(TEXTS, MODELS[kind][1]):
        assert tokenizer.encode(text) == ids, text


def test_any_text_comes_back_where_bytes_stand_in(opened):
    tokenizer = opened("bpe")
    for text, ids in zip(TEXTS, BPE_IDS):
        assert tokenizer.decode(ids) == text.replace("▁", " ")
        stream = tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.flush() == text.replace("▁", " ")


def test_unigram_normalises(opened):
    tokenizer = opened("unigram")
    assert tokenizer.decode(tokenizer.encode("  ﬁ\t\tnaïve e\u0301 ")) == "fi naïve é"
    assert tokenizer.decode(tokenizer.encode("<think> AbA")) == "<think> aba"


@each
def test_control_pieces_are_never_made_from_text(opened, kind):
    tokenizer = opened(kind)
    text = " ".join(tokenizer.special_tokens)
    specials = set(tokenizer.special_tokens.values()) - {tokenizer.role_ids["unk"]}
    assert specials.isdisjoint(tokenizer.encode(text))
    assert specials <= set(tokenizer.encode(text, split_special_tokens=False))


def test_what_stands_around_a_text(opened):
    assert opened("bpe").encode("the", add_special_tokens=True) == [1, 266]
    assert opened("unigram").encode("the", add_special_tokens=True)[-1] == 1
    assert opened("unigram").eos_id == 1 and opened("bpe").role_ids == {
        "unk": 0,
        "bos": 1,
        "eos": 2,
    }


@each
def test_config_beside_the_model_decides(opened, tmp_path, kind):
    new = {"340" if kind == "bpe" else "120": {"content": "<|new|>", "special": True}}
    config = {"add_bos_token": False, "add_eos_token": True, "added_tokens_decoder": new}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = opened(kind)
    assert tokenizer.encode("the", True) == [*tokenizer.encode("the"), tokenizer.eos_id]
    assert tokenizer.special_tokens["<|new|>"] == tokenizer.vocab_size - 1


def test_t5_has_extra_ids(opened, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "T5Tokenizer", "extra_ids": 3}', encoding="utf-8"
    )
    tokenizer = opened("unigram", "spiece.model")
    assert tokenizer.vocab_size == 123 and tokenizer.token_to_id("<extra_id_0>") == 122
    assert tokenizer.special_tokens["<extra_id_2>"] == 120
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "XLMRobertaTokenizer"}', encoding="utf-8"
    )
    with pytest.raises(ValueError, match='tokenizer_class "XLMRobertaTokenizer" without'):
        opened("unigram", "spiece.model")


def backends():
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        return ["python"]
    return ["python", "tokenizers"]


@each
@pytest.mark.parametrize("backend", backends())
def test_saved_as_tokenizer_json(opened, tmp_path, kind, backend):
    tokenizer = opened(kind)
    tokenizer.save(tmp_path / "saved")
    again = load(tmp_path / "saved", backend)
    assert (again.backend, again.kind) == (backend, kind)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.role_ids == tokenizer.role_ids
    assert again.special_tokens == tokenizer.special_tokens
    rare = ("▁", "e\u0301\u0323")  # a mark of SentencePiece's own, a replacement of several marks
    for text, ids in zip(TEXTS, MODELS[kind][1]):
        if kind == "bpe" or not any(part in text for part in rare):
            assert again.encode(text) == ids, text
        assert again.encode(text, True) == [
            *([1] if kind == "bpe" else []), *again.encode(text), *([1] if kind != "bpe" else []),
        ]  # fmt: skip
        assert again.decode(ids) == tokenizer.decode(ids)


@each
def test_same_vocabulary_in_gguf(kind):
    model = parse(MODELS[kind][0])
    metadata = {
        "tokenizer.ggml.model": {"bpe": "llama", "unigram": "t5"}[kind],
        "tokenizer.ggml.tokens": model.pieces,
        "tokenizer.ggml.scores": np.array(model.scores, np.float32),
        "tokenizer.ggml.token_type": np.array(model.types, np.int32),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": kind == "unigram",
        "tokenizer.ggml.precompiled_charsmap": np.frombuffer(model.charsmap, np.uint8),
    }
    tokenizer = from_gguf(metadata)
    assert [tokenizer.encode(text) for text in TEXTS] == MODELS[kind][1]
    expected = [1, 266] if kind == "bpe" else [*tokenizer.encode("the"), 1]
    assert tokenizer.encode("the", True) == expected
    again = from_gguf(to_gguf(tokenizer))
    assert [again.encode(text, True) for text in TEXTS] == [
        tokenizer.encode(text, True) for text in TEXTS
    ]
    assert (again.eos_id, again.fingerprint) == (tokenizer.eos_id, tokenizer.fingerprint)
    del metadata["tokenizer.ggml.scores"]
    with pytest.raises(ValueError, match=r"from_gguf: .* tokens and 0 scores"):
        from_gguf(metadata)


def test_t5_ids_that_are_documented(shared_data):
    tokenizer = load(shared_data / "tokenizers" / "t5.spiece.model")
    text = "translate English to German: That is good."
    assert tokenizer.encode(text, True) == [13959, 1566, 12, 2968, 10, 466, 19, 207, 5, 1]
    text = "translate English to German: The house is wonderful."
    assert tokenizer.encode(text, True) == [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5, 1]


def test_llama2c_vocabulary(shared_data):
    tokenizer = load(shared_data / "models" / "stories260K" / "tok512.bin")
    assert tokenizer.vocab_size == 512 and tokenizer.role_ids == {"unk": 0, "bos": 1, "eos": 2}
    assert tokenizer.encode("Once upon a time", True) == [1, 403, 407, 261, 378]
    for text in ("One day, a 猫\n\nran 🙂", "", " a", "<s>"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_longest_replacement_wins():
    table = CharsMap(parse(UNIGRAM).charsmap)
    assert table.replace("e\u0301\u0323e\u0301xA™か\u3099\u3099\u00ad") == "ẹ\u0301éxaTMが\u3099"
    assert table.replace("plain") == "plain"


class Counting(dict):
    asked = 0

    def get(self, key):
        self.asked += 1
        return super().get(key)


@pytest.mark.parametrize("unit", ["a", "ab", "☃"])
def test_unigram_work_grows_in_proportion_to_length(unit):
    asked = []
    for length in (10_000, 20_000):
        model = Unigram({"a": 0, "aa": 1, "aaa": 2, "ab": 3, "b": 4}, [-1.0] * 6, 5)
        model._known = Counting(model._known)
        list(model.lists(unit * length))
        asked.append(model._known.asked)
    assert asked[1] < 2.1 * asked[0] < 21 * 10_000 * len(unit)


def test_most_probable_way_is_found():
    """Against all ways to cut a text, tried one after the other."""
    ids = {"a": 0, "b": 1, "ab": 2, "aba": 3, "ba": 4, "bab": 5}
    scores = [-2.0, -2.5, -3.25, -4.5, -3.125, -5.75, 0.0]
    model = Unigram(ids, scores, 6)

    def all_ways(text):
        if not text:
            yield []
        for end in range(1, len(text) + 1):
            if text[:end] in ids:
                yield from ([ids[text[:end]], *rest] for rest in all_ways(text[end:]))

    for number in range(1, 200):
        text = f"{number:b}".replace("1", "a").replace("0", "b")
        (found,) = model.lists(text)
        best = max(sum(scores[id] for id in way) for way in all_ways(text))
        assert sum(scores[id] for id in found) == best


def message(number, content):
    return bytes([number << 3 | 2, len(content)]) + content


def piece(text, score=-1.0, kind=1):
    return message(
        1, message(1, text) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "0 bytes hold no piece, a SentencePiece model is needed"),
        (b"\x0a\xff\xff\xff\xff\x0f", "a field of 4,294,967,295 bytes at byte 6, only 0 are left"),
        (b"\x0a\x05ab", "a field of 5 bytes at byte 2, only 2 are left"),
        (b"\xff" * 20, "a number of more than 10 bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "a number 1 where a text or a message is needed"),
        (piece(b"\xff"), "codec can't decode"),
        (piece(b"a", kind=7), "piece 'a' of type 7, a text and a type from 1 to 6 are needed"),
        (piece(b""), "piece '' of type 1"),
        (piece(b"a") * 2, "token 'a' occurs twice"),
        (piece(b"a") + message(2, b"\x18\x03"), "model type 'word' is not supported"),
        (piece(b"a") + message(2, b"\x18\x02\x98\x02\x01"), "256 byte pieces are missing"),
        (piece(b"a") + message(2, b"\xc0\x01\x01"), "treat_whitespace_as_suffix is not supported"),
        (piece(b"a") + message(3, b"\x28\x00"), "escape_whitespaces = false is not supported"),
        (piece(b"a") + message(5, message(2, b"x")), "a denormalizer is not supported"),
        (piece(b"a") + message(3, message(2, b"abc")), "a table of 3 bytes says"),
        (piece(b"a") + message(3, message(2, b"\x04\x00\x00\x00\x00\x00\x00\x00")), None),
    ],
)
def test_damaged_files_are_named(opened, content, complaint):
    if complaint is None:
        assert opened(content).encode("") == []
        return
    with pytest.raises(ValueError, match=complaint) as caught:
        opened(content)
    assert str(caught.value).startswith("load: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("unit", [b"\xff", b"\x00\x01\x00\x00", b"\x41\x08\x00\x00"])
def test_damaged_tables_are_refused_or_harmless(unit):
    trie = (unit * 4096)[: 4096 // len(unit) * 4]
    try:
        table = CharsMap(len(trie).to_bytes(4, "little") + trie + b"x\0")
        table.replace("aAa\u0301\x41\x01" * 10)
    except ValueError as error:
        assert "table" in str(error) or "decode" in str(error)


def test_character_without_a_piece_needs_an_unknown_one(opened):
    tokenizer = opened(piece(b"a") + piece("▁".encode()))
    assert tokenizer.encode("a a") == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="'b' has no"):
        tokenizer.encode("ab")


def test_unknown_wire_fields_are_passed_over():
    assert list(fields(b"\x09" + bytes(8) + b"\x0d" + bytes(4) + b"\x10\x96\x01")) == [
        (1, bytes(8)),
        (1, bytes(4)),
        (2, 150),
    ]


def test_document_of_a_model_opens_in_both_ways(opened):
    document = opened("bpe").to_dict()
    for backend in backends():
        tokenizer = from_document(document, backend=backend)
        assert [tokenizer.encode(text) for text in TEXTS] == BPE_IDS
