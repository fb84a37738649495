"""Metrics of the tasks against frozen values of scikit-learn, seqeval, SciPy and SQuAD's script."""

import itertools

import numpy as np
import pytest

from minillm.tasks import metrics, significance

# scikit-learn 1.9.1: accuracy_score and f1_score(average="macro"), whose "e" is never expected
EXPECTED = "ccadbabacdbdababdcbdbabdbbaabbbbccbbbbdcacdbbcaccacacccdcbdd"
PREDICTED = "accababdcdbdadabdabcaabdbbeacbbbdcbeabddbcacbedccacaeecddbda"
ACCURACY, MACRO_F1 = 0.6166666666666667, 0.5008068508068508

# seqeval 1.2.2 in its default mode, which is conlleval's; x and y begin an entity, X and Y go on
TAGS = {"O": "O", "x": "B-x", "X": "I-x", "y": "B-y", "Y": "I-y"}
WANTED = """YxyXxOy YYYXO YOXXYX XXXxYOyY XXyXY XXXyXx XXYxYxxX XOyxYYYy YYXOx YyY xxO xxOxOXxy
    YOyy yYOYxx OXyXyO XOYYXOXYY YXXxyy XyxxYyYyx YOX y XY xXYyyyxyX yyxYYXXy yOXXy xyOOY"""
GIVEN = """xxyXxOO YYYXO YOXOYX XYXxYOYY XXyXY XXYyyy XXXxXyxX XOyxXYYy YXOOx OyY xxO xyOxOXxy
    YOyy yYOYxx OXxXyO XYYYXOXYY YXxxyy XyYxYyOOx YyX y Xy xyYyyyxyX XyXYYXyy yOXXX xyYXY"""
ENTITIES = {"f1": 0.6798029556650248, "precision": 0.6831683168316832, "recall": 0.6764705882352942}

# SQuAD's script (v2.0): accepted answers, prediction, exact, F1
ANSWERS = [
    (["The Eiffel Tower"], "eiffel tower.", 1, 1.0),
    (["in 1889", "1889"], "the year 1889", 0, 2 / 3),
    (["a theatre"], "theatre the an", 1, 1.0),
    (["can't"], "can t", 0, 0),
    (["naïve Bayes — model"], "Naïve bayes model", 0, 6 / 7),
    (["the"], "an", 1, 1),
    (["the the cat"], "dog", 0, 0),
    (["cat cat dog"], "cat dog dog", 0, 2 / 3),
]

# scikit-learn's ndcg_score(k=5); scores of 12 documents, and which of them are relevant
SCORES = [
    [9, 2, 7, 4, 5, 11, 0, 3, 6, 10, 8, 1],
    [10, 9, 5, 4, 2, 7, 6, 1, 3, 11, 8, 0],
    [4, 5, 7, 6, 2, 3, 10, 9, 11, 8, 1, 0],
    [1, 2, 5, 8, 0, 4, 7, 9, 11, 6, 10, 3],
    [7, 6, 4, 2, 3, 10, 0, 11, 8, 1, 9, 5],
]
RELEVANT = [{0, 7, 9}, {0, 2, 4, 7, 8, 10, 11}, {0, 1, 3, 6}, {0}, {0, 1, 5, 9}]
NDCG = [0.5307212739772434, 0.3600546145772339, 0.24630238874072993, 0.0, 0.3973220069685352]


def tags(text):
    return [[TAGS[letter] for letter in word] for word in text.split()]


def test_accuracy_and_macro_f1_are_those_of_scikit_learn():
    assert metrics.accuracy(EXPECTED, PREDICTED).value == pytest.approx(ACCURACY, abs=1e-15)
    assert metrics.macro_f1(EXPECTED, PREDICTED).value == pytest.approx(MACRO_F1, abs=1e-15)


def test_entities_are_those_of_seqeval():
    found = metrics.entity_metrics(tags(WANTED), tags(GIVEN))
    assert {name: metric.value for name, metric in found.items()} == pytest.approx(ENTITIES)
    assert metrics.entities(["B-x", "E-x", "I-x", "S-y", "I-y", "O", "E-x"]) == {
        ("x", 0, 1),
        ("x", 2, 2),
        ("y", 3, 3),
        ("y", 4, 4),
        ("x", 6, 6),
    }
    nothing = metrics.entity_metrics([["O"]], [["O"]])
    assert [metric.value for metric in nothing.values()] == [0, 0, 0]


def test_answers_are_scored_as_by_squads_script():
    for answers, given, exact, f1 in ANSWERS:
        assert metrics.exact_match([answers], [given]).value == exact
        assert metrics.answer_f1([answers], [given]).value == pytest.approx(f1, abs=1e-15)
    accepted, given, exact, f1 = map(list, zip(*ANSWERS, strict=True))
    assert metrics.exact_match(accepted, given).value == pytest.approx(np.mean(exact))
    assert metrics.answer_f1(accepted, given).value == pytest.approx(np.mean(f1))


def test_rankings_are_scored_as_by_scikit_learn():
    ranked = np.argsort(-np.array(SCORES), axis=1).tolist()
    for wanted, order, ndcg in zip(RELEVANT, ranked, NDCG, strict=True):
        assert metrics.ndcg_at(5, [wanted], [order]).value == pytest.approx(ndcg, abs=1e-15)
    assert metrics.ndcg_at(5, RELEVANT, ranked).value == pytest.approx(np.mean(NDCG))
    shares = [2 / 3, 2 / 7, 1 / 4, 0, 1 / 2]  # counted by hand among the first 5
    assert metrics.recall_at(5, RELEVANT, ranked).value == pytest.approx(np.mean(shares))
    assert metrics.recall_at(12, RELEVANT, ranked).value == 1


def test_spearman_shares_ranks_as_scipy_does():
    one = [0, 1, 1, 5, 1, 0, 2, 3, 3, 1, 4, 2, 0, 2, 1, 2, 5, 1, 0, 3]
    other = [0, 3, 3, 7, 1, 5, 2, 8, 6, 4, 5, 2, 5, 4, 3, 5, 10, 2, 5, 4]
    assert metrics.spearman(one, other).value == pytest.approx(0.48133702387302235, abs=1e-14)
    assert metrics.spearman(one, -np.exp(one)).value == pytest.approx(-1)
    assert metrics.spearman([1, 1], [1, 2]).value == 0
    found = significance.interval(metrics.spearman(one, other), 500)
    assert -1 < found.low < 0.3 < found.value < 0.6 < found.high < 1


def test_a_metric_of_repeated_examples_is_that_of_their_sums():
    weights = np.arange(len(EXPECTED)) % 3.0
    repeated = [
        "".join(letter * int(weight) for letter, weight in zip(text, weights, strict=True))
        for text in (EXPECTED, PREDICTED)
    ]
    for metric in (metrics.accuracy, metrics.macro_f1):
        whole = metric(EXPECTED, PREDICTED)
        assert float(whole.finish(weights @ whole.statistics)) == pytest.approx(
            metric(*repeated).value
        )


def test_an_interval_is_that_of_all_resamples():
    metric = metrics.mean([0, 1, 1, 1])
    every = sorted(np.mean(draw) for draw in itertools.product([0, 1, 1, 1], repeat=4))
    found = significance.interval(metric, resamples=20_000)
    assert found.value == 0.75
    assert (found.low, found.high) == (np.quantile(every, 0.025), np.quantile(every, 0.975))
    assert found == significance.interval(metric, resamples=20_000)
    assert significance.interval(metric, 10).low != significance.interval(metric, 10, seed=3).low


@pytest.mark.parametrize("n", [1, 3, 5, 6])
def test_a_few_examples_that_all_agree_may_be_chance(n):
    """Heads n times in a row or tails n times: 2^(1 - n)."""
    worse, better = metrics.mean([0.1] * n), metrics.mean([0.9] * n)
    found = significance.difference(worse, better)
    assert found.p == 2.0 ** (1 - n)
    assert found.significant == (n == 6)


def test_a_difference_is_taken_on_the_same_examples():
    right = np.arange(400) % 2.0
    better = np.where(np.arange(400) % 40, right, 1)  # right on 10 more, wrong on none
    found = significance.difference(metrics.mean(right), metrics.mean(better))
    assert found.value == pytest.approx(0.025)
    assert 0 < found.low < 0.025 < found.high < 0.05
    assert found.significant
    alone = [significance.interval(metrics.mean(scores)) for scores in (right, better)]
    assert alone[0].high > alone[1].value  # which unpaired intervals do not show
    same = significance.difference(metrics.mean(right), metrics.mean(right))
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert not same.significant
    with pytest.raises(ValueError, match="compare: 400 and 3 examples, the same examples are need"):
        significance.difference(metrics.mean(right), metrics.mean([1, 1, 0]))


@pytest.mark.parametrize(
    "first, second, p", [(3, 12, 0.03515625), (8, 8, 1.0), (5, 0, 0.0625), (0, 0, 1.0)]
)
def test_mcnemar_is_the_exact_binomial_test_of_scipy(first, second, p):
    one = np.array([True] * first + [False] * second + [True, False, False])
    other = np.array([False] * first + [True] * second + [True, False, False])
    assert significance.mcnemar(one, other) == (first, second, p)
