"""Vocabularies of GGUF files: the kinds that are opened, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.formats.gguf_strings import Strings
from minillm.tokenizers import BPETokenizer, from_gguf, packed_vocabulary
from minillm.tokenizers.byte_alphabet import ALPHABET
from minillm.tokenizers.packed_vocabulary import PackedVocabulary
from minillm.tokenizers.resolved_merges import ResolvedMerges, resolved
from minillm.tokenizers.split_patterns import STEPS_BY_NAME
from vectors import vectors

CONTROL, USER_DEFINED, NORMAL, UNKNOWN = 3, 4, 1, 2
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "12 3", "Ã ©", "e Ì", "eÌ ģ", "' S"]
NAMES = [*ALPHABET, *(merge.replace(" ", "") for merge in MERGES)]


def gpt2(pre="gpt-2", **more):
    """Metadata of a small byte-level vocabulary; two control tokens and another stand first."""
    tokens = ["<s>", "</s>", "<think>", *NAMES]
    types = [CONTROL, CONTROL, USER_DEFINED] + [NORMAL] * len(NAMES)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    } | {f"tokenizer.{key}": value for key, value in more.items()}


def names(tokenizer, text):
    return [tokenizer.id_to_token(id) for id in tokenizer.encode(text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "hello123", ["hello", "123"]),
        ("smollm", "hello123", ["hello", "1", "2", "3"]),
        ("starcoder", "hello123", ["hello", "1", "2", "3"]),
        ("qwen2", "hello123", ["hello", "1", "2", "3"]),
        ("llama-bpe", "hello1234", ["hello", "123", "4"]),
        ("default", "hello1234", ["hello", "123", "4"]),
        ("falcon", "hello1234", ["hello", "123", "4"]),
        ("gpt-2", "e\u0301", ["e", "Ì", "ģ"]),
        ("qwen2", "e\u0301", ["Ã©"]),
        ("llama-bpe", "hello'S", ["hello", "'S"]),
        ("gpt-2", "hello'S", ["hello", "'", "S"]),
    ],
)
def test_each_name_splits_in_its_way(pre, text, expected):
    tokenizer = from_gguf(gpt2(pre), "python")
    assert names(tokenizer, text) == expected
    assert tokenizer.kind == "bpe" and tokenizer.vocab_size == 3 + len(NAMES)


def test_control_tokens_and_users_tokens():
    tokenizer = from_gguf(gpt2(), "python")
    assert tokenizer.special_tokens == {"<s>": 0, "</s>": 1}
    assert (tokenizer.eos_id, tokenizer.role_ids) == (1, {"bos": 0, "eos": 1})
    assert names(tokenizer, "<s>hello<think>") == ["<", "s", ">", "hello", "<think>"]
    assert tokenizer.encode("<s>hello<think>", split_special_tokens=False)[0] == 0
    assert tokenizer.decode(tokenizer.encode("<s>hello<think>")) == "<s>hello<think>"
    assert tokenizer.decode([0, *tokenizer.encode("é")], skip_special_tokens=False) == "<s>é"


@pytest.mark.parametrize(
    ("metadata", "ids"),
    [
        (gpt2(), []),
        (gpt2("llama-bpe"), [0]),
        (gpt2("llama-bpe", **{"ggml.add_bos_token": False}), []),
        (gpt2(**{"ggml.add_bos_token": True, "ggml.add_eos_token": True}), [0, 1]),
    ],
)
def test_what_stands_around_a_text(metadata, ids):
    tokenizer = from_gguf(metadata, "python")
    assert tokenizer.encode("", add_special_tokens=True) == ids
    hello = tokenizer.encode("hello")
    assert tokenizer.encode("hello", add_special_tokens=True) == ids[:1] + hello + ids[1:]


def test_llama_3_takes_a_token_for_what_is_one():
    metadata = gpt2("llama-bpe")
    metadata["tokenizer.ggml.tokens"] += ["helloo", "Ġhello"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 1, 1]
    assert names(from_gguf(metadata, "python"), "helloo hello") == ["helloo", "Ġhello"]
    metadata["tokenizer.ggml.pre"] = "smaug-bpe"
    assert names(from_gguf(metadata, "python"), "helloo") == ["hello", "o"]


def test_bytes_that_have_no_token_are_dropped():
    metadata = gpt2()
    tokens = metadata["tokenizer.ggml.tokens"]
    for byte in (0x04, 0xF1):
        tokens[tokens.index(ALPHABET[byte])] = f"unused {byte}"
    for backend in backends():
        tokenizer = from_gguf(metadata, backend)
        assert names(tokenizer, "hello\x04hell\x04") == ["hello", "hell"]
        assert names(tokenizer, "\U00040000") == names(tokenizer, "\U00040000")[-3:]


def backends():
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        return ["python"]
    return ["python", "tokenizers"]


def test_plain_vocabulary_is_what_minillm_trains():
    metadata = gpt2()
    metadata["tokenizer.ggml.token_type"][2] = CONTROL
    assert isinstance(from_gguf(metadata), BPETokenizer)


def test_chat_template_comes_along():
    assert from_gguf(gpt2(chat_template="{{ messages }}")).chat_template == "{{ messages }}"
    assert from_gguf(gpt2()).chat_template is None


def test_gpt2_ids_on_frozen_vectors(shared_data):
    lines = (shared_data / "tokenizers" / "gpt2.vocab.bpe").read_text(encoding="utf-8").split("\n")
    plain = BPETokenizer.from_merges(lines)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [plain.id_to_token(id) for id in range(plain.vocab_size)],
        "tokenizer.ggml.token_type": [NORMAL] * 50256 + [CONTROL],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in plain.merges],
    }
    texts, ids = vectors(shared_data, "gpt-2")
    assert [from_gguf(metadata).encode(text) for text in texts] == ids


@pytest.fixture
def bert(shared_data):
    """The vocabulary of BERT as GGUF has it: `▁` before what begins a word."""
    lines = (shared_data / "tokenizers" / "bert-uncased.vocab.txt").read_text(encoding="utf-8")
    tokens = [
        line if line.startswith("[") and line.endswith("]")
        else line[2:] if line.startswith("##") else f"▁{line}"
        for line in lines.rstrip("\n").split("\n")
    ]  # fmt: skip
    types = [CONTROL if token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]") else 1 for token in tokens]
    types[tokens.index("[UNK]")] = UNKNOWN
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
    }


@pytest.mark.parametrize("backend", backends())
def test_bert_ids_on_frozen_vectors(bert, shared_data, backend):
    tokenizer = from_gguf(bert, backend)
    texts, ids = vectors(shared_data, "bert-bge")
    assert [tokenizer.encode(text) for text in texts] == ids
    assert tokenizer.encode("hello", add_special_tokens=True) == [101, 7592, 102]
    assert tokenizer.encode_pair("hello", "world") == ([101, 7592, 102, 2088, 102], [0, 0, 0, 1, 1])
    assert tokenizer.role_ids == {"unk": 100, "cls": 101, "sep": 102, "mask": 103, "pad": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "from_gguf: tokenizer.ggml.model 'rwkv' is not sup"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model None is not supported"),
        ({"tokenizer.ggml.pre": "tekken"}, 'tokenizer.ggml.pre "tekken" is not supported'),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing or no list of strings"),
        ({"tokenizer.ggml.tokens": [b"a"]}, "tokenizer.ggml.tokens is missing or no list"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is missing"),
        ({"tokenizer.ggml.merges": ["h e", "he"]}, "merge 1 is 'he', two tokens are needed"),
        ({"tokenizer.ggml.merges": ["h l"]}, "merge 0 joins 'h' and 'l'"),
        ({"tokenizer.ggml.token_type": [1]}, "tokens and 1 types, as many are needed"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, "the eos token is 1000000, an id from 0 to"),
        ({"tokenizer.ggml.tokens": ["a"] * 2, "tokenizer.ggml.token_type": [1, 1]}, "occurs twice"),
        ({"tokenizer.chat_template": 5}, "tokenizer.chat_template is 5, a string is needed"),
        ({"tokenizer.ggml.pre": ["gpt-2"]}, "tokenizer.ggml.pre is a list, a string is needed"),
        ({"tokenizer.ggml.token_type": 5}, "token_type is 5, a list of nothing but numbers"),
        ({"tokenizer.ggml.token_type": [[1], [1, 1]]}, "a list of nothing but numbers is needed"),
        ({"tokenizer.ggml.token_type": [1.0]}, "token_type is a list, a list of nothing but num"),
        ({"tokenizer.ggml.bos_token_id": math.inf}, "bos_token_id is Infinity, an id is needed"),
        ({"tokenizer.ggml.bos_token_id": [1]}, "bos_token_id is a list, an id is needed"),
        ({"tokenizer.ggml.model": "t5", "tokenizer.ggml.scores": 1.5}, "scores is 1.5, a list of"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_unknown_is_named(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_gguf(gpt2() | change, "python")
    assert "\n" not in str(caught.value)


def test_a_usual_id_that_no_token_has_is_named():
    ids = {f"tokenizer.ggml.{role}_token_id": 0 for role in ("unknown", "seperator", "padding")}
    words = {"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": [*"abcd"]}
    with pytest.raises(ValueError, match="the cls token is 101, an id from 0 to 3 is needed"):
        from_gguf(words | ids | {"tokenizer.ggml.mask_token_id": 1})


def packed(strings):
    return Strings("".join("\0" + string for string in strings).encode())


def as_read(metadata):
    """The metadata with its strings as a file gives them."""
    return {
        key: packed(value) if isinstance(value, list) and all(map(str, value)) else value
        for key, value in metadata.items()
    }


def outcome(metadata):
    try:
        tokenizer = from_gguf(metadata, "python")
    except ValueError as error:
        return str(error)
    texts = ["hello hell 123 é", "he llo wworld", "'S \x04"]
    return tokenizer.to_dict(), [tokenizer.encode(text) for text in texts], tokenizer.fingerprint


TOKENS = gpt2()["tokenizer.ggml.tokens"]
PART = st.sampled_from([*TOKENS[-20:], "h", "e", "l", "q", "hé", "", " "])
MERGE = st.sampled_from(MERGES) | st.tuples(PART, PART).map(" ".join) | PART


@pytest.mark.parametrize("factor", [packed_vocabulary.FACTOR, 1])  # with 1 all anagrams are alike
@given(st.lists(MERGE.filter(bool), min_size=1, max_size=12), st.sampled_from(["gpt-2", "smollm"]))
def test_strings_as_they_lie_give_what_lists_give(factor, merges, pre):
    metadata = gpt2(pre, **{"ggml.merges": merges})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_vocabulary, "FACTOR", factor)
        assert outcome(as_read(metadata)) == outcome(metadata)


@given(st.lists(st.text("abé", min_size=1, max_size=4), min_size=3, unique=True), st.data())
def test_merges_are_resolved_exactly_where_they_fit(tokens, data):
    pairs = [(a, b) for a in tokens for b in tokens if a + b in tokens]
    some = st.lists(st.sampled_from(pairs), unique=True) if pairs else st.just([])
    merges = data.draw(some) or [(tokens[0], tokens[1])]
    ids, joined = {token: id for id, token in enumerate(tokens)}, [f"{a} {b}" for a, b in merges]
    found = resolved(packed(tokens), packed(joined))
    if not set(merges) <= set(pairs):
        assert found is None
        return
    vocabulary, found = found
    assert dict(vocabulary) == vocabulary.as_dict() == ids
    assert vocabulary.longest == max(map(len, tokens))
    assert "z" not in vocabulary and "\ud800" not in vocabulary and "" not in vocabulary
    assert list(found) == joined and found[-1] == joined[-1]
    right = {(ids[a], ids[b]): (rank, ids[a + b]) for rank, (a, b) in enumerate(merges)}
    for left in range(len(tokens)):
        for after in range(len(tokens)):
            assert found.entry(left, after) == right.get((left, after))
    assert resolved(packed(tokens), packed([*joined, joined[0]])) is None


def test_control_tokens_are_never_made_by_merges():
    metadata = gpt2("smollm")
    metadata["tokenizer.ggml.token_type"][metadata["tokenizer.ggml.tokens"].index("hell")] = CONTROL
    (document, ids, _), expected = outcome(as_read(metadata)), outcome(metadata)
    assert (document, ids) == expected[:2]
    assert names(from_gguf(as_read(metadata), "python"), "hello") == ["he", "ll", "o"]


def test_the_vocabulary_of_a_file_stays_as_it_lies():
    tokenizer = from_gguf(as_read(gpt2("smollm")), "python")
    model = tokenizer._document["model"]
    assert isinstance(model["merges"], ResolvedMerges)
    assert isinstance(model["vocab"], PackedVocabulary) and tokenizer._ids is model["vocab"]
    assert tokenizer.to_dict()["model"]["merges"] == MERGES
    assert tokenizer.to_dict()["model"]["vocab"] == {token: id for id, token in enumerate(TOKENS)}


def test_every_name_opens():
    for name in STEPS_BY_NAME:
        tokenizer = from_gguf(gpt2(name), "python")
        assert tokenizer.decode(tokenizer.encode("hello, world 123 é")) == "hello, world 123 é"
