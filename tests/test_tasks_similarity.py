"""Vectors measured on pairs of texts: likenesses with scores, and texts that belong together."""

import json

import numpy as np
import pytest

from minillm.models import embedding
from minillm.tasks import significance
from minillm.tasks.similarity import Pair, candidates, measured, overlapping, ranking, read_pairs
from small_runs import minillm
from small_tasks import folder

TEXTS = ["a b c", "good film", "it was built in 1889", "the eiffel tower", "d e", "paris or rome"]
OTHERS = ["a b", "a good film", "built in 1889", "eiffel tower", "e f g", "rome and paris"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("similar") / "model")


def pairs(scores=None):
    given = scores or [None] * len(TEXTS)
    rows = zip(TEXTS, OTHERS, given, strict=True)
    return [Pair(k, *row) for k, row in enumerate(rows, 1)]


def refused(path):
    with pytest.raises(ValueError) as found:
        read_pairs(str(path), {})
    return str(found.value)


def ranked(given, alike, others=()):
    return ranking(given, candidates(given, others), lambda rows: alike[rows])


def test_texts_that_belong_together_are_looked_for_among_all():
    alike = np.eye(6)[[0, 2, 1, 3, 4, 4]] + np.arange(6) * 1e-3  # right: 0, 3, 4
    found = ranked(pairs(), alike)
    assert found["recall_at_1"].value == 3 / 6
    assert found["recall_at_10"].value == 1
    places = [1, 5, 5, 1, 1, 2]  # of the right ones, by hand
    gains = [1 / np.log2(place + 1) for place in places]
    assert found["ndcg_at_10"].value == pytest.approx(np.mean(gains))
    assert found["mrr"].value == pytest.approx((1 + 1 / 5 + 1 / 5 + 1 + 1 + 1 / 2) / 6)


def test_equal_texts_are_one_candidate():
    twice = [Pair(1, "a", "x", None), Pair(2, "b", "x", None), Pair(3, "c", "y", None)]
    assert candidates(twice, ["y", "z"]) == ["x", "y", "z"]
    found = ranked(twice, np.array([[1, 0.5], [1, 0.5], [0, 1]]))
    assert found["recall_at_1"].value == found["mrr"].value == 1


def test_other_candidates_can_be_found_instead():
    two = [Pair(1, "a", "x", None), Pair(2, "b", "y", None)]
    alike = np.array([[0.5, 0.1, 0.9, 0.5], [0.5, 0.7, 0.6, 0.1]])
    found = ranked(two, alike, ["z", "w"])
    assert found["mrr"].value == (1 / 2 + 1) / 2  # of equal ones the earlier stands higher
    others = np.linspace(1, 2, 12)
    alike = np.concatenate([np.zeros((2, 2)), np.tile(others, (2, 1))], axis=1)
    found = ranked(two, alike, [str(k) for k in range(12)])
    assert found["recall_at_10"].value == found["ndcg_at_10"].value == 0
    assert found["mrr"].value == (1 / 13 + 1 / 14) / 2


def test_many_pairs_are_ranked_some_at_a_time(monkeypatch):
    alike = np.random.default_rng(0).normal(size=(6, 6))
    whole = ranked(pairs(), alike)
    monkeypatch.setattr("minillm.tasks.similarity.ROWS_AT_ONCE", 4)
    parts = ranked(pairs(), alike)
    for name, metric in whole.items():
        assert np.array_equal(metric.statistics, parts[name].statistics)


def test_scores_need_no_candidates(place, monkeypatch):
    def refuse(*given):
        raise AssertionError("a matrix of all pairs")

    monkeypatch.setattr("minillm.tasks.similarity.ranking", refuse)
    scored = pairs([1, 2, 3, 4, 5, 6])
    assert set(measured(embedding.load(place), scored)) == {"spearman"}
    assert set(overlapping(scored)) == {"spearman"}


def test_scores_are_compared_by_rank(place):
    embedder = embedding.load(place)
    vectors = [embedder.encode(texts).astype(float) for texts in (TEXTS, OTHERS)]
    cosines = (vectors[0] * vectors[1]).sum(axis=1)
    scores = list(np.exp(3 * cosines))
    assert measured(embedder, pairs(scores))["spearman"].value == pytest.approx(1)
    assert measured(embedder, pairs([-s for s in scores]))["spearman"].value == pytest.approx(-1)


def test_words_in_common_need_no_model():
    found = overlapping(pairs())
    assert found["recall_at_1"].value == 1
    scores = overlapping(pairs([1 / 2, 1, 3 / 5, 1, 1 / 4, 2 / 4]))  # Jaccard, without articles
    assert scores["spearman"].value == pytest.approx(1)


def test_the_command_gives_these_figures(place, tmp_path, capsys):
    rows = "".join(f"{a}\t{b}\n" for a, b in zip(TEXTS, OTHERS, strict=True))
    (tmp_path / "pairs.tsv").write_text("first\tsecond\n" + rows, encoding="utf-8")
    words = ["--task", "embed", "--data", tmp_path / "pairs.tsv", "--resamples", 40, "--json"]
    assert minillm("eval", place, *words, "--baseline", tmp_path / "pairs.tsv") == 0
    [found] = json.loads(capsys.readouterr().out)["sets"]
    right = measured(embedding.load(place), pairs())
    for name, metric in right.items():
        assert found["metrics"][name] == significance.interval(metric, 40)._asdict()
    assert found["baseline"]["recall_at_1"]["value"] == 1
    assert minillm("compare", place, place, *words) == 0
    rows = json.loads(capsys.readouterr().out)["sets"][0]["metrics"]
    assert all(row["difference"] == 0 and row["better"] is None for row in rows.values())


@pytest.mark.parametrize(
    "row, detail",
    [
        ("a\t \t1", "['a', ' '] are no two texts, a pair of texts is needed"),
        ("a\tb\tx", "score is 'x', a number is needed"),
        ("a\tb\tnan", "score is 'nan', a number is needed"),
    ],
)
def test_bad_rows_stop_or_are_counted(tmp_path, row, detail):
    path = tmp_path / "pairs.tsv"
    path.write_text(f"first\tsecond\tscore\na\tb\t1\n{row}\nc\td\t2\n", encoding="utf-8")
    assert refused(path).startswith(f"read: {path} line 3: {detail}")
    found, notices = read_pairs(str(path), {}, "skip")
    assert [pair.score for pair in found] == [1, 2]
    assert "skipped 1 row" in notices[0]


def test_candidates_of_another_file_are_searched_as_well(place, tmp_path, capsys):
    rows = [f"{a}\t{b}\n" for a, b in zip(TEXTS, OTHERS, strict=True)]
    for name, chosen in (("pairs.tsv", rows[:3]), ("all.tsv", rows)):
        (tmp_path / name).write_text("first\tsecond\n" + "".join(chosen), encoding="utf-8")
    words = ["--task", "embed", "--data", tmp_path / "pairs.tsv", "--resamples", 40, "--json"]
    words += ["--candidates", tmp_path / "all.tsv"]
    assert minillm("eval", place, *words, "--baseline", tmp_path / "all.tsv") == 0
    [found] = json.loads(capsys.readouterr().out)["sets"]
    right = measured(embedding.load(place), pairs()[:3], OTHERS)
    assert right["mrr"].value != measured(embedding.load(place), pairs()[:3])["mrr"].value
    assert found["metrics"]["mrr"]["value"] == right["mrr"].value
    assert minillm("compare", place, place, *words) == 0
    [found] = json.loads(capsys.readouterr().out)["sets"]
    assert found["metrics"]["mrr"]["first"] == right["mrr"].value
    words[1] = "classify"
    assert minillm("eval", place, *words) == 2
    assert "--candidates goes with embed only" in capsys.readouterr().err


def test_what_is_no_set_of_pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"first": "a", "second": "b"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert refused(path) == f"read: {path} has 1 pair, at least 2 are needed"
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row | {'score': 1})}\n", encoding="utf-8")
    assert "has a score for some pairs only, for all or none is needed" in refused(path)
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row | {'negative': 'c'})}\n", encoding="utf-8")
    assert "has a negative for some pairs only" in refused(path)
    both = json.dumps(row | {"negative": "c", "score": 1}) + "\n"
    path.write_text(both * 2, encoding="utf-8")
    assert refused(path) == f"read: {path} has a score and a negative, one of them is needed"
