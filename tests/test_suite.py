"""Suites: a table of all measures of a file, and answers that a model writes."""

import json

import pytest

from minillm.models import folder
from minillm.models.folder import load_model
from minillm.tasks import suite
from minillm.tasks.choice import Choice
from minillm.tasks.evaluation import Decoder
from minillm.tasks.perplexity import Perplexity
from minillm.tasks.written_answers import WrittenAnswers
from minillm.tokenizers import CharTokenizer
from small_bigram import END, TURN, bigram, tokenizer
from small_gpt2 import small
from small_runs import minillm
from small_tasks import folder as encoder_folder

LETTERS = CharTokenizer.from_characters("abcdefgh 0123.\n", ())
SUITE = """
[[measure]]
name = "letters"
kind = "perplexity"
data = ["long.txt", "other.txt"]
stride = 4

[[measure]]
kind = "choice"
data = "q.jsonl"

[[measure]]
name = "sums"
kind = "answer"
data = "a.jsonl"
prompt = "{question}."
expect = "number"
max-tokens = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("suite")
    folder.save_model(place / "a", small(vocab_size=16, n_positions=12), LETTERS)
    folder.save_model(place / "b", small(vocab_size=16, n_positions=12, n_head=2), LETTERS)
    (place / "long.txt").write_text("abc dea 12" * 1000, encoding="utf-8")
    (place / "other.txt").write_text("hgf. 3" * 1200, encoding="utf-8")
    question = {"question": "ab", "choices": ["c", "dd", "e"], "answer": 1}
    (place / "q.jsonl").write_text(4 * (json.dumps(question) + "\n"), encoding="utf-8")
    sums = [{"question": "a", "answer": "12"}, {"question": "b", "answer": "so #### 3"}]
    (place / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    (place / "suite.toml").write_text(SUITE, encoding="utf-8")
    return place


class TestCommand:
    def test_one_table_of_what_each_measure_says_alone(self, place, tmp_path, capsys):
        words = ["eval", place / "a", "--suite", place / "suite.toml", "--resamples", 40]
        assert minillm(*words, "--json", tmp_path / "found.json") == 0
        lines = capsys.readouterr().out.splitlines()
        found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        names = [(one["name"], one["examples"]) for one in found["sets"]]
        assert names == [("letters", 1), ("letters", 1), ("choice q.jsonl", 4), ("sums", 2)]
        assert len(lines) == 1 + 3 + 3 + 2 + 1
        decoder = Decoder(load_model(place / "a"), LETTERS)
        text = (place / "other.txt").read_text(encoding="utf-8")
        right = Perplexity(None, 4).evaluate(decoder, [text]).metrics["perplexity"].value
        assert found["sets"][1]["metrics"]["perplexity"]["value"] == right
        assert minillm("eval", place / "a", "--task", "choice", "--data", place / "q.jsonl",
                       "--resamples", 40, "--json") == 0  # fmt: skip
        alone = json.loads(capsys.readouterr().out)["sets"][0]["metrics"]
        assert found["sets"][2]["metrics"] == alone

    def test_two_models_side_by_side(self, place, capsys):
        words = ["compare", place / "a", place / "b", "--suite", place / "suite.toml"]
        assert minillm(*words, "--resamples", 300) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"A {place / 'a'}" and lines[-1].startswith("better: by a two-sided p")
        assert minillm(*words, "--resamples", 300, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        for one in found["sets"][:2]:
            row = one["metrics"]["bits_per_byte"]
            assert row["better"] == ("first" if row["first"] < row["second"] else "second")
        assert minillm("compare", place / "a", place / "a", *words[3:], "--resamples", 9) == 0
        cells = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[3:-1]]
        assert cells == ["-"] * 9

    def test_encoders_too(self, tmp_path, capsys):
        model = encoder_folder(tmp_path / "m", "classify", 40)
        (tmp_path / "t.tsv").write_text("label\ttext\nyes\ta b\nno\tc\n", encoding="utf-8")
        (tmp_path / "p.tsv").write_text("first\tsecond\na b\ta\nc\tc d\n", encoding="utf-8")
        content = '[[measure]]\nkind="classify"\ndata="t.tsv"\n[[measure]]\nkind="embed"\n'
        (tmp_path / "s.toml").write_text(content + 'data="p.tsv"\n', encoding="utf-8")
        assert minillm("eval", model, "--suite", tmp_path / "s.toml", "--json") == 0
        kinds = [one["kind"] for one in json.loads(capsys.readouterr().out)["sets"]]
        assert kinds == ["classify", "embed"]
        wrong = '[[measure]]\nkind="classify"\ndata="t.tsv"\n[[measure]]\nkind="choice"\n'
        question = {"question": "a", "choices": ["b", "c"], "answer": 0}
        (tmp_path / "q.jsonl").write_text(json.dumps(question), encoding="utf-8")
        (tmp_path / "s.toml").write_text(wrong + 'data="q.jsonl"\n', encoding="utf-8")
        assert minillm("eval", model, "--suite", tmp_path / "s.toml") == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and "suite: choice q.jsonl: " in said[0]
        assert "the model is an encoder, a decoder is needed" in said[0]

    def test_a_fault_in_the_last_file_is_found_before_anything_is_measured(
        self, place, tmp_path, monkeypatch, capsys
    ):
        (tmp_path / "s.toml").write_text(
            SUITE.replace('"a.jsonl"', '"none.jsonl"').replace("long", "q").replace("other", "q")
            .replace("q.txt", "q.jsonl"), encoding="utf-8"
        )  # fmt: skip
        (tmp_path / "q.jsonl").write_text((place / "q.jsonl").read_text().replace("ab", "ab"))
        monkeypatch.setattr(Perplexity, "evaluate", lambda *_: pytest.fail("measured"))
        assert minillm("eval", place / "a", "--suite", tmp_path / "s.toml") == 2
        assert capsys.readouterr().err.strip()

    def test_what_is_known_is_shown_where_the_user_ends_it(self, place, monkeypatch, capsys):
        def ends(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(Choice, "evaluate", ends)
        words = ["--suite", place / "suite.toml", "--resamples", 9]
        assert minillm("eval", place / "a", *words) == 130
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["measure"] + ["letters"] * 6
        assert minillm("compare", place / "a", place / "b", *words) == 130
        assert len(capsys.readouterr().out.splitlines()) == 7


BAD = [
    ("", "no [[measure]], at least 1 is needed"),
    ("x = 1", "unknown key 'x', one of measure is needed"),
    ("measures = 1", "unknown key 'measures'; did you mean measure?"),
    ("[[measure]]\nkind = ", "not valid TOML"),
    ("[[measure]]\ndata = 'q.jsonl'", "measure 1: kind: missing, one of perplexity, choice"),
    ("[[measure]]\nkind = 'choise'", "measure 1: kind: 'choise'; did you mean choice?"),
    ("[[measure]]\nkind = 'choice'", "measure 1: data: missing, a file or several are needed"),
    ("[[measure]]\nkind='choice'\ndata='q.jsonl'\nstrid=3", "unknown key 'strid'"),
    ("[[measure]]\nkind='perplexity'\ndata='q'\nstrid=3", "'strid'; did you mean stride?"),
    ("[[measure]]\nkind='perplexity'\ndata='q'\nstride='a'", "stride: 'a', a whole number is"),
    ("[[measure]]\nkind='perplexity'\ndata='q'\nstride=0", "stride: 0, a whole number is"),
    ("[[measure]]\nkind='answer'\ndata='q'\nchat=1", "chat: 1, true or false is needed"),
    ("[[measure]]\nkind='answer'\ndata='q'\nexpect='no'", "expect: 'no', one of text, number"),
    ("[[measure]]\nkind='answer'\ndata='q'\nprompt='{'", "measure 1: prompt: '{'"),
    ("[[measure]]\nkind='choice'\ndata=3", "data: 3, texts is needed"),
    ("[[measure]]\nkind='choice'\ndata='q.jsonl'\non-bad='go'", "on-bad: 'go', one of stop, skip"),
    (2 * "[[measure]]\nkind='choice'\ndata='q.jsonl'\n", "measure 2: name: 'choice q.jsonl' a sec"),
]


@pytest.mark.parametrize("content, line", BAD)
def test_a_malformed_suite_is_one_line_with_the_key(tmp_path, content, line):
    (tmp_path / "s.toml").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        suite.read(str(tmp_path / "s.toml"))
    said = str(error.value)
    assert said.startswith(f"suite: {tmp_path / 's.toml'}: ") and line in said


@pytest.mark.parametrize("asked, line", [
    ("kind='perplexity'\ndata='long.txt'\nstride=12", "late: eval: a stride of 12, 1 to 11 is"),
    ("kind='answer'\ndata='a.jsonl'\nchat=true", "late: chat template: the tokenizer has none"),
    ("kind='recommend'\ndata='r.jsonl'", "late: recommend: the char tokenizer does not read whol"),
    ("kind='summarize'\ndata='r.jsonl'\ncolumns={source='text',targets='text'}",
     "late: summarize: the model has no chat template"),
])  # fmt: skip
def test_what_a_model_cannot_do_is_known_before_anything_is_measured(place, asked, line, capsys):
    (place / "r.jsonl").write_text('{"text": "a b"}\n', encoding="utf-8")
    (place / "late.toml").write_text(f"{SUITE}\n[[measure]]\nname='late'\n{asked}\n")
    assert minillm("eval", place / "a", "--suite", place / "late.toml") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"minillm: suite: {line}")


@pytest.mark.parametrize("words, line", [
    (["--suite", "S", "--task", "choice"], "eval: --task and --suite given, one of --perplexity"),
    (["--suite", "S", "--last", "3"], "eval: --last is said in a suite's own file"),
    (["--suite", "S", "--stride", "3"], "eval: --stride goes with perplexity only"),
    (["--suite", "gone.toml"], "gone.toml: no such file or directory"),
])  # fmt: skip
def test_options_that_go_elsewhere(place, words, line, capsys):
    words = [place / "suite.toml" if word == "S" else word for word in words]
    assert minillm("eval", place / "a", *words) == 2
    assert line in capsys.readouterr().err


def asked(*pairs):
    rows = [{"question": question, "answer": answer} for question, answer in pairs]
    return "".join(json.dumps(row) + "\n" for row in rows)


class TestWrittenAnswers:
    """The model writes 12 after a, and 7 after b."""

    model = Decoder(bigram(f"a12{END}", f"b7{END}", f"c x{END}", f"\n5{TURN}"), tokenizer())

    def measured(self, tmp_path, pairs, **options):
        (tmp_path / "a.jsonl").write_text(asked(*pairs), encoding="utf-8")
        measure = WrittenAnswers(**options)
        return measure.evaluate(self.model, measure.read(str(tmp_path / "a.jsonl"), {}).examples)

    def test_numbers(self, tmp_path):
        pairs = [("a", "3 and 9 make\n#### 12"), ("b", "8"), ("b", 7.0), ("a", "1,2"), ("c", "12")]
        found = self.measured(tmp_path, pairs, expect="number")
        assert found.metrics["exact_match"].statistics[:, 0].tolist() == [1, 0, 1, 1, 0]
        assert found.notices == []

    def test_the_last_number_counts(self):
        taken = WrittenAnswers(expect="number").taken_from
        assert taken("first 3, then -1,250.50 dollars.") == "-1250.5"
        assert taken("it is 18.") == taken("18.0") == "18"
        assert taken("none") is None

    def test_numbers_of_many_digits_are_told_apart(self):
        taken = WrittenAnswers(expect="number").taken_from
        assert taken("12345678901") == "12345678901" != taken("12345678902")
        assert taken("100") == "100" and taken("-0.0") == taken("0") == "0"
        assert taken("9" * 400) == "9" * 400

    def test_a_prompt_that_is_cut_is_counted(self, tmp_path):
        (tmp_path / "a.jsonl").write_text(asked(("b" * 40 + "a", "12"), ("a", "12")))
        measure = WrittenAnswers(max_tokens=4)
        model = Decoder(bigram(f"a12{END}", context=16), tokenizer())
        found = measure.evaluate(model, measure.read(str(tmp_path / "a.jsonl"), {}).examples)
        assert found.metrics["exact_match"].statistics[:, 0].tolist() == [1, 1]
        assert found.notices == ["left out the front of 1 question, too long"]

    def test_texts_are_normalised(self, tmp_path):
        found = self.measured(tmp_path, [("c", "The X!"), ("c", "y"), ("a", "12")])
        assert found.metrics["exact_match"].statistics[:, 0].tolist() == [1, 0, 1]
        taken = WrittenAnswers().taken_from
        assert taken("\n  \nThe  Cat.\nmore") == "cat" and taken(" \n") is None

    def test_an_answer_that_does_not_end_is_counted(self, tmp_path):
        found = self.measured(tmp_path, [("a", "12"), ("b", "7")], expect="number", max_tokens=1)
        assert found.metrics["exact_match"].statistics[:, 0].tolist() == [0, 1]
        assert found.notices == ["2 answers of 2 ended at max-tokens 1"]

    def test_in_a_conversation(self, tmp_path):
        found = self.measured(tmp_path, [("a", "5"), ("b", "7")], expect="number", chat=True)
        assert found.metrics["exact_match"].statistics[:, 0].tolist() == [1, 0]
        assert found.notices == []  # ended by the token that ends a turn

    def test_rows_without_what_is_expected(self, tmp_path):
        (tmp_path / "a.jsonl").write_text(asked(("a", "twelve"), ("a", "12")), encoding="utf-8")
        measure = WrittenAnswers(expect="number")
        with pytest.raises(ValueError, match="line 1: no number in the answer 'twelve', a number"):
            measure.read(str(tmp_path / "a.jsonl"), {})
        found, notices = measure.read(str(tmp_path / "a.jsonl"), {}, "skip")
        assert len(found) == 1 and "skipped 1 row" in notices[0]
