"""Multiple choice by likelihood, against sums of log-probabilities from whole forward passes."""

import json

import numpy as np
import pytest

from minillm import no_grad
from minillm.generation.continuations import continuations, continued_ids
from minillm.generation.reading import Reader
from minillm.models import folder
from minillm.tasks.choice import Choice
from minillm.tasks.evaluation import Decoder
from minillm.tasks.templates import Template
from minillm.tokenizers import CharTokenizer
from small_gpt2 import small
from small_runs import minillm

TOKENIZER = CharTokenizer.from_characters("abcdefgh é.", ())
ROWS = [
    {"question": "ab", "choices": ["c", "dd", "e"], "answer": 1},
    {"question": "a", "choices": ["é", "bb"], "answer": "A"},  # é has one character, two bytes
    {"ctx": "cab", "endings": ["a", "bb", "ch"], "label": "2"},
    {"question": "a", "choices": {"text": ["hhh", "b"], "label": ["1", "2"]}, "answerKey": "2"},
    {"query": "dd", "choices": ["ab", "ba"], "gold": "ba"},
]
RIGHT = [1, 0, 2, 1, 1]


def likelihoods(row):
    """Sums of log p of " choice" after the question: one forward pass each, in float64."""
    question = next(row[name] for name in ("question", "ctx", "query") if name in row)
    choices = row.get("choices", row.get("endings"))
    texts = choices["text"] if isinstance(choices, dict) else choices
    model, sums = small(n_positions=12).astype("float64"), []
    for text in texts:
        ids = TOKENIZER.encode(f"{question} {text}")
        with no_grad():
            logits = model(np.array([ids])).numpy()[0]
        logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        begin = len(TOKENIZER.encode(question))
        sums.append(sum(logs[place - 1, ids[place]] for place in range(begin, len(ids))))
    return texts, np.array(sums)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def data(tmp_path):
    return written(tmp_path / "q.jsonl", ROWS)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("choice") / "model"
    folder.save_model(place, small(n_positions=12), TOKENIZER)
    return place


class TestFigures:
    def test_acc_and_acc_norm_are_those_of_a_hand_count(self, data):
        measure = Choice()
        examples = measure.read(data, {}).examples
        assert [one.answer for one in examples] == RIGHT
        acc, norm = [], []
        for row, right in zip(ROWS, RIGHT, strict=True):
            texts, sums = likelihoods(row)
            acc.append(float(sums.argmax() == right))
            sizes = np.array([len(text.encode("utf-8")) for text in texts])
            norm.append(float((sums / sizes).argmax() == right))
        assert acc != norm and len(set(acc)) == 2  # else the case would show nothing
        decoder = Decoder(small(n_positions=12), TOKENIZER)
        found = measure.evaluate(decoder, examples)
        assert found.metrics["acc"].statistics[:, 0].tolist() == acc
        assert found.metrics["acc_norm"].statistics[:, 0].tolist() == norm
        assert found.notices == []

    def test_what_needs_no_model(self, data):
        measure = Choice()
        examples = measure.read(data, {}).examples
        found = measure.baseline(examples, examples)
        assert found["random"].value == pytest.approx((1 / 3 + 1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 5)
        assert found["longest"].value == 2 / 5  # dd, é (the first of equals); not bb, hhh, ab
        assert found["usual place"].value == 3 / 5

    def test_a_number_is_a_label_where_there_are_labels(self, tmp_path):
        choices = {"text": ["b", "c", "d"], "label": ["1", "2", "3"]}
        rows = [{"question": "a", "choices": choices, "answerKey": key} for key in (1, "1", 3)]
        found = Choice().read(written(tmp_path / "l.jsonl", rows), {}).examples
        assert [one.answer for one in found] == [0, 0, 2]

    def test_the_prompt_is_written_with_the_fields_of_the_row(self, tmp_path):
        rows = [{"question": "a", "hint": "b", "choices": ["c", "d"], "answer": 0}]
        path = written(tmp_path / "h.jsonl", rows)
        decoder = Decoder(small(n_positions=12), TOKENIZER)
        measure = Choice("{hint}.{question}")
        one = measure.evaluate(decoder, measure.read(path, {}).examples).metrics["acc"].value
        _, sums = likelihoods({"question": "b.a", "choices": ["c", "d"]})
        assert one == float(sums.argmax() == 0)


class TestContinuations:
    def test_sums_and_whether_they_are_the_most_probable(self):
        reader = Reader(small(n_positions=12))
        context, candidates = [1, 4, 2], [[5], [0, 7, 3], [2, 2]]
        model = small(n_positions=12).astype("float64")
        for found, ids in zip(continuations(reader, context, candidates), candidates, strict=True):
            with no_grad():
                logits = model(np.array([context + ids])).numpy()[0]
            logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            right = sum(logs[len(context) - 1 + k, id] for k, id in enumerate(ids))
            assert found.total == pytest.approx(right, abs=1e-5)
        best = []
        for _ in range(3):
            with no_grad():
                best.append(int(model(np.array([context + best])).numpy()[0, -1].argmax()))
        greedy, other = continuations(reader, context, [best, [*best[:2], (best[2] + 1) % 10]])
        assert greedy.greedy and not other.greedy

    def test_the_front_of_a_long_context_is_left_out_for_all(self):
        reader = Reader(small(n_positions=6))
        context, candidates = [1, 4, 2, 8, 5, 7, 1], [[5], [0, 7, 3]]
        cut = continuations(reader, context, candidates)
        assert [one.cut for one in cut] == [3, 3]
        short = continuations(reader, context[3:], candidates)
        assert [one.total for one in cut] == [one.total for one in short]
        with pytest.raises(ValueError, match=r"continuation: 7 tokens, 1 to 6 \(the model's"):
            continuations(reader, context, [[1] * 7])

    def test_spaces_go_to_the_continuation(self):
        ids = TOKENIZER.encode("ab c")
        assert continued_ids(TOKENIZER, "ab ", "c") == (ids[:2], ids[2:])
        assert continued_ids(TOKENIZER, "ab", " c") == (ids[:2], ids[2:])
        with pytest.raises(ValueError, match="continuation: '' adds no token"):
            continued_ids(TOKENIZER, "ab", "")
        with pytest.raises(ValueError, match="an empty context, and the tokenizer has no token"):
            continued_ids(TOKENIZER, "", "ab")


class TestCommand:
    def test_the_table_beside_what_needs_no_model(self, place, data, capsys):
        words = ["--task", "choice", "--data", data, "--baseline", data, "--resamples", 50]
        assert minillm("eval", place, *words) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"choice: 5 examples of {data}\n  acc ")
        assert "without a model, a choice at random, the longest one, the place most" in out
        assert minillm("compare", place, place, *words[:4], "--json") == 0
        rows = json.loads(capsys.readouterr().out)["sets"][0]["metrics"]
        assert rows["acc"]["better"] is None and rows["acc"]["mcnemar_p"] == 1

    @pytest.mark.parametrize("row, line", [
        ({"question": "a", "choices": ["b", "c"], "answer": 2}, "the answer 2 is none of the 2 ch"),
        ({"question": "a", "choices": ["b", "c"], "answer": "D"}, "the answer 'D' is none of the"),
        ({"question": "a", "choices": ["b", "c"], "answer": True}, "the answer True is none of"),
        (
            {"question": "a", "choices": {"text": ["b", "c"], "label": ["1", "2"]}, "answer": 0},
            "the answer 0 is none of the 2 choices",
        ),
        (
            {"question": "a", "choices": {"text": ["b", "c"], "label": ["A"]}, "answer": "A"},
            "1 label of 2 choices, one of each is needed",
        ),
        ({"question": "a", "choices": ["b"], "answer": 0}, "no two choices, or no question"),
        ({"question": "a", "choices": ["b", ""], "answer": 0}, "no two choices, or no question"),
        ({"question": "a", "answer": 0}, "no choices but 'question', 'answer', choices is needed"),
        ({"choices": ["b", "c"], "answer": 0}, "no question but 'choices', 'answer'"),
    ])  # fmt: skip
    def test_bad_rows_stop_or_are_counted(self, place, tmp_path, row, line, capsys):
        path = written(tmp_path / "bad.jsonl", [ROWS[0], row])
        words = ["eval", place, "--task", "choice", "--data", path]
        assert minillm(*words) == 2
        assert f"bad.jsonl line 2: {line}" in capsys.readouterr().err
        assert minillm(*words, "--on-bad", "skip", "--json") == 0
        done = capsys.readouterr()
        assert json.loads(done.out)["sets"][0]["examples"] == 1
        assert "skipped 1 row of" in done.err

    @pytest.mark.parametrize("words, line", [
        (["--prompt", "{a b}"], "prompt: '{a b}' has {a b}, fields as {name} are needed"),
        (["--prompt", "{"], "prompt: '{': "),
        (["--prompt", "{hint}"], "line 1: no field 'hint', what the prompt names is needed"),
        (["--max-length", "3"], "eval: --max-length goes with classify or tag or qa or embed only"),
        (["--data", "none.tsv"], "read: none.tsv is no .jsonl file by its name, one is needed"),
    ])  # fmt: skip
    def test_what_cannot_be(self, place, data, words, line, capsys):
        given = words if "--data" in words else ["--data", data, *words]
        assert minillm("eval", place, "--task", "choice", *given) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and line in said[0]


def test_braces_in_a_prompt():
    assert Template("{{{a}}} {b}").filled({"a": 1, "b": "x", "c": 2}) == "{1} x"
