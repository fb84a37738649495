"""Byte-pair encoding against GPT-2's frozen ids and against slow, obvious algorithms."""

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.tokenizers import BPETokenizer, train
from minillm.tokenizers.byte_alphabet import ALPHABET, BYTE_ORDER, spell, unspell
from minillm.tokenizers.merging import merge, merge_entry
from minillm.tokenizers.splitting import settled, split, windows

MERGES = [
    "h e",
    "l l",
    "o o",
    "he ll",
    "Ġ w",
    "hell o",
    "a a",
    "aa aa",
    "a b",
    "ab a",
    "b a",
    "Ġ Ġ",
]
TINY = BPETokenizer.from_merges(MERGES)


def naive_merge(ids, ranks, merged):
    """Look for the lowest rank from the left, merge that one pair, begin again."""
    ids = list(ids)
    while True:
        known = [(ranks[p], at) for at, p in enumerate(itertools.pairwise(ids)) if p in ranks]
        if not known:
            return ids
        rank, at = min(known)
        ids[at : at + 2] = [merged[rank]]


def naive_split(text):
    """GPT-2's pattern, alternative by alternative, with the categories of `unicodedata`."""

    def kind(character):
        if character in "\t\n\v\f\r\x85" or unicodedata.category(character)[0] == "Z":
            return "space"
        category = unicodedata.category(character)[0]
        return category if category in "LN" else "other"

    pieces, at = [], 0
    while at < len(text):
        end = at
        contraction = next((c for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
                            if text.startswith(c, at)), "")  # fmt: skip
        first = at + (text[at] == " ")
        if contraction:
            end = at + len(contraction)
        elif first < len(text) and kind(text[first]) != "space":
            end = first
            while end < len(text) and kind(text[end]) == kind(text[first]):
                end += 1
        else:
            while end < len(text) and kind(text[end]) == "space":
                end += 1
            if end < len(text) and end - at > 1:
                end -= 1
        pieces.append(text[at:end])
        at = end
    return pieces


# Characters so old that every Python knows them.
OLD = unicodedata.ucd_3_2_0
assigned = st.characters(codec="utf-8").filter(lambda c: OLD.category(c) != "Cn")
common = st.sampled_from("ab  's'trevlmd\n\t\r1٣½é日🙂.,!\u00a0\u3000\x1c\x85\u200b")
texts = st.text(st.one_of(common, assigned), max_size=40)


@pytest.fixture(scope="module")
def gpt2(shared_data):
    with open(shared_data / "tokenizers" / "gpt2.vocab.bpe", encoding="utf-8") as lines:
        return BPETokenizer.from_merges(lines)


def test_gpt2_ids_on_frozen_vectors(gpt2, shared_data):
    vectors = shared_data / "tokenizers" / "vectors"
    inputs = (vectors / "gpt-2.inp").read_bytes().decode("utf-8")
    inputs = inputs.split("\n__ggml_vocab_test__\n")
    outputs = (vectors / "gpt-2.out").read_text(encoding="utf-8").splitlines()
    expected = [[int(id) for id in line.split()] for line in outputs]
    assert len(expected) == 46
    assert [gpt2.encode(text) for text in inputs[:46]] == expected
    assert [gpt2.decode(ids) for ids in expected] == inputs[:46]


def test_gpt2_ids_known_by_heart(gpt2):
    assert gpt2.vocab_size == 50257 and gpt2.eos_id == 50256
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("Once upon a time") == [7454, 2402, 257, 640]
    assert gpt2.encode(" ?") == [5633]
    assert gpt2.encode("\u00e9") != gpt2.encode("e\u0301")


def test_gpt2_repeats_take_linear_work(gpt2):
    for text in ("a" * 100_000, "^" * 100_000, " " * 100_000, "ab" * 50_000):
        assert gpt2.decode(gpt2.encode_array(text)) == text
        assert 0 < len(text) - gpt2.cut(text) < 1000 or text.isspace()


def test_tiny_table_by_hand():
    hello, he, ll, oo, w = (256 + MERGES.index(m) for m in ("hell o", "h e", "l l", "o o", "Ġ w"))
    o, r, t = (BYTE_ORDER.index(letter) for letter in b"ort")
    assert TINY.encode("hello worth") == [hello, w, o, r, t, BYTE_ORDER.index(b"h")]
    assert TINY.encode("helloo") == [256 + MERGES.index("he ll"), oo]
    assert TINY.encode("hehell") == [he, 256 + MERGES.index("he ll")]
    assert TINY.encode("llloll") == [ll, BYTE_ORDER.index(b"l"), o, ll]
    assert TINY.encode("aaaaaaa") == [263, 262, BYTE_ORDER.index(b"a")]


def test_byte_alphabet_is_gpt2s():
    assert len(set(ALPHABET)) == 256 and all(c.isprintable() and c != " " for c in ALPHABET)
    assert [ALPHABET[byte] for byte in (0x20, 0x0A, 0x0D, 0x00, 0xAD, 0xE9)] == list("ĠĊčĀŃé")
    assert spell("🙂".encode()) == "ðŁĻĤ"
    assert unspell(ALPHABET) == bytes(range(256))
    assert bytes(BYTE_ORDER[:3]) == b'!"#' and BYTE_ORDER[188:191] == b"\x00\x01\x02"
    with pytest.raises(ValueError, match="'日' is not in the byte alphabet"):
        unspell("a日")


@given(text=texts)
@settings(max_examples=400)
def test_split_follows_the_pattern(text):
    assert split(text) == naive_split(text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("don't DON'T don’t", ["don", "'t", " DON", "'", "T", " don", "’", "t"]),
        ("  two  spaces ", [" ", " two", " ", " spaces", " "]),
        ("a\n\n b", ["a", "\n\n", " b"]),
        ("a\n\nb", ["a", "\n", "\n", "b"]),
        ("１２３ ٣½ x2", ["１２３", " ٣½", " x", "2"]),
        ("e\u0301", ["e", "\u0301"]),
        ("a\u00a0b\x1cc", ["a", "\u00a0", "b", "\x1c", "c"]),
        ("ſ 'ſ", ["ſ", " '", "ſ"]),
    ],
)
def test_split_by_hand(text, pieces):
    assert split(text) == pieces


@given(text=texts, more=texts)
@settings(max_examples=400)
def test_settled_pre_tokens_stay(text, more):
    k = settled(text)
    assert split(text[:k]) + split(text[k:] + more) == split(text + more)


def test_settled_in_every_short_text():
    """The last pre-token's start, or up to two characters before it, is settled."""
    ends = ("", "a", "s", "e", "l", " ", "\n", "1", "!", " a", "\na", "'s")
    for letters in itertools.product("a1'r \n!", repeat=4):
        text = "".join(letters)
        k = settled(text)
        for more in ends:
            assert split(text[:k]) + split(text[k:] + more) == split(text + more)
        assert k >= len(text) - len(split(text)[-1]) - 2


@given(chunks=st.lists(texts, max_size=8), size=st.integers(1, 20))
@settings(max_examples=200)
def test_windows_are_split_like_the_whole(chunks, size):
    cut = list(windows(chunks, size))
    assert [piece for window in cut for piece in split(window)] == split("".join(chunks))


@given(data=st.data(), text=st.text("abc", max_size=60))
@settings(max_examples=300)
def test_heap_merge_is_naive_merge(data, text):
    """Any table of merges, also one where a later merge makes a token that an earlier one joins."""
    pool = ["a", "b", "c"]
    pairs = []
    for _ in range(data.draw(st.integers(0, 8))):
        pair = tuple(data.draw(st.sampled_from(pool)) for _ in range(2))
        pairs.append(pair)
        pool.append("".join(pair))
    pairs = data.draw(st.permutations(list(dict.fromkeys(pairs))))
    ids = {token: id for id, token in enumerate(dict.fromkeys(pool))}
    ranks = {(ids[a], ids[b]): rank for rank, (a, b) in enumerate(pairs)}
    merged = [ids[a + b] for a, b in pairs]
    start = [ids[letter] for letter in text]
    table = {pair: merge_entry(rank, merged[rank]) for pair, rank in ranks.items()}
    assert merge(start, table) == naive_merge(start, ranks, merged)


class CountingTable(dict):
    """Merge ranks that count how often they are asked for."""

    asked = 0

    def get(self, key):
        self.asked += 1
        return super().get(key)


def test_merge_work_grows_in_proportion_to_length():
    asked = []
    for length in (20_000, 40_000):
        table = CountingTable(TINY._merger._table)
        merge([TINY.token_to_id("a")] * length, table)
        asked.append(table.asked)
    assert asked[0] < 5 * 20_000
    assert asked[1] <= 2.1 * asked[0]


@pytest.mark.parametrize("unit", ["a", "ab", "aab", "hello", "aba", "hellaaab"])
def test_endless_pre_token_is_encoded_like_the_whole(unit):
    text = unit * (40_000 // len(unit)) + "aba"
    assert TINY.encode(text) == TINY._merger.merge(text.encode())


def test_cut_inside_a_long_pre_token():
    """Tokens that overlap in every way: each text of ten letters, each continuation of three."""
    tokenizer = BPETokenizer.from_merges(["a a", "aa aa", "b a", "ba b", "b b", "aa b"])
    continuations = ["".join(more) for n in range(4) for more in itertools.product("ab", repeat=n)]
    places = set()
    for letters in itertools.product("ab", repeat=10):
        text = "".join(letters)
        k = tokenizer.cut(text)
        places.add(k)
        begun = tokenizer.encode(text[:k])
        for more in continuations:
            assert begun + tokenizer.encode(text[k:] + more) == tokenizer.encode(text + more)
    assert min(places) > 0


def test_cut_where_the_end_decides_about_the_beginning():
    """Of neighbours in the alphabet the later pair merges first: one more letter moves all cuts."""
    letters = "abcdefghijklmnop"
    pairs = [f"{left} {right}" for left, right in itertools.pairwise(letters)]
    tokenizer = BPETokenizer.from_merges(["Ċ b", "Ċ a", "Ġ Ġ", *reversed(pairs)])
    assert [tokenizer.encode(letters[:n])[0] for n in (9, 10)] == [
        tokenizer.token_to_id("a"), tokenizer.token_to_id("ab"),
    ]  # fmt: skip
    words = [letters[start:end] * 2 for start in range(16) for end in range(start + 1, 17)]
    for text in [before + word for before in ("", "x  ", "\n\n") for word in words]:
        k = tokenizer.cut(text)
        for more in ("", text[0], letters[(letters.index(text[-1]) + 1) % 16], "z"):
            assert tokenizer.encode(text[:k]) + tokenizer.encode(text[k:] + more) == (
                tokenizer.encode(text + more)
            )


def test_pre_token_without_any_place_to_cut():
    """The second byte of each character goes with the first of the next, so no cut is possible."""
    tokenizer = BPETokenizer.from_merges(["© Ã", "Ġ Ġ"])
    text = "é" * 20_000
    assert tokenizer.cut(text) == 0
    assert tokenizer.cut("x  " + "é" * 50) == 2
    assert tokenizer.encode(text) == [tokenizer.token_to_id("Ã"), *[256] * 19_999,
                                      tokenizer.token_to_id("©")]  # fmt: skip


@pytest.mark.parametrize("text", ["ab" * 500, "a" * 1000, "hello" * 200, "日本" * 500, " " * 1000])
def test_cut_gets_on_inside_a_long_pre_token(text):
    k = TINY.cut(text)
    assert len(text) - 80 < k <= len(text)
    for more in ("", "a", "b", "lo", " x", "\n", "本"):
        assert TINY.encode(text[:k]) + TINY.encode(text[k:] + more) == TINY.encode(text + more)


def test_streaming_by_cut_gives_the_ids_of_the_whole():
    text = "aaab hello  hello'll aab\n\n" * 30 + "ab" * 700 + " hello"
    ids, rest = [], ""
    for start in range(0, len(text), 97):
        rest += text[start : start + 97]
        k = TINY.cut(rest)
        ids += TINY.encode(rest[:k])
        rest = rest[k:]
        assert len(rest) < 200
    assert ids + TINY.encode(rest) == TINY.encode(text)


def test_full_cache_changes_nothing(monkeypatch):
    monkeypatch.setattr("minillm.tokenizers.piece_cache._CACHE_SIZE", 3)
    tokenizer = BPETokenizer.from_merges(MERGES)
    text = "hello aaa ab aba hello ll oo " * 3
    assert tokenizer.encode(text) == TINY.encode(text)
    assert len(tokenizer._cache) <= 3


def test_merges_file_with_header_and_windows_line_ends():
    lines = ["#version: 0.2\r\n", "h e\r\n", "# #\r\n", "\r\n"]
    assert BPETokenizer.from_merges(lines).merges == [("h", "e"), ("#", "#")]
    assert BPETokenizer.from_merges(["#version: 0.2\n", "h e\n", "# #\n"]).fingerprint == (
        BPETokenizer.from_merges(lines).fingerprint
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["h e", "hel"], "merges: line 2 is 'hel', two tokens"), (["a b c"], "line 1 is 'a b c'"),
     (["h e", "he y", "q"], "line 3"), (["a b", "a b"], "merge 1 .* occurs twice"),
     (["ab c"], "merge 0 joins 'ab' and 'c'"), (["日 本"], "'日' is not in the byte alphabet")],
)  # fmt: skip
def test_damaged_merges_are_refused(lines, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer.from_merges(lines)


def test_trained_ids_follow_gpt2s_order():
    tokenizer = train("bpe", ["abab abab"], vocab_size=260, special_tokens=["<s>"])
    assert [tokenizer.id_to_token(id) for id in (0, 188, 220, 256, 257, 258)] == [
        "!", "Ā", "Ġ", "ab", "abab", "<s>",
    ]  # fmt: skip
