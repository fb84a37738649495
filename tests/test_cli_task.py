"""`minillm task`: what it prints, as JSON and for people, and what it refuses."""

import json

import pytest

from minillm.tasks import heads
from minillm.tasks.kinds import TASKS
from small_runs import minillm
from small_tasks import folder

CONTEXT = "It was built in 1889.\n The Eiffel tower is in Paris."


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    top = tmp_path_factory.mktemp("tasks")
    return {task: folder(top / str(task), task, 40) for task in (None, *TASKS)}


def told(capsys, *words):
    assert minillm("task", *words) == 0
    return capsys.readouterr()


def refused(capsys, *words):
    assert minillm("task", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_classes(places, tmp_path, capsys):
    place, texts = places["classify"], ["a good film", "bad  b"]
    (tmp_path / "f").write_text("\ufeffa good film\n\n", encoding="utf-8")
    out = told(capsys, "classify", place, "bad  b", "--file", tmp_path / "f", "--json").out
    found = [json.loads(line) for line in out.splitlines()]
    predictions, _ = heads.load(TASKS["classify"], place).predict(texts)
    assert [one["text"] for one in found] == texts[::-1]
    for one, right in zip(found, predictions[::-1], strict=True):
        assert (one["label"], one["probabilities"]) == (right.label, right.probabilities)
    out = told(capsys, "classify", place, *texts, "--top", 2).out.splitlines()
    first, second = sorted(predictions[0].probabilities.items(), key=lambda one: -one[1])[:2]
    assert out[0] == f"{first[0]} {first[1]:.1%}  {second[0]} {second[1]:.1%}  a good film"
    assert out[1].endswith("  bad b")
    long = told(capsys, "classify", place, "a " * 50)
    assert long.err == "minillm: note: classify: 1 of 1 text cut to 40 tokens\n"


def test_tags(places, capsys):
    place, text = places["tag"], "It was (the) tower in Paris , rome"
    found = json.loads(told(capsys, "tag", place, text, "--json").out)
    assert found["words"] == "It was ( the ) tower in Paris , rome".split()
    [prediction], _ = heads.load(TASKS["tag"], place).predict([found["words"]])
    assert found["tags"] == [prediction[k] for k in range(10)]
    assert found["entities"]
    for one in found["entities"]:
        assert one["text"] == text[one["start"] : one["end"]]
    lines = told(capsys, "tag", place, text).out.splitlines()
    assert lines[0] == text
    assert lines[1:] == [f"  {one['type']}: {one['text']}" for one in found["entities"]]


def test_answers(places, tmp_path, capsys):
    place, question = places["qa"], "Who built it?"
    found = json.loads(told(capsys, "qa", place, question, CONTEXT, "--json").out)
    assert found["answer"] == CONTEXT[found["start"] : found["end"]] != ""
    assert 0 < found["probability"] <= 1
    (tmp_path / "f").write_text(CONTEXT, encoding="utf-8")
    line = told(capsys, "qa", place, question, "--file", tmp_path / "f").out
    assert line == (
        f"{' '.join(found['answer'].split())}  ({found['probability']:.1%}, characters "
        f"{found['start']} to {found['end']})\n"
    )


def test_vectors_are_those_of_embed(places, capsys):
    out = told(capsys, "embed", places[None], "a b", "c", "--json").out
    assert minillm("embed", places[None], "a b", "c", "--json") == 0
    assert capsys.readouterr().out == out


def test_what_cannot_be_is_refused_in_one_line(places, tmp_path, capsys):
    assert refused(capsys, "classify", places["classify"]) == (
        "minillm: classify: no text given, at least 1 is needed"
    )
    assert refused(capsys, "tag", places["tag"], "a", " ") == (
        "minillm: tag: input 2 is blank, a text is needed"
    )
    assert refused(capsys, "qa", places["qa"], "a").startswith(
        "minillm: qa: 1 inputs given, a question and a text are needed: minillm task qa PATH"
    )
    assert "is a BertModel, a BertForSequenceClassification is needed; make one with: " in refused(
        capsys, "classify", places[None], "a"
    )
    assert refused(capsys, "tag", places["tag"], "--top", 2, "a") == (
        "minillm: tag: --top goes with classify or recommend only"
    )
    assert refused(capsys, "classify", places["classify"], "a", "--top", 0) == (
        "minillm: top: 0, 1 or more is needed"
    )
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    assert refused(capsys, "classify", places["classify"], "--file", tmp_path / "latin") == (
        f"minillm: classify: byte 0xE9 of {tmp_path / 'latin'}, at offset 3, is not UTF-8, a text "
        "in UTF-8 is needed"
    )
    assert "clasify" in refused(capsys, "clasify", places["classify"], "a")
    assert "no such file" in refused(
        capsys, "classify", places["classify"], "--file", tmp_path / "none"
    )
