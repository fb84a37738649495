"""vocab.json with merges.txt, and vocab.txt: llama.cpp's vectors, options, and what is refused."""

import json

import pytest

from minillm.tokenizers import BPETokenizer, load
from minillm.tokenizers.byte_alphabet import ALPHABET
from vectors import copy_of_bert, copy_of_gpt2, vectors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "##c", "é", "e", "A", "a", "中"]


def write(folder, **files):
    for name, content in files.items():
        stem, _, kind = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{kind}").write_text(text, encoding="utf-8", newline="")
    return folder


def byte_level(folder, *specials, **files):
    tokens = [*specials, *ALPHABET, "he", "Ġhe"]
    vocab = {token: id for id, token in enumerate(tokens)}
    return write(folder, vocab_json=vocab, merges_txt="#version: 0.2\nh e\r\nĠ he\n", **files)


def word_piece(folder, **config):
    return write(folder, vocab_txt="\n".join(WORDS) + "\n", tokenizer_config_json=config)


def names(tokenizer, text, **options):
    return [tokenizer.id_to_token(id) for id in tokenizer.encode(text, **options)]


@pytest.mark.parametrize("file", ["", "vocab.json", "merges.txt"])
def test_gpt2s_files(tmp_path, file):
    tokenizer = load(byte_level(tmp_path, "<|endoftext|>") / file)
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.role_ids == {"bos": 0, "eos": 0, "unk": 0} and tokenizer.eos_id == 0
    assert names(tokenizer, "he he<|endoftext|>")[:3] == ["he", "Ġhe", "<"]


def test_robertas_files(tmp_path):
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = load(byte_level(tmp_path, *specials, added_tokens_json={"<new>": 263}), "python")
    assert names(tokenizer, "he", add_special_tokens=True) == ["<s>", "he", "</s>"]
    assert names(tokenizer, "a <mask>", split_special_tokens=False) == ["a", "<mask>"]
    assert names(tokenizer, "he<new>") == ["he", "<new>"]
    assert tokenizer.encode_pair("he", "he")[0] == [0, 261, 2, 2, 261, 2]


def test_options_of_byte_level_files(tmp_path):
    config = {"add_prefix_space": True, "add_bos_token": True, "eos_token": "<end>"}
    config["added_tokens_decoder"] = {"259": {"content": "<end>", "special": True}}
    tokenizer = load(byte_level(tmp_path, "<|endoftext|>", tokenizer_config_json=config), "python")
    assert names(tokenizer, "he", add_special_tokens=True) == ["<|endoftext|>", "Ġhe"]
    assert tokenizer.eos_id == 259


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ["ab", "##c", "e", "a", "中"]),
        ({"do_lower_case": False}, ["ab", "##c", "é", "A", "中"]),
        ({"do_lower_case": False, "strip_accents": True}, ["ab", "##c", "e", "A", "中"]),
        ({"strip_accents": False}, ["ab", "##c", "é", "a", "中"]),
        ({"tokenize_chinese_chars": False}, ["ab", "##c", "e", "[UNK]"]),
    ],
)
def test_berts_file(tmp_path, config, expected):
    word_piece(tmp_path, tokenizer_class="BertTokenizer", **config)
    tokenizer = load(tmp_path / "vocab.txt", "python")
    text = "abc é A中"
    assert names(tokenizer, text) == expected
    around = names(tokenizer, "e", add_special_tokens=True)
    assert around == ["[CLS]", "e", "[SEP]"]
    assert tokenizer.role_ids == {"unk": 1, "sep": 3, "pad": 0, "cls": 2, "mask": 4}


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        ({"tokenizer_class": "MPNetTokenizer"}, 'tokenizer_class "MPNetTokenizer" without'),
        ({"do_lower_case": 1}, "tokenizer_config.json.do_lower_case 1 is not supported"),
        ({"strip_accents": "no"}, "strip_accents of tokenizer_config.json is"),
        ({"never_split": ["a"]}, "never_split of tokenizer_config.json is not supported"),
        ({"do_basic_tokenize": False}, "do_basic_tokenize false of"),
        ({"sep_token": "<sep>"}, "the sep token '<sep>' is not in the vocabulary"),
        ({"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder has "),
    ],
)
def test_what_is_refused(tmp_path, config, fact):
    with pytest.raises(ValueError, match=rf"^load: .*vocab\.txt: {fact}") as caught:
        load(word_piece(tmp_path, **config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "fact"),
    [
        ("merges.txt", b"a b c\n", "merges: line 1 is 'a b c', two tokens are needed"),
        ("merges.txt", b"\xff\n", "merges.txt is not UTF-8"),
        ("merges.txt", None, "merges.txt is missing, it is needed beside vocab.json"),
        ("vocab.json", b'{"a": "b"}', "vocab.json has ids that are no integers"),
        ("vocab.json", b"[]", "an object is needed"),
        ("tokenizer_config.json", b'{"tokenizer_class": "Qwen2Tokenizer"}', "tokenizer_class"),
    ],
)
def test_damaged_files(tmp_path, file, content, fact):
    byte_level(tmp_path, "<|endoftext|>")
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=fact):
        load(tmp_path / "vocab.json")


def test_a_word_that_occurs_twice(tmp_path):
    with pytest.raises(ValueError, match=r"vocab.txt: token 'a' occurs twice"):
        load(write(tmp_path, vocab_txt="a\nb\na\n"))


@pytest.mark.parametrize("name", ["bert-bge", "gpt-2"])
def test_ids_on_frozen_vectors(shared_data, tmp_path, name):
    texts, ids = vectors(shared_data, name)
    copy = {"bert-bge": copy_of_bert, "gpt-2": copy_of_gpt2}[name]
    tokenizer = load(copy(shared_data, tmp_path))
    assert [tokenizer.encode(text) for text in texts] == ids
    assert tokenizer.vocab_size == {"bert-bge": 30522, "gpt-2": 50257}[name]
