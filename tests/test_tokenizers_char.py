"""Characters as ids, and the bytes that stand in for characters without one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.tokenizers import CharTokenizer, train


def test_ids_are_the_order_of_code_points():
    tokenizer = train("char", ["banana\n", "é猫"], special_tokens=())
    assert tokenizer.characters == ["\n", "a", "b", "n", "é", "猫"]
    assert tokenizer.encode("a\nb猫é") == [1, 0, 2, 5, 4]
    assert tokenizer.vocab_size == 6 and tokenizer.eos_id is None


def test_shakespeare_has_65(shared_data):
    text = (shared_data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    tokenizer = train("char", [text], special_tokens=())
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode("hii there") == [46, 47, 47, 1, 58, 46, 43, 56, 43]
    assert train("char", [text]).vocab_size == 66
    assert tokenizer.decode(tokenizer.encode_array(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abd?", r"^unknown character 'd' \(U\+0064\) at position 2; "
                 r"vocabulary has 4: '\\n' a b c$"),
        ("\u2028", r"^unknown character '\\u2028' \(U\+2028\) at position 0; "),
        ("a" * 300_000 + "🙂", r"^unknown character '🙂' \(U\+1F642\) at position 300000; "),
    ],
)  # fmt: skip
def test_unknown_character_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        train("char", ["abc\n"]).encode(text)


def test_long_vocabularies_are_listed_in_short():
    tokenizer = train("char", ["".join(map(chr, range(33, 98)))])
    with pytest.raises(ValueError, match=r"has 65: ! \" # .* 4 \.\.\. and 45 more$"):
        tokenizer.encode("~")


def test_byte_fallback_spells_unknown_characters_in_utf8():
    tokenizer = train("char", ["abé"], byte_fallback=True)
    assert tokenizer.vocab_size == 3 + 256 + 1
    assert tokenizer.encode("aéb") == [0, 2, 1]
    assert [tokenizer.id_to_token(id) for id in tokenizer.encode("a🙂ñb\nc")] == [
        "a", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>", "<0xC3>", "<0xB1>", "b", "<0x0A>", "<0x63>",
    ]  # fmt: skip
    assert tokenizer.token_bytes(tokenizer.token_to_id("<0x0A>")) == b"\n"
    assert tokenizer.encode("<0x0A>") != [tokenizer.token_to_id("<0x0A>")]


@given(text=st.text(st.one_of(st.sampled_from("ab🙂é"), st.characters(codec="utf-8"))))
@settings(max_examples=150)
def test_byte_fallback_character_by_character(text):
    tokenizer = CharTokenizer.from_characters("a🙂", byte_fallback=True)
    expected = []
    for character in text:
        id = tokenizer.token_to_id(character)
        data = character.encode("utf-8")
        expected += (
            [id] if id is not None else [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in data]
        )
    assert tokenizer.encode(text) == expected


def test_rare_characters_give_way_to_bytes():
    text = "aaaa" + "bbb" + "cc" + "ddzz" + "x" * 400 + "".join(map(chr, range(0x4E00, 0x5000)))
    assert train("char", [text]).byte_fallback is False
    tokenizer = train("char", [text], vocab_size=261, special_tokens=())
    assert tokenizer.byte_fallback is True and tokenizer.vocab_size == 261
    assert tokenizer.characters == ["a", "b", "c", "d", "x"]
    assert train("char", [text], vocab_size=263).characters == ["a", "b", "c", "d", "x", "z"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_byte_fallback_is_taken_only_where_it_is_needed():
    distinct = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    assert train("char", [distinct], vocab_size=301).byte_fallback is False
    assert train("char", [distinct], vocab_size=300).byte_fallback is True
    assert train("char", [distinct], vocab_size=1000).vocab_size == 301
    assert train("char", [""], byte_fallback=True).vocab_size == 257


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("abc", {"vocab_size": 3}, "3 distinct characters and 1 control tokens in a vocabulary of "
                                   "3, 4 are needed, or 257 with byte fallback"),
        ("abc", {"vocab_size": 256, "byte_fallback": True}, "257 with byte fallback"),
        ("a" * 9 + "bc", {"vocab_size": 2, "byte_fallback": False}, "4 are needed"),
        ("", {}, "tokenizer: the text is empty"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be_are_refused(text, options, message):
    with pytest.raises(ValueError, match=message):
        train("char", [text], **options)


def test_control_tokens_may_look_like_byte_tokens():
    tokenizer = train("char", ["ab"], special_tokens=["<0x41>"])
    assert tokenizer.byte_fallback is False
    assert tokenizer.decode([0, 2, 1], skip_special_tokens=False) == "a<0x41>b"
    with pytest.raises(ValueError, match="'<0x41>' occurs twice"):
        train("char", ["ab"], special_tokens=["<0x41>"], byte_fallback=True)


def test_tokens_that_are_no_characters_are_refused():
    with pytest.raises(ValueError, match="token 'ab' is neither a character"):
        CharTokenizer(["a", "ab"], {})
    with pytest.raises(ValueError, match="token '<0x41>' is neither"):
        CharTokenizer(["a", "<0x41>"], {})
