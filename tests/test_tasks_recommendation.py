"""Items as tokens: whole-word vocabularies, what is recommended, and how that is measured."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minillm import tokenizers
from minillm.models import folder
from minillm.tasks.metrics import standing
from minillm.tasks.recommendation import Recommender, Sequenced, baseline_ranks, read_sequences
from small_runs import minillm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import followers

LOOP = ("--precision", "f32", "--threads", 1, "--batch", 8, "--sample-tokens", 0)
SIZES = ("--layers", 1, "--heads", 1, "--width", 16, "--context", 8, "--dropout", 0)
CYCLE = ["a", "b", "c", "d", "e"]  # each item follows the one before it


def write(path, sequences):
    rows = (json.dumps({"text": " ".join(items)}) + "\n" for items in sequences)
    path.write_text("".join(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model that knows the cycle, and its sequences."""
    top = tmp_path_factory.mktemp("recommend")
    data = [[CYCLE[(start + k) % 5] for k in range(4 + start % 3)] for start in range(40)]
    path = write(top / "train.jsonl", data)
    words = ("--tokenizer", "word", "--document-mask", "--steps", 150, "--val-fraction", 0)
    words += ("--lr", 0.02, "--optimizer", "adamw")
    assert minillm("train", path, "--out", top / "run", *words, *LOOP, *SIZES) == 0
    return top / "run"


def test_a_word_vocabulary_has_whole_words_only(tmp_path):
    texts = ["b a a ##x", " ab\n", "b\tc a [UNK]"]
    made = tokenizers.train("word", texts)
    made.save(tmp_path)
    for tokenizer in (made, tokenizers.load(tmp_path)):
        known = {word: tokenizer.encode(word) for word in ("a", "b", "ab", "c", "##x")}
        assert [len(ids) for ids in known.values()] == [1] * 5
        unknown = [tokenizer.role_ids["unk"]]
        assert tokenizer.encode("ac") == tokenizer.encode("aab") == tokenizer.encode("q") == unknown
        assert tokenizer.encode("a  ab\n##x") == [*known["a"], *known["ab"], *known["##x"]]
        assert tokenizer.decode([*known["ab"], *known["##x"], *known["a"]]) == "ab ##x a"
        assert tokenizer.eos_id == tokenizer.special_tokens["<|endoftext|>"]
        control = set(tokenizer.special_tokens.values()) - set(unknown)
        assert not control & set(tokenizer.encode("<|endoftext|> [UNK] a"))
    cut = tokenizers.train("word", texts, vocab_size=4)
    assert [len(set(cut.encode(word)) - {0}) for word in ("a", "b", "ab", "c")] == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="tokenizer: a word vocabulary of 2 for 5 words"):
        tokenizers.train("word", texts, vocab_size=2)


def test_words_end_where_their_document_does(run):
    tokenizer = tokenizers.load(run)
    assert tokenizer.vocab_size == 5 + 2


def test_the_next_item_is_the_most_probable(run):
    model, tokenizer = folder.load(run)
    recommender = Recommender(model, tokenizer)
    assert sorted(recommender.items) == CYCLE
    for history, right in ((["a", "b"], "c"), (["d", "e", "a"], "b"), (["e"], "a")):
        found = recommender.recommend(history, 5)
        assert found[0][0] == right and found[0][1] > 0.8
        assert [chance for _, chance in found] == sorted((c for _, c in found), reverse=True)
        assert math.fsum(chance for _, chance in found) == pytest.approx(1)


def test_batches_give_what_each_history_alone_gives(run):
    recommender = Recommender(*folder.load(run))
    histories = [["a"], ["b", "c", "d"], ["e", "a", "b", "c", "d", "e"], ["c", "d"]]
    found = dict(recommender.logits(histories))
    for place, history in enumerate(histories):
        [(_, alone)] = recommender.logits([history])
        np.testing.assert_allclose(found[place], alone, atol=1e-5)
    long = ["a", "b", "c", "d", "e"] * 3
    [(_, whole)], [(_, last)] = (recommender.logits([items]) for items in (long, long[-7:]))
    np.testing.assert_array_equal(whole, last)  # 8 positions, one for what begins a sequence


def test_a_model_without_a_longest_context_reads_all(run):
    model, tokenizer = folder.load(run)
    open_ended = SimpleNamespace(kind="decoder", context=None)
    recommender = Recommender(SimpleNamespace(config=open_ended, eval=lambda: model), tokenizer)
    assert recommender.context > 1_000_000


def test_what_is_excluded_is_not_recommended(run):
    recommender = Recommender(*folder.load(run))
    found = recommender.recommend(["a", "b"], 5, {"c", "a"})
    assert sorted(item for item, _ in found) == ["b", "d", "e"]
    assert math.fsum(chance for _, chance in found) == pytest.approx(1)
    with pytest.raises(ValueError, match="recommend: all 5 items are excluded"):
        recommender.recommend(["a"], 5, set(CYCLE))


def test_figures_by_hand():
    found = standing([1, 3, 11, math.inf], 10)
    assert found["recall_at_1"].value == 1 / 4
    assert found["recall_at_10"].value == 2 / 4
    assert found["mrr"].value == pytest.approx((1 + 1 / 3 + 1 / 11) / 4)
    assert found["ndcg_at_10"].value == pytest.approx((1 + 1 / math.log2(4)) / 4)


def test_baselines_by_hand():
    learnt = [Sequenced(1, ("a", "b", "a", "c")), Sequenced(2, ("a", "c", "d"))]  # a3 c2 b1 d1
    asked = [("a", "d"), ("a", "c"), ("c", "b"), ("d", "a"), ("a", "q")]
    found = baseline_ranks(learnt, [Sequenced(k, items) for k, items in enumerate(asked)])
    assert found["popularity"] == [4, 2, 3, 1, math.inf]
    # after a: c twice, b once, then a, d; after c: d, then a, c, b; after d nothing
    assert found["markov"] == [4, 1, 4, 1, math.inf]


def test_the_commands(run, tmp_path, capsys):
    assert minillm("task", "recommend", run, "a b", "c q d", "--top", 2) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].startswith("c ") and lines[1].startswith("e ") and len(lines[0].split()) == 4
    assert "left out what the model does not know: q" in captured.err
    assert minillm("task", "recommend", run, "a b", "--exclude", "seen", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["items"][0]["item"] == "c"
    assert {one["item"] for one in found["items"]} == {"c", "d", "e"}
    data = write(tmp_path / "test.jsonl", [["a", "b", "c"], "dea", "bq", "cd"])
    words = ("--task", "recommend", "--data", data, "--json", "--resamples", 20)
    assert minillm("eval", run, *words, "--baseline", run.parent / "train.jsonl") == 0
    captured = capsys.readouterr()
    [found] = json.loads(captured.out)["sets"]
    assert found["metrics"]["recall_at_1"]["value"] == 3 / 4
    assert found["baseline"]["markov_recall_at_1"]["value"] == 3 / 4
    assert found["baseline"]["popularity_recall_at_1"]["value"] < 3 / 4
    assert "1 of 4 sequences end with an item that the model does not know" in captured.err
    assert minillm("compare", run, run, *words) == 0
    [found] = json.loads(capsys.readouterr().out)["sets"]
    assert found["metrics"]["mrr"]["difference"] == 0


@pytest.mark.parametrize(
    "words, told",
    [
        (("q r",), "recommend: the model knows none of 'q r', at least 1 item of its 5, such as a"),
        (("a", "--exclude", "a b c d e"), "recommend: all 5 items are excluded"),
        (("a", "--top", 0), "top: 0, 1 or more is needed"),
    ],
)
def test_what_cannot_be_recommended_is_refused(run, capsys, words, told):
    assert minillm("task", "recommend", run, *words) == 2
    assert capsys.readouterr().err.startswith(f"minillm: {told}")


def test_a_decoder_of_words_in_pieces_is_refused(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("to be or not to be " * 40, encoding="utf-8")
    words = ("--tokenizer", "byte", "--steps", 1)
    assert minillm("train", tmp_path / "text.txt", "--out", tmp_path / "run", *words, *SIZES) == 0
    capsys.readouterr()
    assert minillm("task", "recommend", tmp_path / "run", "a b") == 2
    assert "the byte tokenizer does not read whole words, items are" in capsys.readouterr().err


def test_bad_rows_stop_or_are_counted(tmp_path):
    path = write(tmp_path / "rows.jsonl", [["a", "b"], ["a"], ["c", "d"]])
    with pytest.raises(ValueError, match="line 2: 1 items, a text of 2 or more is needed"):
        read_sequences(str(path), {})
    found, told = read_sequences(str(path), {}, "skip")
    assert [one.items for one in found] == [("a", "b"), ("c", "d")]
    assert "skipped 1 row" in told[0] and "fewer than 2 items" in told[0]


def test_the_hidden_process_is_what_it_says(tmp_path):
    found = followers.sequences(300, seed=1)
    assert found == followers.sequences(300, seed=1) != followers.sequences(300, seed=2)
    assert all(10 <= len(items) <= 40 for items in found)
    goes_on = steps = 0
    for items in found:
        last = {}
        for name in items:
            series, part = int(name[1:3]), int(name[4:])
            if series in last:
                steps += 1
                goes_on += part == (last[series] + 1) % followers.PARTS
            last[series] = part
    share = 0.85 + 0.15 / 25  # a part drawn evenly can be the next one as well
    assert goes_on / steps == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / steps))
    followers.main([str(tmp_path / "data"), "--readers", "20"])
    whole, train = (
        [one["text"].split() for one in map(json.loads, path.read_text("utf-8").splitlines())]
        for path in (tmp_path / "data" / "test.jsonl", tmp_path / "data" / "train.jsonl")
    )
    assert len(whole) == 20 and [items[:-1] for items in whole] == train
