"""ROUGE against frozen values of rouge-score 0.1.2, and summaries that a decoder writes."""

import json
import re

import pytest

from minillm.models import folder
from minillm.tasks.rouge import rouge
from minillm.tasks.summaries import Summaries, read_summaries
from small_bigram import saved
from small_runs import minillm

FROZEN = [  # reference, text, and its ROUGE-1, -2 and -L without stemming
    ("the cat sat on the mat", "the cat was found under the bed",
     0.461538461538, 0.181818181818, 0.461538461538),
    ("We propose a novel method, called X-2, for 3D vision.",
     "A method for 3D vision called X-2 is proposed; it's novel.", 0.75, 0.363636363636,
     0.416666666667),
    ("police killed the gunman", "the gunman kill police", 0.75, 0.333333333333, 0.5),
    ("a b c d e f g", "g f e d c b a", 1.0, 0.0, 0.142857142857),
    ("one two three", "one two three", 1.0, 1.0, 1.0),
    ("words", "none here", 0.0, 0.0, 0.0),
    ("a a a b", "a b b", 0.571428571429, 0.4, 0.571428571429),
    ("", "x", 0.0, 0.0, 0.0),
]  # fmt: skip
ANSWER = "zy w"


@pytest.mark.parametrize("reference, text, one, two, longest", FROZEN)
def test_rouge_is_that_of_rouge_score(reference, text, one, two, longest):
    found = rouge([[reference]], [text])
    assert found["rouge_1"].value == pytest.approx(one, abs=1e-11)
    assert found["rouge_2"].value == pytest.approx(two, abs=1e-11)
    assert found["rouge_l"].value == pytest.approx(longest, abs=1e-11)


def test_the_best_of_several_references_counts_and_texts_are_averaged():
    found = rouge([["the cat sat", "a dog ran off"], ["x y"]], ["a dog sat", "x y"])
    assert found["rouge_1"].value == pytest.approx((0.5714285714285715 + 1) / 2)
    assert found["rouge_2"].value == pytest.approx((0.4 + 1) / 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model that answers every message with ANSWER, and that ends its turn then."""
    chain = f"\n{ANSWER}<|im_end|>"
    return saved(tmp_path_factory.mktemp("summaries") / "model", chain, context=160)


def rows(path, *found):
    lines = (json.dumps({"source": source, "targets": texts}) for source, texts in found)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_model_is_measured_beside_the_first_sentence(place, tmp_path, capsys):
    data = rows(
        tmp_path / "test.jsonl",
        ("First one here. And more.", ["zy w", "other"]),
        ("Second! It is longer.", "second it is"),
        ("b" * 300, ["zy q"]),
    )
    words = ("--task", "summarize", "--data", data, "--baseline", data, "--json", "--resamples", 9)
    assert minillm("eval", place, *words, "--max-tokens", 12) == 0
    captured = capsys.readouterr()
    [found] = json.loads(captured.out)["sets"]
    assert found["metrics"]["rouge_1"]["value"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["metrics"]["rouge_2"]["value"] == pytest.approx((1 + 0 + 0) / 3)
    lead = found["baseline"]["rouge_l"]["value"]
    assert lead == pytest.approx((0 + 2 * 1 / (1 + 3) + 0) / 3)
    assert "summarize: 1 text cut to the context" in captured.err


def test_a_prompt_leaves_room_for_the_answer(place):
    model, tokenizer = folder.load(place)
    asker = Summaries("Shorten.", 12).asker(model, tokenizer)
    whole = asker.prompt("a short text")
    assert tokenizer.decode(whole).count("Shorten.\n\na short text") == 1
    assert asker.cut == 0
    cut = tokenizer.decode(asker.prompt("c" * 400))
    assert asker.cut == 1 and len(asker.prompt("c" * 400)) == 160 - 12
    [kept] = re.findall("Shorten.\n\n(c+)", cut)
    assert 0 < len(kept) < 400
    with pytest.raises(ValueError, match="of the instruction leave no room for a text"):
        Summaries("Shorten. " * 20, 12).asker(model, tokenizer).prompt("text")


def test_the_command_summarizes_files(place, tmp_path, capsys):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"Text of {name}.", encoding="utf-8")
    assert minillm("task", "summarize", place, tmp_path / "a.txt", tmp_path / "b.txt") == 0
    assert capsys.readouterr().out == f"{ANSWER}\n{ANSWER}\n"
    words = ("--json", "--max-tokens", 2, "--instruction", "Say it.")
    assert minillm("task", "summarize", place, tmp_path / "a.txt", *words) == 0
    assert json.loads(capsys.readouterr().out) == {"summary": ANSWER[:2], "cut": False}


def test_a_decoder_answers_questions_about_a_text(tmp_path, capsys):
    place = saved(tmp_path / "model", f"\n{ANSWER}<|im_end|>", context=280)
    assert minillm("task", "qa", place, "which ?", "some text", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"question": "which ?", "answer": ANSWER, "cut": False}
    assert minillm("task", "qa", place, "which ?", "d" * 300) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{ANSWER}\n" and "qa: the end of the text is cut" in captured.err
    assert minillm("task", "qa", place, "only one") == 2
    assert "qa: 1 inputs given, a question and a text are needed" in capsys.readouterr().err


def test_a_model_without_a_template_is_refused(tmp_path, capsys):
    place = saved(tmp_path / "model", "abc", template=None)
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    assert minillm("task", "summarize", place, tmp_path / "a.txt") == 2
    assert "summarize: the model has no chat template, a model that" in capsys.readouterr().err


def test_options_of_other_tasks_are_refused(place, capsys):
    assert minillm("task", "embed", place, "a", "--max-tokens", 3) == 2
    assert "embed: --max-tokens goes with summarize only" in capsys.readouterr().err
    assert minillm("task", "chat", place, "a") == 2
    assert "chat: takes a model alone here" in capsys.readouterr().err


@pytest.mark.parametrize(
    "row, told",
    [
        ({"source": " ", "targets": "a"}, "no text in source or targets, some in both is needed"),
        ({"source": "a", "targets": ["b", ""]}, "no text in source or targets, some in both"),
        ({"source": "a", "targets": []}, "an empty list of targets, at least 1 is needed"),
    ],
)
def test_bad_rows_stop_or_are_counted(tmp_path, row, told):
    path = rows(tmp_path / "rows.jsonl", ("a", "b"), (row["source"], row["targets"]))
    with pytest.raises(ValueError, match=f"line 2: {told}"):
        read_summaries(str(path), {})
    found, notices = read_summaries(str(path), {}, "skip")
    assert len(found) == 1 and "skipped 1 row" in notices[0]
