"""What holds for tokenizers of every kind: round trip, cutting, streaming, and what is refused."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.tokenizers import ByteTokenizer, CharTokenizer, id_dtype, train

SAMPLE = (
    "the cat sat on the mat, don't they? they're 12 cats\n\n  and a naïve 猫 🙂 said “hä”\r\n" * 4
)

TOKENIZERS = {
    "byte": train("byte", []),
    "char": train("char", [SAMPLE], byte_fallback=True),
    "bpe": train("bpe", [SAMPLE], vocab_size=340),
}

NASTY = [
    "", " ?", " !", "hello !", "x . . . y , z", "the 'thing", "  two  spaces ", "\n\n\t",
    "a\r\nb\rc", "\n", "\x00\x00a\x00", "this is 🦙.cpp", "Führer", "\u00e9", "e\u0301",
    "１２３ ٣ 12345", "don't DON'T don’t", "\u200d👩\u200d👩\u200d👧", "\u200b\ufeffx", "السلام",
    "日本語、です", "a\u00a0b", "see <|endoftext|> here", "'re 'r 'x 's't", "\x1c\x85\u2028\u3000.",
    "\U0010ffff\ufffd\uffff", "👨‍👩‍👧‍👦🏽🇫🇷",
]  # fmt: skip

each_kind = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())
texts = st.text(
    st.one_of(st.sampled_from("ab 's'trevl\n\t1é日🙂\u00a0"), st.characters(codec="utf-8"))
)


@each_kind
@pytest.mark.parametrize("text", NASTY)
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@each_kind
@given(text=texts, more=texts)
@settings(max_examples=150)
def test_laws_of_text(tokenizer, text, more):
    ids = tokenizer.encode(text + more)
    assert tokenizer.decode(ids) == text + more
    assert tokenizer.encode_array(text + more).tolist() == ids
    k = tokenizer.cut(text)
    assert 0 <= k <= len(text)
    assert tokenizer.encode(text[:k]) + tokenizer.encode(text[k:] + more) == ids
    assert sum(tokenizer.byte_lengths()[ids]) == len((text + more).encode("utf-8"))


@each_kind
@given(data=st.data())
@settings(max_examples=100)
def test_streamed_text_is_decoded_text(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    for skip in (True, False):
        stream = tokenizer.stream(skip_special_tokens=skip)
        pushed = [stream.push(id) for id in ids]
        assert "".join(pushed) + stream.flush() == tokenizer.decode(ids, skip_special_tokens=skip)


def test_stream_gives_whole_characters():
    pieces = [b"hi ", b"\xf0\x9f", b"\x99\x82", b"!", b"\x80", b"a\xf0\x9f"]
    stream = ByteTokenizer().stream()
    shown = ["".join(map(stream.push, piece)) for piece in pieces]
    assert shown == ["hi ", "", "🙂", "!", "\ufffd", "a"]
    assert stream.flush() == "\ufffd"
    assert stream.push(ord("b")) + stream.flush() == "b"


@each_kind
def test_control_tokens_are_never_made_from_text(tokenizer):
    assert tokenizer.special_tokens == {"<|endoftext|>": tokenizer.vocab_size - 1}
    assert tokenizer.eos_id == tokenizer.vocab_size - 1
    text = "see <|endoftext|> here<|endoftext|>"
    ids = tokenizer.encode(text)
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode([*ids, tokenizer.eos_id]) == text
    assert tokenizer.decode([*ids, tokenizer.eos_id], skip_special_tokens=False) == (
        text + "<|endoftext|>"
    )
    assert tokenizer.token_bytes(tokenizer.eos_id) == b""
    assert tokenizer.id_to_token(tokenizer.eos_id) == "<|endoftext|>"


@each_kind
def test_names_bytes_and_lengths_agree(tokenizer):
    lengths = tokenizer.byte_lengths()
    assert lengths.shape == (tokenizer.vocab_size,)
    for id in range(tokenizer.vocab_size):
        assert tokenizer.token_to_id(tokenizer.id_to_token(id)) == id
        assert len(tokenizer.token_bytes(id)) == lengths[id]
    assert tokenizer.token_to_id("no such token") is None


@each_kind
def test_what_is_no_text_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"encode: lone surrogate U\+D83D at position 2"):
        tokenizer.encode("é \ud83d x")
    with pytest.raises(TypeError, match="encode: text is bytes, str is needed"):
        tokenizer.encode_array(b"abc")


@each_kind
def test_ids_outside_the_vocabulary_are_refused(tokenizer):
    size = tokenizer.vocab_size
    for ask in (tokenizer.token_bytes, tokenizer.id_to_token, tokenizer.stream().push):
        for id in (-1, size):
            with pytest.raises(IndexError, match=f"id {id} is outside the vocabulary of {size}"):
                ask(id)
    with pytest.raises(IndexError, match=f"decode: id {size} is outside the vocabulary of {size}"):
        tokenizer.decode(np.array([0, size]))
    with pytest.raises(TypeError, match=r"decode: .*integer"):
        tokenizer.decode([0.0])
    with pytest.raises(TypeError, match=r"decode: .*integer"):
        tokenizer.decode(np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match=r"decode: ids have shape \(1, 2\)"):
        tokenizer.decode(np.array([[0, 1]]))


@each_kind
def test_ids_have_the_smallest_type(tokenizer):
    assert tokenizer.encode_array(SAMPLE).dtype == np.uint16
    assert tokenizer.encode_array("").shape == (0,)
    assert all(type(id) is int for id in tokenizer.encode("abc"))


def test_id_type_by_vocabulary():
    assert id_dtype(65536) == np.uint16
    assert id_dtype(65537) == np.uint32
    assert np.iinfo(id_dtype(2**32)).max == 2**32 - 1
    with pytest.raises(ValueError, match="4294967297"):
        id_dtype(2**32 + 1)


def test_large_vocabulary_keeps_its_ids():
    characters = [chr(point) for point in range(0x20000, 0x20000 + 70_000)]
    tokenizer = CharTokenizer.from_characters(characters, special_tokens=())
    assert tokenizer.encode_array(characters[65_536]).tolist() == [65_536]
    assert tokenizer.encode_array(characters[69_999]).dtype == np.uint32


def test_bytes_are_their_own_ids():
    assert train("byte", []).encode("hé\n\x00") == [104, 0xC3, 0xA9, 10, 0]
    assert ByteTokenizer(special_tokens=()).vocab_size == 256
    assert ByteTokenizer(special_tokens=()).eos_id is None


def test_invalid_bytes_are_replaced_or_refused():
    tokenizer = ByteTokenizer()
    assert tokenizer.decode([0x61, 0xF0, 0x9F, 0x62]) == "a\ufffdb"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode([0x61, 0xFF], errors="strict")


def test_end_token_is_the_usual_one_or_the_only_one():
    assert ByteTokenizer(["<|im_end|>", "<|endoftext|>"]).eos_id == 257
    assert ByteTokenizer(["</s>"]).eos_id == 256
    assert ByteTokenizer(["<a>", "<b>"]).eos_id is None
    assert ByteTokenizer(["<a>", "<b>"], eos="<b>").eos_id == 257
    with pytest.raises(ValueError, match="'<c>' is none of the control tokens"):
        ByteTokenizer(["<a>", "<b>"], eos="<c>")


@pytest.mark.parametrize(
    ("special_tokens", "message"),
    [("<s>", "special_tokens is the str"), (["a", "a"], "distinct"), ([""], "non-empty"),
     (["\ud800"], "valid Unicode"), ([b"x"], "bytes"), (["a"], "'a' occurs twice")],
)  # fmt: skip
def test_impossible_control_tokens_are_refused(special_tokens, message):
    for kind, size in (("byte", None), ("char", None), ("bpe", 300)):
        with pytest.raises((ValueError, TypeError), match=message):
            train(kind, ["abab"], vocab_size=size, special_tokens=special_tokens)


def test_nothing_depends_on_the_hash_seed():
    program = (
        "from minillm.tokenizers import train\n"
        "text = 'low lower lowest new newer newest wide wider widest ' * 3\n"
        "print([train(k, [text], vocab_size=v).fingerprint for k, v in "
        "(('char', None), ('bpe', 300))])"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True, text=True, encoding="utf-8", check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(seen) == 1 and len(seen.pop()) > 130
