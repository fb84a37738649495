"""Whole tokenizers of tokenizer.json: two providers, one law; control tokens; cuts and streams."""

import json

import numpy as np
import pytest

import minillm.tokenizers.library
from minillm.tokenizers import PipelineTokenizer, from_document, load
from minillm.tokenizers.byte_alphabet import ALPHABET
from minillm.tokenizers.split_patterns import LLAMA3, isolated
from minillm.tokenizers.tokenizer_json import (
    added_token,
    bpe_model,
    byte_level,
    whole_document,
)
from minillm.tokenizers.word_piece import WordPiece
from unicode_texts import NASTY, random_texts

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def ids(tokens):
    return {token: id for id, token in enumerate(tokens)}


def word_piece():
    """BERT's, of a few words; all letters of the alphabet but q are pieces."""
    letters = "abcdefghijklmnoprstuvwxyzé中.,!$_[]'0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "un", "##aff", "##able", "don"]
    tokens += [*letters, *(f"##{letter}" for letter in letters), "mask", "pad"]
    around = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    return whole_document(
        [added_token(token, id, True) for id, token in enumerate(tokens[:5])],
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
         "strip_accents": None, "lowercase": True},
        {"type": "BertPreTokenizer"},
        around,
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
         "max_input_chars_per_word": 100, "vocab": ids(tokens)},
    )  # fmt: skip


def llama():
    """SentencePiece's BPE as Llama has it, with byte fallback."""
    merges = ["▁ t", "h e", "▁t he", "▁ ▁", "▁▁ ▁▁", "a b", "ab a", "< s"]
    made = [merge.replace(" ", "") for merge in merges]
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *"▁theabs<>/", *made]
    return whole_document(
        [added_token(token, id, True) for id, token in enumerate(tokens[:3])],
        {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        None,
        {"type": "TemplateProcessing", "special_tokens": {
            "<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
         "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                  {"Sequence": {"id": "B", "type_id": 1}}]},
        {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        bpe_model(ids(tokens), merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True),
    )  # fmt: skip


def llama_without_bytes():
    """The same without bytes, marked at the first word only, two unknown characters as one."""
    document = llama()
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    document |= {"normalizer": {"type": "NFKC"}, "pre_tokenizer": metaspace}
    document["model"] = document["model"] | {"byte_fallback": False}
    return document


def unigram(byte_fallback=False):
    """T5's, of a few pieces; control tokens have the best score, as in T5's own file."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0)]
    pieces += [(letter, -3.5 - at / 8) for at, letter in enumerate("theab</s>p中é")][:-1]
    pieces = [*dict(pieces).items(), ("ab", -4.0), ("aba", -5.5), ("ba", -4.25), ("</", -4.5)]
    pieces += [(token, -20.0) for token in BYTES] if byte_fallback else []
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return whole_document(
        [added_token(token, id, True) for id, token in enumerate(["<pad>", "</s>", "<unk>"])],
        {"type": "NFKC"},
        metaspace,
        None,
        metaspace,
        {"type": "Unigram", "unk_id": 2, "vocab": list(map(list, pieces)),
         "byte_fallback": byte_fallback},
    )  # fmt: skip


def byte_bpe():
    """Llama 3's: bytes, its pattern, whole tokens first; one token of the user's own."""
    merges = ["Ġ t", "h e", "Ġt he", "1 2", "12 3", "e r", "' S"]
    made = [merge.replace(" ", "") for merge in merges]
    tokens = ["<|end|>", *ALPHABET, *made, "hear", "<think>", "a b"]
    added = [added_token("<|end|>", 0, True)]
    added += [added_token(token, tokens.index(token), False) for token in ("<think>", "a b")]
    return whole_document(
        added,
        {"type": "NFC"},
        {"type": "Sequence", "pretokenizers": [isolated(LLAMA3), byte_level(False)]},
        None,
        byte_level(True),
        bpe_model(ids(tokens[:-2]), merges, ignore_merges=True),
    )


DOCUMENTS = {
    "wordpiece": word_piece(), "llama": llama(), "no bytes": llama_without_bytes(),
    "unigram": unigram(), "unigram and bytes": unigram(True), "byte bpe": byte_bpe(),
}  # fmt: skip
each = pytest.mark.parametrize("name", DOCUMENTS)
TEXTS = [*NASTY, "the then hear unaffable theta 123 aba </s> <think> a b", *random_texts(300, 1)]


def pure(name):
    return from_document(DOCUMENTS[name], backend="python")


@pytest.fixture(scope="module")
def library():
    """The same tokenizers encoding with the library."""
    pytest.importorskip("tokenizers")
    return {name: from_document(spec, backend="tokenizers") for name, spec in DOCUMENTS.items()}


@each
def test_both_providers_give_the_same_ids(library, name):
    ours, theirs = pure(name), library[name]
    assert (ours.backend, theirs.backend) == ("python", "tokenizers")
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
        for flags in ({"add_special_tokens": True}, {"split_special_tokens": False}):
            assert ours.encode(text, **flags) == theirs.encode(text, **flags), text
    assert ours.fingerprint == theirs.fingerprint


@each
def test_ids_are_those_of_the_library_itself(library, name):
    """Where no control token can arise from the text."""
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_str(json.dumps(DOCUMENTS[name]))
    theirs.encode_special_tokens = True
    for text in TEXTS:
        if not any(part in text for part in ("s>", "pad>", "unk>", "[", "<|")):
            assert pure(name).encode(text) == theirs.encode(text, add_special_tokens=False).ids
            assert pure(name).encode(text, True) == theirs.encode(text).ids
    some = pure(name).encode("the abé 中 12")
    for skip in (True, False):
        given = [*list(pure(name).special_tokens.values())[:1], *some]
        ours = pure(name).decode(given, skip_special_tokens=skip)
        assert ours == theirs.decode(given, skip_special_tokens=skip)


@each
@pytest.mark.parametrize("backend", ["python", "tokenizers"])
def test_text_never_makes_a_control_token(library, name, backend):
    tokenizer = library[name] if backend == "tokenizers" else pure(name)
    unknown = tokenizer.role_ids.get("unk", {"wordpiece": 1, "unigram": 2}.get(tokenizer.kind, 0))
    specials = {*tokenizer.special_tokens.values()} - {unknown}
    for token in tokenizer.special_tokens:
        for text in (
            token,
            f"the {token} {token}{token}",
            token.replace("<", "＜"),
            f"\ufdd0{token}",
        ):
            assert specials.isdisjoint(tokenizer.encode(text))
            assert specials.isdisjoint(tokenizer.encode("\ufdd0" + text + "\ufdd01 \ufdd02"))
        found = tokenizer.encode(f"the {token}the", split_special_tokens=False)
        assert tokenizer.special_tokens[token] in found


def test_word_piece_by_hand():
    """Trap B10: accents, ideographs, long words and words with a rest that is no piece."""
    tokenizer = pure("wordpiece")

    def names(text):
        return [tokenizer.id_to_token(id) for id in tokenizer.encode(text)]

    assert names("unaffable") == ["un", "##aff", "##able"]
    assert names("UNAFFÁBLE") == ["un", "##aff", "##able"]
    assert names("the中the") == ["the", "中", "the"]
    assert names("x" * 100) == ["x"] + ["##x"] * 99
    assert names("x" * 101) == names("theq") == names("的") == ["[UNK]"]
    assert names("don't") == ["don", "'", "t"]
    assert names("[MASK] the") == ["[", "mask", "]", "the"]
    assert tokenizer.encode("[MASK] the", split_special_tokens=False) == [4, 5]
    assert tokenizer.encode("", add_special_tokens=True) == [2, 3]
    assert tokenizer.decode(tokenizer.encode("Don't the un .", True)) == "don ' t the un."


def test_other_kinds_by_hand():
    llama, t5, bpe = pure("llama"), pure("unigram"), pure("byte bpe")
    assert [llama.id_to_token(id) for id in llama.encode("the    é")] == [
        "▁the", "▁▁▁▁", "<0xC3>", "<0xA9>"]  # fmt: skip
    assert llama.encode("", add_special_tokens=True) == [1]
    assert [t5.id_to_token(id) for id in t5.encode("the ☃☃aba")] == ["▁the", "▁", "<unk>", "aba"]
    assert [bpe.id_to_token(id) for id in bpe.encode("hear the heard'S 1234")] == [
        "hear", "Ġthe", "Ġ", "he", "a", "r", "d", "'S", "Ġ", "123", "4"]  # fmt: skip
    assert bpe.encode("e\u0301") == bpe.encode("é")
    assert [bpe.id_to_token(id) for id in bpe.encode("x<think>a b")] == ["x", "<think>", "a b"]
    assert bpe.token_of(bpe.encode("x the")[1]) == " the"
    assert bpe.token_of(bpe.encode("é")[0]) == "\\xc3" and bpe.token_of(0) == "<|end|>"


@each
def test_cuts_change_no_id(name):
    tokenizer = pure(name)
    for text in TEXTS:
        k = tokenizer.cut(text)
        assert 0 <= k <= len(text)
        for more in ("", " the", "the\u0301", "\n"):
            whole = tokenizer.encode(text + more)
            assert tokenizer.encode(text[:k]) + tokenizer.encode(text[k:] + more) == whole
    if name in ("wordpiece", "unigram"):
        assert tokenizer.cut("the cat sat on the") == len("the cat sat on")


@each
def test_long_texts_are_cut_and_joined(name, monkeypatch):
    monkeypatch.setattr("minillm.tokenizers.pipeline._STRETCH", 40)
    text = "the cat, don't aba  </s> <think>\n12 " * 50 + "é" * 100 + " the"
    assert pure(name).encode(text) == pure(name).encode_array(text).tolist()
    monkeypatch.undo()
    assert pure(name).encode(text) == from_document(DOCUMENTS[name], backend="python").encode(text)


@each
def test_streams_give_the_decoded_text(name):
    tokenizer = pure(name)
    draw = np.random.default_rng(0)
    for size in (0, 1, 2, 5, 30):
        for ids in draw.integers(0, tokenizer.vocab_size, (20, size)):
            for skip in (True, False):
                stream = tokenizer.stream(skip_special_tokens=skip)
                text = "".join(stream.push(int(id)) for id in ids) + stream.flush()
                assert text == tokenizer.decode(ids, skip_special_tokens=skip)


@each
def test_saved_and_opened_is_the_same(name, tmp_path):
    tokenizer = pure(name)
    tokenizer.chat_template = "{{ messages[0]['content'] }} é"
    tokenizer.save(tmp_path)
    again = load(tmp_path, "python")
    assert isinstance(again, PipelineTokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    assert again.chat_template == tokenizer.chat_template
    assert again.special_tokens == tokenizer.special_tokens
    assert [again.encode(text, True) for text in NASTY] == [
        tokenizer.encode(text, True) for text in NASTY
    ]


def test_padding_and_truncation_of_a_file_do_not_act(library):
    spec = DOCUMENTS["wordpiece"] | {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst",
                       "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
    }  # fmt: skip
    for backend in ("python", "tokenizers"):
        tokenizer = from_document(spec, backend=backend)
        assert tokenizer.encode("the the the") == [5, 5, 5]
        assert tokenizer.encode("the the the", True) == [2, 5, 5, 5, 3]
        assert tokenizer.to_dict()["padding"] is None is tokenizer.to_dict()["truncation"]


@pytest.mark.parametrize(
    ("flags", "text", "expected"),
    [
        ({}, "the abthe", [5, "ab", 5]),
        ({"lstrip": True}, "the  abthe", [5, "ab", 5]),
        ({"rstrip": True}, "the ab  the", [5, "ab", 5]),
        ({"single_word": True}, "theab ab abé ab", "the a ##b"),
        ({"normalized": True}, "the AB", [5, "ab"]),
    ],
)
def test_added_tokens_with_flags(library, flags, text, expected):
    spec = json.loads(json.dumps(DOCUMENTS["wordpiece"]))
    count = len(spec["model"]["vocab"])
    spec["added_tokens"].append(added_token("ab", count, False) | flags)
    ours = from_document(spec, backend="python")
    theirs = from_document(spec, backend="tokenizers")
    for one in [text, *TEXTS, "ab", "ab ab", "xab", "ab.", "éab", "  ab\n\tab x"]:
        assert ours.encode(one) == theirs.encode(one)
    if isinstance(expected, list):
        assert ours.encode(text) == [count if id == "ab" else id for id in expected]
    else:
        assert count in ours.encode("ab x ab") and count not in ours.encode("xab abx")


class TestBackend:
    def test_argument_and_environment(self, monkeypatch):
        document = DOCUMENTS["wordpiece"]
        monkeypatch.setenv("MINILLM_TOKENIZERS", "python")
        assert from_document(document).backend == "python"
        monkeypatch.setenv("MINILLM_TOKENIZERS", "other")
        with pytest.raises(ValueError, match="tokenizer backend 'other', one of auto, python"):
            from_document(document)
        assert from_document(document, backend="python").backend == "python"

    def test_what_python_does_not_do_is_left_to_the_library(self, library):
        document = DOCUMENTS["byte bpe"] | {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [isolated(r"\p{Han}+|\w+"), byte_level(False)],
            }
        }
        with pytest.raises(ValueError, match="is not supported without the library"):
            from_document(document, backend="python")
        tokenizer = from_document(document)
        assert tokenizer.backend == "tokenizers"
        assert tokenizer.decode(tokenizer.encode("中文 the")) == "中文 the"
        assert 0 not in tokenizer.encode("<|end|>")

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setattr(minillm.tokenizers.library, "is_installed", lambda: False)
        monkeypatch.setattr("minillm.tokenizers.loading.is_installed", lambda: False)
        assert from_document(DOCUMENTS["unigram"]).backend == "python"
        with pytest.raises(RuntimeError, match="not installed, it is needed; install the extra hf"):
            from_document(DOCUMENTS["unigram"], backend="tokenizers")
        document = DOCUMENTS["unigram"] | {"normalizer": {"type": "Nmt"}}
        with pytest.raises(
            ValueError, match=r'"Nmt" is not supported without the library; install'
        ):
            from_document(document)

    def test_what_the_library_refuses_is_one_line(self, library):
        document = DOCUMENTS["unigram"] | {"normalizer": {"type": "Nonsense"}}
        with pytest.raises(ValueError, match="the tokenizers library refuses it: ") as caught:
            from_document(document, backend="tokenizers")
        assert "\n" not in str(caught.value)


class Counting(dict):
    asked = 0

    def __contains__(self, key):
        self.asked += 1
        return super().__contains__(key)


def test_word_piece_work_is_bounded():
    pieces = Counting(ids(["[UNK]", "a", "##a", "##aa"]))
    model = WordPiece(pieces, 0)
    list(model.lists("a" * 100))
    assert pieces.asked < 500
    assert list(model.lists("a" * 1_000_000)) == [[0]]
    assert pieces.asked < 500


@each
def test_endless_letters_take_work_in_proportion(name, monkeypatch):
    """Steps of the merge loop and of Viterbi's for a text and for one twice as long."""
    asked = []
    for length in (20_000, 40_000):
        tokenizer = pure(name)
        engine = tokenizer._reference._engine.lists.__self__ if name != "byte bpe" else None
        table = getattr(engine, "_table", getattr(engine, "_known", None))
        counting = Asked(table or {})
        for attribute in ("_table", "_known"):
            if hasattr(engine, attribute):
                setattr(engine, attribute, counting)
        ids = tokenizer.encode("a" * length)
        assert len(ids) <= length + 1
        asked.append(counting.asked)
    assert asked[1] <= 2.2 * asked[0] <= 2.2 * 20_000 * 12


class Asked(dict):
    asked = 0

    def get(self, key, default=None):
        self.asked += 1
        return super().get(key, default)
