"""`minillm finetune --task`: runs that learn, go on bit for bit, and what is refused."""

import json

import numpy as np
import pytest

from minillm.formats import hf
from minillm.models.folder import load_model, save_weights
from minillm.tasks import heads
from minillm.tasks.examples import Labelled, Question, Tagged
from minillm.tasks.kinds import TASKS
from minillm.tasks.parts import split
from minillm.tasks.settings import TaskSettings
from minillm.training import metrics
from small_gpt2 import small as small_gpt2
from small_runs import minillm, result, tree
from small_tasks import folder

LOOP = ("--precision", "f32", "--threads", 1, "--batch", 4)
TEXTS = [
    ("good", "a good film"),
    ("bad", "a bad film"),
    ("good", "it was good , the good film"),
    ("bad", "bad , the bad a b c"),
    ("good", "good"),
    ("bad", "the bad"),
    ("good", "good a b c d"),
    ("bad", "it was bad"),
    ("good", "the good"),
    ("bad", "bad a"),
]
SENTENCES = (
    "in O\nparis B-place\n\nthe O\neiffel B-thing\ntower I-thing\n\nrome B-place\nb O\n\n" * 3
)
QUESTIONS = [
    ("who ?", "a b eiffel c", "eiffel"),
    ("in ?", "it was built in paris or rome in 1889 .", "1889"),
] * 3


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A base, and data of each task."""
    top = tmp_path_factory.mktemp("tuning")
    rows = "".join(f"{label}\t{text}\n" for label, text in TEXTS)
    keys = ("question", "context", "answer")
    questions = "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in QUESTIONS)
    found = {"base": folder(top / "base", hidden_dropout_prob=0.1)}
    for task, name, content in (
        ("classify", "texts.tsv", "label\ttext\n" + rows),
        ("tag", "words.conll", SENTENCES),
        ("qa", "questions.jsonl", questions),
    ):
        found[task] = top / name
        found[task].write_text(content, encoding="utf-8")
    return found


def tune(given, task, out, *words):
    return minillm(
        "finetune", given["base"], given[task], "--task", task, "--out", out, *LOOP, *words
    )


def refused(capsys, *words):
    assert minillm(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("minillm: ")
    return lines[-1].removeprefix("minillm: ")


@pytest.mark.parametrize("task", TASKS)
def test_a_run_learns_its_task(given, tmp_path, capsys, task):
    words = ("--lr", 0.02, "--steps", 100, "--val", given[task], "--eval-every", 25, "--dropout", 0)
    assert tune(given, task, tmp_path / "run", *words) == 0
    err = capsys.readouterr().err
    assert f"  minillm task {task} {tmp_path / 'run'} " in err
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    decides = TASKS[task].best.metric
    assert max(row.get(decides, 0) for row in rows) == 1
    assert rows[0]["loss"] > rows[-1]["loss"]
    ready = heads.load(TASKS[task], tmp_path / "run")
    examples = TASKS[task].read(str(given[task]), {}).examples
    predictions, _ = ready.predict([TASKS[task].input(example) for example in examples])
    found = TASKS[task].metrics(examples, predictions)
    assert found[decides.removeprefix("val_")].value == 1
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"minillm task {task}" in page and TASKS[task].head in page
    assert ready.labels == TASKS[task].labels(examples)


@pytest.mark.parametrize(
    "task, method", [("classify", "full"), ("tag", "last-n"), ("qa", "full"), ("classify", "head")]
)
def test_a_run_that_is_cut_goes_on_bit_for_bit(given, tmp_path, capsys, task, method):
    words = ("--method", method, "--steps", 11, "--accumulate", 2, "--eval-every", 3)
    words += ("--save-every", 4, "--val-fraction", 0.3)
    words += ("--last", 1) * (method == "last-n")
    words += ("--cloze", 2) * (task == "qa")
    assert tune(given, task, tmp_path / "whole", *words) == 0
    assert tune(given, task, tmp_path / "cut", *words, "--stop-after", 5) == 0
    assert minillm("finetune", "--resume", tmp_path / "cut", "--stop-after", 8) == 0
    assert minillm("finetune", "--resume", tmp_path / "cut") == 0
    assert result(tmp_path / "cut") == result(tmp_path / "whole")
    assert "resumed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "method, changed",
    [
        ("head", ("pooler", "classifier")),
        ("last-n", ("pooler", "classifier", "layers.1")),
        ("full", ("pooler", "classifier", "layers", "embeddings")),
    ],
)
def test_only_what_the_method_says_is_trained(given, tmp_path, method, changed):
    words = ("--method", method, "--steps", 3, "--val-fraction", 0, "--lr", 0.01)
    words += ("--last", 1) * (method == "last-n")
    assert tune(given, "classify", tmp_path / "run", *words) == 0
    before = heads.with_new_head(TASKS["classify"], given["base"], ("bad", "good"), 0).state_dict()
    after = load_model(tmp_path / "run").state_dict()
    moved = {name for name, array in after.items() if not np.array_equal(array, before[name])}
    assert moved and all(name.startswith(changed) for name in moved)
    assert all(any(name.startswith(part) for name in moved) for part in changed)


def test_examples_are_held_out_from_the_end_or_by_the_seed(given, tmp_path):
    def parts(name, *words):
        assert tune(given, "classify", tmp_path / name, "--steps", 1, *words) == 0
        content = hf.read_json(tmp_path / name / "training" / "examples.json")
        return [[row[1:] for row in content[part]] for part in ("train", "val")]

    rows = [[text, label] for label, text in TEXTS]
    assert parts("last", "--val-last", 3) == [rows[:-3], rows[-3:]]
    train, val = parts("share", "--val-fraction", 0.3)
    assert len(val) == 3 and sorted(train + val) == sorted(rows)
    assert parts("again", "--val-fraction", 0.3) == [train, val]
    assert parts("seed", "--val-fraction", 0.3, "--seed", 1)[1] != val
    assert parts("none", "--val-fraction", 0) == [rows, []]
    assert parts("file", "--val", given["classify"]) == [rows, rows]


@pytest.mark.parametrize("task", TASKS)
def test_equal_texts_fall_on_one_side(task):
    kinds = {
        "classify": lambda n: Labelled(n, f"text {n % 12}", "yes"),
        "tag": lambda n: Tagged(n, ["word", str(n % 12)], ["O", "O"]),
        "qa": lambda n: Question(n, f"asks {n}", f"text {n % 12}", ("text",), (0,)),
    }
    examples = [kinds[task](n) for n in range(48)]
    train, val = split(TASKS[task], examples, TaskSettings(task=task, val_fraction=0.25))
    sides = [{str(TASKS[task].text(one)) for one in side} for side in (train, val)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 12
    assert len(val) == 12 and sorted(train + val) == examples


def test_texts_on_both_sides_are_counted(given, tmp_path, capsys):
    def told(name, *words):
        assert tune(given, "classify", tmp_path / name, "--steps", 1, *words) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "learnt from too" in line]

    everything = "data: 10 of 10 examples to validate on have a text that is learnt from too"
    assert told("file", "--val", given["classify"]) == [everything]
    assert told("last", "--val-last", 3) == told("share", "--val-fraction", 0.3) == []


def test_a_label_of_an_example_held_out_is_known(given, tmp_path, capsys):
    rows = "label\ttext\ngood\ta\nbad\tb\nfine\tc\n"
    (tmp_path / "rows.tsv").write_text(rows, encoding="utf-8")
    words = ("--val-last", 1, "--steps", 2)
    assert (
        tune(given | {"classify": tmp_path / "rows.tsv"}, "classify", tmp_path / "run", *words) == 0
    )
    assert heads.load(TASKS["classify"], tmp_path / "run").labels == ("bad", "fine", "good")
    assert "2 examples to learn from, 1 to validate on, 3 labels" in capsys.readouterr().err


def test_passes_are_counted_in_steps(given, tmp_path):
    words = ("--passes", 3, "--val-fraction", 0, "--save-every", 100)
    assert tune(given, "classify", tmp_path / "run", *words) == 0
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["step"] == 8  # 3 x 10 examples, 4 a step
    content = hf.read_json(tmp_path / "run" / "training" / "settings.json")
    TaskSettings(
        **{n.replace("-", "_"): v for n, v in content.items() if n not in ("files", "command")}
    )


def test_bad_rows_stop_or_are_counted(given, tmp_path, capsys):
    rows = "label\ttext\ngood\ta\nbad\nbad\tb\nbad\t \ngood\tc\n"
    (tmp_path / "rows.tsv").write_text(rows, encoding="utf-8")
    given = given | {"classify": tmp_path / "rows.tsv"}
    words = ("finetune", given["base"], given["classify"], "--task", "classify", *LOOP)
    before = tree(tmp_path)
    assert refused(capsys, *words, "--out", tmp_path / "run").startswith(
        f"read: {tmp_path / 'rows.tsv'} line 3: 1 column, a row of 2 is needed"
    )
    assert tree(tmp_path) == before and not (tmp_path / "run").exists()
    skip = ("--on-bad", "skip", "--steps", 1, "--val-fraction", 0)
    assert tune(given, "classify", tmp_path / "run", *skip) == 0
    assert (
        f"data: skipped 2 rows of {tmp_path / 'rows.tsv'}: 1 with another number of columns (first "
        "in line 3), 1 with an empty text (first in line 5)"
    ) in capsys.readouterr().err


class TestRefusals:
    def words(self, given, tmp_path, task="classify", **changes):
        given = given | changes
        return ("finetune", given["base"], given[task], "--task", task, "--out", tmp_path / "run")

    def test_what_leaves_nothing_to_learn(self, given, tmp_path, capsys):
        def of(content, name, task, *words):
            path = tmp_path / name
            path.write_text(content, encoding="utf-8")
            changes = {task: path}
            return refused(capsys, *self.words(given, tmp_path, task, **changes), *words)

        one = "label\ttext\nyes\ta\nyes\tb\n"
        assert of(one, "one.tsv", "classify", "--val-fraction", 0) == (
            "classify: all 2 examples have the label 'yes', at least 2 labels are needed"
        )
        assert "have the tag O, at least 1 entity" in of("a O\n", "o.conll", "tag")
        assert "has no rows, at least 1 is needed" in of("", "none.tsv", "classify")
        row = {"question": "q", "context": "a b", "answer": "z"}
        assert "line 1: the answer 'z' is not in the context" in of(
            json.dumps(row), "q.jsonl", "qa"
        )
        assert not (tmp_path / "run").exists()

    def test_labels_of_validation_that_training_lacks(self, given, tmp_path, capsys):
        (tmp_path / "val.tsv").write_text("label\ttext\ngood\ta\nfine\tb\n", encoding="utf-8")
        words = (*self.words(given, tmp_path), "--val", tmp_path / "val.tsv")
        assert f"read: {tmp_path / 'val.tsv'} has 1 example with labels that the model" in refused(
            capsys, *words
        )
        assert minillm(*words, "--on-bad", "skip", "--steps", 1, *LOOP) == 0

    def test_other_mistakes(self, given, tmp_path, capsys):
        from minillm.models.folder import save_model

        words = self.words(given, tmp_path)
        save_model(tmp_path / "gpt2", small_gpt2())
        for more, message in (
            (("--val-last", 10), "val-last: 10 of 10 examples, at least 1 to learn from is needed"),
            (("--val", "x", "--val-last", 2), "finetune: both --val and --val-last given, one of"),
            (("--steps", 2, "--passes", 2), "finetune: both --steps and --passes given, one of"),
            (("--cloze", 2), "finetune: --cloze 2 goes with --task qa only"),
            (("--val-last", 2, "--val-fraction", 0.2), "finetune: both --val-last and --val-fract"),
            (("--last", 1), "finetune: --last goes with --method last-n only"),
            (("--columns", "txt=a"), "columns: no field 'txt', some of label, text are needed"),
            (("--max-length", 99), "max-length: 99, 4 to 24 (the model's) is needed"),
            (("--columns", "text"), "columns: 'text', pairs such as"),
            (("--method", "last-n", "--last", 3), "finetune: --last 3, the model has 2 blocks"),
        ):
            assert refused(capsys, *words, *more).startswith(message)
        assert "is a decoder, an encoder is needed, such as BERT" in refused(
            capsys, *self.words(given, tmp_path, base=tmp_path / "gpt2")
        )
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "x").touch()
        assert "exists already; name another --out" in refused(capsys, *words)

    def test_options_of_other_runs(self, given, tmp_path, capsys):
        words = self.words(given, tmp_path)
        assert refused(capsys, *words, "--beta", 0.2) == (
            "finetune: --beta goes without --task only; leave it out"
        )
        assert refused(capsys, "finetune", given["base"], given["classify"], "--passes", 2) == (
            "finetune: --passes goes with --task only; leave it out"
        )
        assert tune(given, "classify", tmp_path / "run", "--steps", 2, "--stop-after", 1) == 0
        capsys.readouterr()
        resume = ("finetune", "--resume", tmp_path / "run")
        assert refused(capsys, *resume, "--beta", 0.2) == (
            "finetune: --beta is not of this run; leave it out"
        )
        assert refused(capsys, *resume, "--task", "classify") == (
            "resume: --task cannot be changed, a run goes on as it began; start a new run for "
            "other settings"
        )

    def test_going_on_with_another_base(self, given, tmp_path, capsys):
        base = folder(tmp_path / "base")
        changed = given | {"base": base}
        assert tune(changed, "classify", tmp_path / "run", "--steps", 4, "--stop-after", 2) == 0
        capsys.readouterr()
        message = (
            f"resume: {base} is not what it was when this run began (other weights or settings), "
            "the same base is needed"
        )
        folder(base, layer_norm_eps=0.1)
        assert refused(capsys, "finetune", "--resume", tmp_path / "run") == message
        model = load_model(folder(base))
        model.layers[0].joint.weight.data[0, 0] += 1
        save_weights(base, model)
        assert refused(capsys, "finetune", "--resume", tmp_path / "run") == message
        folder(base)
        assert minillm("finetune", "--resume", tmp_path / "run", "--stop-after", 3) == 0


@pytest.mark.parametrize("method, words", [("full", ()), ("full", ("--recompute",)), ("head", ())])
def test_batches_that_memory_cannot_hold_are_refused(given, tmp_path, capsys, method, words):
    out = tmp_path / "run"
    line = ("finetune", given["base"], given["classify"], "--task", "classify", "--method", method)
    assert minillm(*line, *words, "--batch", 10**9, "--out", out) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("minillm: finetune: about ")
    assert said.endswith("are free; choose a smaller --batch or --max-length, or --recompute")
    assert not out.exists()
