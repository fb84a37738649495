"""tokenizer.json: saved, opened again, opened by Hugging Face, foreign, damaged, hostile."""

import hashlib
import json

import pytest
from hypothesis import given, settings

from minillm.tokenizers import BPETokenizer, ByteTokenizer, load, train
from test_tokenizers import NASTY, SAMPLE, TOKENIZERS, texts

ALL = {
    **TOKENIZERS,
    "characters only": train("char", [SAMPLE, *NASTY], special_tokens=()),
    "rare characters": train("char", [SAMPLE, *NASTY], vocab_size=270),
    "merges in conflict": BPETokenizer.from_merges(["b c", "a b", "a bc", "ab ab", "c a"]),
    "two control tokens": train("bpe", [SAMPLE], vocab_size=300, special_tokens=["<a>", "<b>"]),
}
each = pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL.keys())


@each
def test_saved_and_opened_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "model")
    for path in (tmp_path / "new" / "model", tmp_path / "new" / "model" / "tokenizer.json"):
        again = load(path)
        assert type(again) is type(tokenizer) and again.kind == tokenizer.kind
        assert again.fingerprint == tokenizer.fingerprint
        assert again.special_tokens == tokenizer.special_tokens
        assert again.eos_id == tokenizer.eos_id
        for text in (SAMPLE, "abcababcca" if tokenizer.kind == "bpe" else ""):
            assert again.encode(text) == tokenizer.encode(text)
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_fingerprint_is_that_of_the_file(tmp_path):
    TOKENIZERS["bpe"].save(tmp_path)
    content = (tmp_path / "tokenizer.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == TOKENIZERS["bpe"].fingerprint
    assert len({tokenizer.fingerprint for tokenizer in ALL.values()}) == len(ALL)


def test_byte_tokenizer_is_frozen():
    assert ByteTokenizer().fingerprint == (
        "e1a070a266fefc946b1b6dcef3fc9365e0639a456f959d6c64346d534cf93160"
    )


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The tokenizers above as Hugging Face opens them, with control tokens in text left alone."""
    tokenizers = pytest.importorskip("tokenizers")
    foreign = {}
    for name, tokenizer in ALL.items():
        folder = tmp_path_factory.mktemp("tokenizer")
        tokenizer.save(folder)
        foreign[name] = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        foreign[name].encode_special_tokens = True
    return foreign


@pytest.mark.parametrize("name", ALL)
def test_hugging_face_agrees_on_nasty_text(name, opened):
    for text in [*NASTY, SAMPLE, "abcababcca", "a" * 3000, "ab" * 2000, SAMPLE[::-1]]:
        assert opened[name].encode(text).ids == ALL[name].encode(text)
        assert opened[name].decode(ALL[name].encode(text)) == text


@pytest.mark.parametrize("name", ["bpe", "byte", "char"])
@given(text=texts)
@settings(max_examples=150)
def test_hugging_face_agrees_on_any_text(name, opened, text):
    ids = ALL[name].encode(text)
    assert opened[name].encode(text).ids == ids
    assert opened[name].decode(ids) == text


@pytest.mark.parametrize("name", ALL)
def test_hugging_face_agrees_on_control_tokens(name, opened):
    ours, theirs = ALL[name], opened[name]
    assert theirs.get_vocab_size() == ours.vocab_size
    ids = [*ours.encode("the cat"), *ours.special_tokens.values(), *ours.encode(" sat")]
    for skip in (True, False):
        assert theirs.decode(ids, skip_special_tokens=skip) == ours.decode(
            ids, skip_special_tokens=skip
        )
    assert [theirs.id_to_token(id) for id in ids] == [ours.id_to_token(id) for id in ids]


def test_hugging_face_finds_control_tokens_in_text_and_we_do_not(opened):
    opened["byte"].encode_special_tokens = False
    try:
        assert opened["byte"].encode("a<|endoftext|>").ids == [97, 256]
    finally:
        opened["byte"].encode_special_tokens = True
    assert ALL["byte"].encode("a<|endoftext|>") == list(b"a<|endoftext|>")


def test_tokenizer_that_hugging_face_trained_opens_here(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([SAMPLE], trainer)
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path)
    assert ours.special_tokens == {"<pad>": 0, "<|endoftext|>": 1} and ours.eos_id == 1
    for text in [*NASTY, SAMPLE]:
        theirs.encode_special_tokens = True
        assert ours.encode(text) == theirs.encode(text).ids
    ours.save(tmp_path / "again")
    assert load(tmp_path / "again").fingerprint == ours.fingerprint


def written(tmp_path, change=None, config=None):
    """The folder of a small BPE tokenizer whose tokenizer.json `change` has altered."""
    tokenizer = BPETokenizer.from_merges(["h e", "l l", "he ll"])
    tokenizer.save(tmp_path)
    spec = tokenizer.to_dict()
    if change is not None:
        change(spec)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def test_older_and_newer_layout_are_the_same(tmp_path):
    def older(spec):
        del (
            spec["model"]["type"],
            spec["pre_tokenizer"]["use_regex"],
            spec["model"]["ignore_merges"],
        )
        spec["model"] |= {"unk_token": "", "continuing_subword_prefix": ""}
        spec["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True}
        spec["added_tokens"][0]["normalized"] = True
        del spec["model"]["vocab"]["<|endoftext|>"]

    def newer(spec):
        spec["model"]["merges"] = [["h", "e"], ["l", "l"], ["he", "ll"]]

    plain = load(written(tmp_path / "plain")).fingerprint
    assert load(written(tmp_path / "older", older)).fingerprint == plain
    assert load(written(tmp_path / "newer", newer)).fingerprint == plain


def test_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path):
    TOKENIZERS["char"].save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert load(tmp_path).fingerprint == TOKENIZERS["char"].fingerprint


@pytest.mark.parametrize(
    ("config", "eos_id"),
    [
        ({}, 259),
        ({"eos_token": None}, 259),
        ({"eos_token": "<|endoftext|>"}, 259),
        ({"eos_token": {"content": "<|endoftext|>", "special": True}}, 259),
    ],
)
def test_end_token_of_the_config(tmp_path, config, eos_id):
    assert load(written(tmp_path, config=config)).eos_id == eos_id


def test_config_chooses_among_control_tokens(tmp_path):
    ByteTokenizer(["<a>", "<b>"], eos="<a>").save(tmp_path)
    assert load(tmp_path).eos_id == 256
    (tmp_path / "tokenizer_config.json").unlink()
    assert load(tmp_path).eos_id is None


@pytest.mark.parametrize(
    ("config", "message"),
    [({"eos_token": "</s>"}, "'</s>' is none of the control tokens"),
     ({"eos_token": 7}, "eos_token of tokenizer_config.json is 7"), ([], "an object is needed")],
)  # fmt: skip
def test_damaged_config_is_refused(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path, config=config))


def put(path, value):
    """A change that sets one place of the document, such as "model.type"."""

    def change(spec):
        *parents, last = path.split(".")
        for parent in parents:
            spec = spec[parent]
        spec[last] = value

    return change


SPECIAL = {"id": 259, "content": "<|endoftext|>", "special": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("model.type", "WordPiece"), "model.byte_fallback is not supported"),
        (put("model.type", "Unigram"), "model.vocab is {.* a list is needed"),
        (put("model.type", "WordLevel"), 'model.type "WordLevel" is not supported'),
        (put("version", "2.0"), 'version "2.0" is not supported'),
        (put("normalizer", {"type": "Nmt"}), 'normalizer.type "Nmt" is not supported without'),
        (put("normalizer", {"type": "Strip", "left": 1}), "normalizer.left is not supported"),
        (put("normalizer", {"type": "Lowercase", "x": 1}), "normalizer.x is not supported"),
        (put("normalizer", []), r"normalizer is \[\], an object is needed"),
        (put("pre_tokenizer", {"type": "Split"}), "pre_tokenizer.pattern {} is not supported"),
        (put("pre_tokenizer.type", "UnicodeScripts"), '"UnicodeScripts" is not supported without'),
        (put("pre_tokenizer.use_regex", 1), "pre_tokenizer.use_regex 1 is not supported"),
        (put("pre_tokenizer.surprise", 1), "pre_tokenizer.surprise is not supported"),
        (put("post_processor", {"type": "Other"}), 'post_processor.type "Other" is not supported'),
        (put("decoder", {"type": "CTC"}), 'decoder {"type": "CTC"} is not supported'),
        (put("decoder", []), r"decoder is \[\], an object is needed"),
        (put("decoder", None), None),
        (put("truncation", {"max_length": 2, "stride": 0}), None),
        (put("padding", {"strategy": {"Fixed": 9}}), None),
        (put("surprise", 1), "surprise is not supported"),
        (put("model.surprise", 1), "model.surprise is not supported"),
        (put("model.dropout", 0.1), "model.dropout 0.1 is not supported"),
        (put("model.end_of_word_suffix", "</w>"), '_suffix "</w>" is not supported without'),
        (put("model", None), "model is null, an object is needed"),
        (put("model.vocab", ["a"]), r'model.vocab is \["a"\], an object is needed'),
        (put("model.vocab.h", "7"), "ids that are not integers"),
        (put("model.vocab.h", True), "ids that are not integers"),
        (put("model.vocab.h", -1), "ids must be 0 to 259"),
        (put("model.vocab.h", 10**30), "ids must be 0 to 259"),
        (put("model.vocab.extra", 5), "ids must be 0 to 260"),
        (put("model.vocab", {"a": 0}), "ids must be"),
        (put("model.merges", "h e"), 'model.merges is "h e", a list is needed'),
        (put("model.merges", ["h e", "l"]), 'model.merges has "l" at 1, two tokens are needed'),
        (put("model.merges", [["h", 1]]), "model.merges has .* at 0"),
        (put("model.merges", ["h l"]), "merge 0 joins 'h' and 'l'"),
        (put("model.merges", ["h e", "h e"]), "merge 1 .* occurs twice"),
        (put("added_tokens", {}), "added_tokens is {}, a list is needed"),
        (put("added_tokens", [1]), "added token is 1, an object is needed"),
        (put("added_tokens", [SPECIAL | {"special": 1}]), "flags that are not true or false"),
        (put("added_tokens", [SPECIAL | {"id": 4}]), "has id 4, model.vocab says 259"),
        (put("added_tokens", [SPECIAL | {"id": -4}]), "has id -4, none is possible"),
        (put("added_tokens", [SPECIAL | {"content": ""}]), "non-empty valid Unicode"),
        (put("added_tokens", [SPECIAL | {"content": 5}]), "added token is 5, a string is needed"),
        (
            put("added_tokens", [SPECIAL | {"content": "\ud800", "id": 260}, SPECIAL]),
            "valid Unicode",
        ),
    ],
)
def test_foreign_and_damaged_parts_are_named(tmp_path, change, message):
    folder = written(tmp_path, change)
    if message is None:
        assert load(folder).encode("hell" * 3) == [258] * 3
        return
    with pytest.raises(ValueError, match=message) as caught:
        load(folder, "python")
    assert str(caught.value).startswith(f"load: {folder / 'tokenizer.json'}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not JSON"), (b"{", "not JSON"), (b'{"a": "\xff"}', "not JSON in UTF-8"),
     (b"[]", "tokenizer.json is \\[\\], an object is needed"), (b"[" * 100_000, "nested too deep"),
     (b'{"model": {"vocab": {"a": ' + b"9" * 5000 + b"}}}", "not JSON"), (b"{}", "model is null")],
)  # fmt: skip
def test_what_is_no_tokenizer_is_refused(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_huge_file_is_refused_unread(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(ValueError, match="has 8,589,934,592 bytes, at most 268,435,456 are"):
        load(tmp_path)


def test_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path)
