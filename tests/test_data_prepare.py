"""From a corpus to token files: the ids, the split, and what is said about both."""

import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.data import Dataset, TokenFile, Windows, prepare, read
from minillm.data.prepare import encoded
from minillm.data.split import choose_documents
from minillm.tokenizers import ByteTokenizer, CharTokenizer, train

BYTES = ByteTokenizer()
EOS = BYTES.eos_id


def written(path, content: str):
    path.write_text(content, encoding="utf-8", newline="")
    return path


def records(path, texts):
    return written(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))


def split_at(ids, separator):
    """The runs of ids between separators."""
    cuts = np.flatnonzero(ids == separator)
    return [run.tolist() for run in np.split(ids, cuts + 1)]


def test_the_end_of_one_text_is_kept_for_validation(tmp_path):
    corpus = read(written(tmp_path / "a.txt", "".join(f"{i:09d}\n" for i in range(1000))))
    dataset = prepare(corpus, BYTES, tmp_path / "data", context=64)
    text = b"".join(f"{i:09d}\n".encode() for i in range(1000))
    assert bytes(dataset.train.ids.astype(np.uint8)) == text[:9000]
    assert bytes(dataset.val.ids.astype(np.uint8)) == text[9000:]
    facts = dataset.facts
    assert (facts.split, facts.train_tokens, facts.val_tokens) == ("tail", 9000, 1000)
    assert (facts.train_documents, facts.val_documents, facts.overlap) == (1, 1, None)
    inputs, targets = Windows(dataset.train, 64, 0).batch(0, 500)
    seen = {bytes(row.astype(np.uint8)) for row in np.hstack([inputs, targets[:, -1:]])}
    assert all(row in text[:9000] for row in seen)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "dataset.json",
        "train.bin",
        "val.bin",
    ]


def test_a_text_whose_lines_come_three_times_overlaps_wholly(tmp_path):
    lines = [f"line number {i:03d} says so" for i in range(200)] * 3
    corpus = read(written(tmp_path / "a.txt", "\n".join(lines) + "\n"))
    facts = prepare(corpus, BYTES, tmp_path / "data", context=8).facts
    assert facts.overlap == 1.0
    assert facts.lines_for_people()[2].startswith("overlap: 100.0% of the validation lines")


def naive_overlap(text: str, border: int) -> float | None:
    before, after, start = set(), [], 0
    for line in text.split("\n"):
        if len(line) >= 10:
            if start < border:
                before.add(line)
            else:
                after.append(line)
        start += len(line) + 1
    return sum(line in before for line in after) / len(after) if after else None


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.31, 0.5])
@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_overlap_equals_that_of_a_plain_count(tmp_path, kind, fraction):
    """The border lies in the tokens: `text` is cut where the training tokens end."""
    rng = np.random.default_rng(7)
    lines = [f"{i:03d} été 日本語 🙂 naïve"[: int(rng.integers(4, 21))] for i in range(150)]
    text = "\n".join(lines[int(i)] for i in rng.integers(0, 150, 300))
    tokenizer = {
        "byte": lambda: BYTES,
        "char": lambda: CharTokenizer.from_characters(text),
        "bpe": lambda: train("bpe", [text], vocab_size=400),
    }[kind]()
    dataset = prepare(
        read(written(tmp_path / "a.txt", text)),
        tokenizer,
        tmp_path / "data",
        context=8,
        val_fraction=fraction,
    )
    assert tokenizer.decode(np.concatenate([dataset.train.ids, dataset.val.ids])) == text
    border = len(tokenizer.decode(dataset.train.ids))
    assert dataset.facts.overlap == naive_overlap(text, border)
    assert 0 < dataset.facts.overlap < 1


def test_many_documents_are_split_whole_and_equal_ones_together(tmp_path):
    texts = [f"document {i} " + "word " * (i % 7 + 3) for i in range(300)] * 3
    corpus = read(records(tmp_path / "a.jsonl", texts))
    dataset = prepare(corpus, BYTES, tmp_path / "data", context=16)
    sides = [
        {bytes(run).decode() for run in (r[:-1] for r in split_at(tokens.ids, EOS)[:-1])}
        for tokens in (dataset.train, dataset.val)
    ]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(texts)
    facts = dataset.facts
    assert (facts.split, facts.train_documents + facts.val_documents) == ("documents", 900)
    total = facts.train_tokens + facts.val_tokens
    assert total == sum(len(text) + 1 for text in texts)
    assert facts.val_tokens / total == pytest.approx(0.1, abs=0.01)
    assert facts.overlap == 0.0


def test_overlap_of_documents_equals_that_of_a_plain_count(tmp_path):
    rng = np.random.default_rng(3)
    texts = [
        "\n".join(f"one line of number {number}" for number in rng.integers(0, 300, 3))
        for _ in range(100)
    ]
    dataset = prepare(
        read(records(tmp_path / "a.jsonl", texts)), BYTES, tmp_path / "data", context=16
    )
    train, val = (
        bytes(tokens.ids[tokens.ids != EOS].astype(np.uint8)).decode().split("one ")[1:]
        for tokens in (dataset.train, dataset.val)
    )
    before, after = ([line.rstrip("\n") for line in side] for side in (train, val))
    truth = sum(line in before for line in after) / len(after)
    assert dataset.facts.overlap == truth != sum(line in after for line in before) / len(before)


@pytest.mark.parametrize(
    "fraction, documents",
    [(0.1, (4, 1)), (0.25, (3, 1)), (0.3, (3, 2)), (0.5, (2, 2)), (0.6, (2, 3))],
)
def test_a_document_that_the_border_cuts_counts_on_both_sides(tmp_path, fraction, documents):
    corpus = read([written(tmp_path / f"{i}.txt", "x" * 999) for i in range(4)])
    facts = prepare(corpus, BYTES, tmp_path / "data", context=8, val_fraction=fraction).facts
    assert (facts.train_documents, facts.val_documents) == documents
    assert facts.overlap in (1.0, None)
    said = "overlap: not measured, no validation line has 10 characters"
    assert (said in facts.lines_for_people()) == (facts.overlap is None)


def test_a_document_keeps_its_side_when_the_order_changes(tmp_path):
    texts = [f"document number {i}" for i in range(50)]
    one, two = (
        prepare(
            read(records(tmp_path / "a.jsonl", order)), BYTES, tmp_path / "data", context=8
        ).val.ids.copy()
        for order in (texts, texts[::-1])
    )
    assert sorted(split_at(one, EOS)) == sorted(split_at(two, EOS))
    assert one.tolist() != two.tolist()


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 500)), min_size=2, max_size=60),
    st.floats(0.001, 0.999),
)
def test_chosen_documents_are_some_not_all_and_close_to_the_share(documents, fraction):
    sizes = dict(documents)
    hashes = np.array([hash_ * 2**58 for hash_, _ in documents], np.uint64)
    lengths = np.array([sizes[hash_] for hash_, _ in documents], np.int64)
    if len(sizes) < 2:
        return
    chosen = choose_documents(hashes, lengths, fraction)
    assert chosen.any() and not chosen.all()
    assert all(len(set(chosen[hashes == hash_].tolist())) == 1 for hash_ in hashes)
    copies = [int(lengths[hashes == hash_].sum()) for hash_ in hashes]
    target = fraction * lengths.sum()
    fitting = [size for size in copies if size <= target]
    if fitting and len(fitting) == len(copies) and fraction < 0.5:
        assert abs(lengths[chosen].sum() - target) <= max(copies) / 2 + 1e-9


def test_equal_documents_only_fall_back_to_the_tail_with_their_overlap(tmp_path):
    corpus = read(records(tmp_path / "a.jsonl", ["the very same text"] * 40))
    dataset = prepare(corpus, BYTES, tmp_path / "data", context=8)
    assert (dataset.facts.split, dataset.facts.overlap) == ("tail", 1.0)


@pytest.mark.parametrize(
    "texts, tokenizer, expected",
    [
        (["ab", "cd"], BYTES, [97, 98, EOS, 99, 100, EOS]),
        (["abcd"], BYTES, [97, 98, 99, 100]),
        (["ab", "cd"], ByteTokenizer(special_tokens=()), [97, 98, 99, 100]),
        (["ab", "", "cd"], BYTES, [97, 98, EOS, 99, 100, EOS]),
        (["a<|endoftext|>b"], BYTES, list(b"a<|endoftext|>b")),
    ],
)
def test_several_documents_end_in_the_end_token(tmp_path, texts, tokenizer, expected):
    corpus = read(records(tmp_path / "a.jsonl", texts))
    dataset = prepare(corpus, tokenizer, tmp_path / "data", val_fraction=0, context=3)
    assert dataset.train.ids.tolist() == expected
    assert dataset.val is None
    assert (dataset.facts.split, dataset.facts.val_tokens) == ("none", 0)
    assert dataset.facts.lines_for_people()[1] == "validation: none"


@pytest.mark.parametrize(
    "count, fraction, message",
    [
        (65, 0, None),
        (64, 0, "prepare: 64 tokens: a context of 64 needs at least 65;"),
        (40, 0.1, "prepare: 40 tokens: a context of 64 needs at least 65;"),
        (
            72,
            0.1,
            "prepare: 7 tokens of 72 for validation (a share of 0.1): a context of 64 needs at "
            "least 65;",
        ),
        (
            70,
            0.1,
            "prepare: 63 tokens for training, 7 of 70 kept for validation: a context of 64 "
            "needs at least 65;",
        ),
        (130, 0.5, None),
        (129, 0.5, "prepare: 64 tokens of 129 for validation (a share of 0.5)"),
    ],
)
def test_both_sides_must_hold_a_window(tmp_path, count, fraction, message):
    corpus = read(written(tmp_path / "a.txt", "x" * count))
    folder = tmp_path / "data"
    if message is None:
        dataset = prepare(corpus, BYTES, folder, val_fraction=fraction, context=64)
        assert Windows(dataset.train, 64, 0).per_epoch == 1
        return
    with pytest.raises(ValueError) as caught:
        prepare(corpus, BYTES, folder, val_fraction=fraction, context=64)
    assert str(caught.value).startswith(message)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_shares_outside_0_to_1_are_refused(tmp_path, fraction):
    corpus = read(written(tmp_path / "a.txt", "x" * 100))
    with pytest.raises(ValueError, match="0 or more and below 1 is needed"):
        prepare(corpus, BYTES, tmp_path / "data", val_fraction=fraction, context=8)


@given(
    st.text(st.sampled_from("ab  \n'sé日1!🙂"), max_size=60),
    st.lists(st.integers(0, 60), max_size=10),
    st.sampled_from(["byte", "char", "bpe"]),
)
def test_encoding_in_pieces_gives_the_ids_of_the_whole(text, cuts, kind):
    tokenizer = TOKENIZERS[kind]
    places = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    stretches = list(encoded(tokenizer, pieces))
    assert [int(id) for ids, _ in stretches for id in ids] == tokenizer.encode(text)
    assert sum(characters for _, characters in stretches) == len(text)


SAMPLE = "a b ab aab 'sa b's  \n ab\n\naé日 日日 1! 11!! 🙂🙂 ab ab a ab b a\n" * 20
TOKENIZERS = {
    "byte": BYTES,
    "char": CharTokenizer.from_characters(SAMPLE),
    "bpe": train("bpe", [SAMPLE], vocab_size=300),
}


def test_a_real_text_gives_the_ids_of_the_text_read_whole(tmp_path, shared_data):
    path = shared_data / "text" / "tinyshakespeare.txt"
    text = path.read_text(encoding="utf-8")
    tokenizer = train("bpe", [text[:50_000]], vocab_size=500)
    dataset = prepare(read(path), tokenizer, tmp_path / "data", context=64)
    ids = np.concatenate([dataset.train.ids, dataset.val.ids])
    np.testing.assert_array_equal(ids, tokenizer.encode_array(text))


def test_memory_does_not_grow_with_one_endless_line(tmp_path):
    small, large = (read(written(tmp_path / f"{size}.txt", "ab" * (size << 19))) for size in (1, 6))
    prepare(small, BYTES, tmp_path / "data", context=64)
    tracemalloc.start()
    try:
        prepare(large, BYTES, tmp_path / "data", context=64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 << 20
    assert len(TokenFile.open(tmp_path / "data" / "train.bin")) == round(0.9 * (6 << 20))


def test_progress_counts_characters_up_to_all_of_them(tmp_path):
    calls = []
    corpus = read(records(tmp_path / "a.jsonl", ["é" * 300_000, "two"]))
    prepare(corpus, BYTES, tmp_path / "data", context=8, progress=lambda *call: calls.append(call))
    assert calls == [(262_144, 300_003), (300_000, 300_003), (300_003, 300_003)]


def test_a_dataset_is_opened_again_by_the_same_tokenizer_only(tmp_path):
    corpus = read(written(tmp_path / "a.txt", SAMPLE))
    folder = tmp_path / "data"
    made = prepare(corpus, BYTES, folder, context=16)
    again = Dataset.open(folder, ByteTokenizer())
    assert (again.fingerprint, again.facts) == (made.fingerprint, made.facts)
    np.testing.assert_array_equal(again.val.ids, made.val.ids)
    with pytest.raises(
        ValueError,
        match=r"was made with the tokenizer \w{12} of 257 ids, this one "
        r"is \w{12} of 256, the same is needed",
    ):
        Dataset.open(folder, ByteTokenizer(special_tokens=()))
    with pytest.raises(FileNotFoundError, match=r"holds no prepared data, dataset\.json is needed"):
        Dataset.open(tmp_path, BYTES)


def test_the_fingerprint_tells_text_and_split_apart(tmp_path):
    prints = {
        prepare(
            read(written(tmp_path / "a.txt", text)),
            BYTES,
            tmp_path / "data",
            context=8,
            val_fraction=fraction,
        ).fingerprint
        for text in (SAMPLE, SAMPLE[1:])
        for fraction in (0, 0.1, 0.2)
    }
    assert len(prints) == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: written(folder / "dataset.json", "{"),
        lambda folder: written(folder / "dataset.json", "[]"),
        lambda folder: written(folder / "dataset.json", '{"facts": {}, "fingerprint": ""}'),
        lambda folder: (folder / "train.bin").write_bytes((folder / "val.bin").read_bytes()),
        lambda folder: (folder / "val.bin").write_bytes(
            (folder / "val.bin").read_bytes()[:-1] + b"\1"
        ),
        lambda folder: (folder / "val.bin").write_bytes(b""),
    ],
)
def test_damaged_data_is_refused(tmp_path, damage):
    folder = tmp_path / "data"
    prepare(read(written(tmp_path / "a.txt", SAMPLE)), BYTES, folder, context=16)
    damage(folder)
    with pytest.raises(ValueError, match=r"^(dataset|tokens): .* needed"):
        Dataset.open(folder, BYTES)


def test_a_failure_leaves_the_former_data_and_no_partial_file(tmp_path):
    folder = tmp_path / "data"
    path = written(tmp_path / "a.txt", SAMPLE)
    made = prepare(read(path), BYTES, folder, context=16)
    corpus = read(written(tmp_path / "b.txt", SAMPLE * 2))
    written(tmp_path / "b.txt", SAMPLE * 2 + "more")
    with pytest.raises(RuntimeError, match="changed while it was in use"):
        prepare(corpus, BYTES, folder, context=16)
    assert Dataset.open(folder, BYTES).fingerprint == made.fingerprint
    assert len(list(folder.iterdir())) == 3


def test_new_data_without_validation_replaces_old_data_with_it(tmp_path):
    folder = tmp_path / "data"
    corpus = read(written(tmp_path / "a.txt", SAMPLE))
    prepare(corpus, BYTES, folder, context=16)
    prepare(corpus, BYTES, folder, context=16, val_fraction=0)
    assert Dataset.open(folder, BYTES).val is None
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "train.bin"]
