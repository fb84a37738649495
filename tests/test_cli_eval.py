"""`minillm eval` and `minillm compare`, and the figures of what needs no model."""

import json

import pytest

from minillm import no_grad
from minillm.models.folder import load_model, save_weights
from minillm.tasks import baselines, evaluation, heads, significance
from minillm.tasks.examples import Labelled, Question, Tagged
from minillm.tasks.kinds import TASKS
from small_runs import minillm
from small_tasks import folder

TEXTS = ["a good film", "bad film", "the film", "it was good", "a b", "c", "d e f", "g"]
LABELS = ["yes", "no", "perhaps", "yes", "no", "no", "yes", "perhaps"]
SENTENCES = "in O\nparis B-place\n\nthe O\neiffel B-thing\ntower I-thing\n\na B-place\nb O\n"
CONTEXT = "The Eiffel tower, was it built in 1889. Paris a b c d e f g a b c d e f g a b c d e"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two models of each task, and data of each."""
    top = tmp_path_factory.mktemp("eval")
    found = {task: folder(top / task, task, 40) for task in TASKS}
    for task in TASKS:  # the same model, but for a head that turns everything round
        place = found[f"{task} 2"] = folder(top / f"{task}2", task, 40)
        model = load_model(place)
        with no_grad():
            model.classifier.weight.copy_(-model.classifier.weight.numpy())
        save_weights(place, model)
    rows = "".join(f"{label}\t{text}\n" for label, text in zip(LABELS, TEXTS, strict=True))
    question = {"question": "who built it?", "context": CONTEXT, "answer": "Eiffel tower"}
    content = {
        "classify": (top / "texts.tsv", "label\ttext\n" + rows),
        "tag": (top / "words.conll", SENTENCES),
        "qa": (top / "questions.jsonl", 2 * (json.dumps(question) + "\n")),
    }
    for task, (path, text) in content.items():
        path.write_text(text, encoding="utf-8")
        found[f"{task} data"] = path
    return found


def told(capsys, *words):
    assert minillm(*words) == 0
    return capsys.readouterr()


def refused(capsys, *words):
    assert minillm(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def words_for(places, task, command="eval"):
    models = [places[task]] if command == "eval" else [places[task], places[f"{task} 2"]]
    return [command, *models, "--task", task, "--data", places[f"{task} data"]]


def metrics_of(places, name, task):
    ready = heads.load(TASKS[task], places[name])
    examples = TASKS[task].read(str(places[f"{task} data"]), {}).examples
    return evaluation.of_encoder(task).evaluate(ready, examples).metrics


class TestBaselines:
    def test_the_commonest_label(self):
        learnt = [Labelled(1, "x", "no"), Labelled(2, "y", "yes"), Labelled(3, "z", "no")]
        examples = [Labelled(1, "x", label) for label in ("no", "yes", "yes", "no", "no")]
        found = evaluation.of_encoder("classify").baseline(learnt, examples)
        assert found["accuracy"].value == 3 / 5
        assert found["macro_f1"].value == pytest.approx((2 * 3 / 8 + 0) / 2)

    def test_the_commonest_tag_of_each_word(self):
        learnt = [
            Tagged(1, ["may", "in", "may"], ["O", "O", "B-time"]),
            Tagged(2, ["may", "rome"], ["B-time", "B-place"]),
        ]
        examples = [Tagged(1, ["may", "rome", "new"], ["B-time", "B-place", "B-place"])]
        found = evaluation.of_encoder("tag").baseline(learnt, examples)
        assert found["precision"].value == 1
        assert found["recall"].value == pytest.approx(2 / 3)

    def test_the_window_that_shares_most_with_the_question(self):
        filler = "so so " * 20
        context = f"{filler}In 1889 the tower was built by Eiffel. {filler}"
        start, end, _ = baselines.window_like(Question(1, "Who built the tower?", context, (), ()))
        assert "the tower was built" in context[start:end]
        assert len(context[start:end].split()) == baselines.WINDOW
        rare = f"built built built {filler} tower {filler}"  # a rare word tells more
        start, end, _ = baselines.window_like(Question(1, "built tower", rare, (), ()))
        assert "tower" in rare[start:end]
        assert baselines.window_like(Question(1, "q", "one two", (), ()))[:2] == (0, 7)


@pytest.mark.parametrize("task", TASKS)
def test_figures_are_those_of_the_predictions_with_intervals(places, task, capsys):
    words = [*words_for(places, task), "--resamples", 50, "--seed", 3]
    baseline = ["--baseline", places[f"{task} data"]]
    found = json.loads(told(capsys, *words, *baseline, "--json").out)
    right = metrics_of(places, task, task)
    [one] = found["sets"]
    assert one["metrics"].keys() == one["baseline"].keys() == right.keys()
    for name, metric in right.items():
        assert one["metrics"][name] == significance.interval(metric, 50, 3)._asdict()
    lines = told(capsys, *words, *baseline).out.splitlines()
    assert lines[0].startswith(f"{task}: {one['examples']} example")
    assert lines[1].endswith(
        f"{one['metrics'][next(iter(right))]['value']:.4f}  (95 %: "
        f"{one['metrics'][next(iter(right))]['low']:.4f} to "
        f"{one['metrics'][next(iter(right))]['high']:.4f})"
    )
    assert f"without a model, {evaluation.of_encoder(task).without}:" in lines


@pytest.mark.parametrize("task", TASKS)
def test_two_models_are_compared_on_the_same_examples(places, task, capsys):
    words = [*words_for(places, task, "compare"), "--resamples", 50]
    found = json.loads(told(capsys, *words, "--json").out)["sets"][0]["metrics"]
    first, second = (metrics_of(places, name, task) for name in (task, f"{task} 2"))
    for name, row in found.items():
        assert (row["first"], row["second"]) == (first[name].value, second[name].value)
        gap = significance.difference(first[name], second[name], 50)
        assert (row["difference"], row["low"], row["high"], row["p"]) == gap[:4]
        assert ("mcnemar_p" in row) == (name in ("accuracy", "exact_match"))
    out = told(capsys, *words).out
    assert f"A {places[task]}\nB {places[f'{task} 2']}\n" in out
    assert "significant: a two-sided p of the paired bootstrap below 0.05" in out


def test_who_is_better_is_said_only_where_it_is_significant(places, tmp_path, capsys):
    ready = heads.load(TASKS["classify"], places["classify"])
    texts = [f"{a} {b} {c}" for a in "abcdef" for b in "abcdef" for c in "ab"]
    labels = [one.label for one in ready.predict(texts)[0]]
    path = tmp_path / "own.tsv"
    rows = zip(labels, texts, strict=True)
    path.write_text("label\ttext\n" + "".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    models = [places["classify"], places["classify 2"]]
    words = ["--task", "classify", "--data", path, "--resamples", 200]
    row = json.loads(told(capsys, "compare", *models, *words, "--json").out)["sets"][0]["metrics"]
    assert row["accuracy"]["first"] == 1 > row["accuracy"]["second"]
    assert row["accuracy"]["better"] == "first" and row["accuracy"]["only_second"] == 0
    assert "A is better; right alone: A " in told(capsys, "compare", *models, *words).out
    swapped = told(capsys, "compare", *models[::-1], *words, "--json").out
    assert json.loads(swapped)["sets"][0]["metrics"]["accuracy"]["better"] == "second"
    same = told(capsys, "compare", models[0], models[0], *words).out
    assert same.count("no significant difference") == 2


def test_several_files_and_a_part_of_each(places, capsys):
    data = places["classify data"]
    words = ["eval", places["classify"], "--task", "classify", "--data", data, data, "--last", 3]
    found = json.loads(told(capsys, *words, "--json").out)
    assert [one["examples"] for one in found["sets"]] == [3, 3]


def test_what_cannot_be_is_refused_in_one_line(places, tmp_path, capsys):
    words = words_for(places, "classify")
    assert refused(capsys, *words, "--last", 9) == (
        f"minillm: last: 9, 1 to 8 (the examples of {places['classify data']}) are needed"
    )
    data = places["classify data"]
    assert refused(capsys, "eval", "--task", "classify", "--data", data, places["classify"]) == (
        "minillm: eval: no PATH given, a value is needed; put it before --data, which takes all "
        "words after it"
    )
    assert refused(capsys, *words, "--resamples", 10**11) == (
        "minillm: resamples: 100000000000, 1000000 or less is needed"
    )
    assert refused(capsys, *words, "--resamples", 0) == "minillm: resamples: 0, 1 or more is needed"
    assert refused(capsys, *words, "--columns", "text") == (
        "minillm: columns: 'text', pairs such as text=review,label=stars are needed, each once"
    )
    assert "none named 'review'" in refused(capsys, *words, "--columns", "text=review")
    strange = tmp_path / "strange.tsv"
    strange.write_text("label\ttext\nyes\ta\nmaybe\tb\n", encoding="utf-8")
    words = ["eval", places["classify"], "--task", "classify", "--data", strange]
    assert "labels that the model does not know: 'maybe' (first in line 3), labels seen" in refused(
        capsys, *words
    )
    both = ["compare", places["classify"], *words[1:]]
    assert "or pass over them with --on-bad skip" in refused(capsys, *both)
    skipped = told(capsys, *both, "--on-bad", "skip", "--resamples", 9, "--json")
    assert json.loads(skipped.out)["sets"][0]["examples"] == 1
    assert skipped.err.count("passed over 1 example with labels") == 1
    done = told(capsys, *words, "--on-bad", "skip", "--resamples", 9)
    assert "passed over 1 example with labels that the model does not know" in done.err
    assert "is a BertForSequenceClassification, a BertForTokenClassification is needed" in refused(
        capsys, "eval", places["classify"], "--task", "tag", "--data", places["tag data"]
    )
