"""Reading labelled texts, tagged words and questions; what is wrong in a row and where."""

import gzip
import json

import pytest

from minillm.tasks.examples import Labelled, read_labelled, read_questions, read_tagged

CONTEXT = "It was built in 1889. In 1889 it opened."


def file(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode("utf-8"))
    return str(path)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def refused(reader, path, columns=None, **options):
    with pytest.raises(ValueError) as found:
        reader(path, columns or {}, **options)
    message = str(found.value)
    assert "\n" not in message
    return message


class TestLabelledTexts:
    EXPECTED = (Labelled(2, 'a "quoted, text', "no"), Labelled(3, "b", "yes"))

    def test_one_content_in_every_form_gives_the_same_examples(self, tmp_path):
        tsv = 'label\ttext\nno\ta "quoted, text\nyes\tb\n'
        csv = 'text,label\n"a ""quoted, text",no\nb,yes\n'
        named = 'x,review,kind\n1,"a ""quoted, text",no\n2,b,yes\n'
        for name, content, columns in [
            ("a.tsv", tsv, {}),
            ("b.tsv", "\ufeff" + tsv.replace("\n", "\r\n"), {}),
            ("c.csv", csv, {}),
            ("d.csv", named, {"text": "review", "label": "kind"}),
        ]:
            found = read_labelled(file(tmp_path, name, content), columns)
            assert found == ([*self.EXPECTED], [])
        (tmp_path / "e.tsv.gz").write_bytes(gzip.compress(tsv.encode()))
        assert read_labelled(str(tmp_path / "e.tsv.gz"), {}).examples == [*self.EXPECTED]
        rows = lines({"text": 'a "quoted, text', "label": "no"}, {"text": "b", "label": "yes"})
        found = read_labelled(file(tmp_path, "f.jsonl", "\n" + rows), {}).examples
        assert found == [*self.EXPECTED]
        numbers = lines({"text": "a", "label": 1}, {"text": "b", "label": True})
        found = read_labelled(file(tmp_path, "g.jsonl", numbers), {}).examples
        assert [example.label for example in found] == ["1", "True"]

    def test_a_table_without_names_is_read_in_order_and_said_to_be(self, tmp_path):
        path = file(tmp_path, "a.tsv", "no\ta\nyes\tb\n")
        found = read_labelled(path, {})
        assert found.examples == [Labelled(1, "a", "no"), Labelled(2, "b", "yes")]
        assert found.notices == [f"{path}: no names in the first line, read as label, text"]
        for first in ("no\tfilm\n", "1\tfilm\n", "new\ta film\n"):  # no names of columns
            path = file(tmp_path, "b.tsv", first + "no\ta\nyes\tb\n")
            assert len(read_labelled(path, {}).examples) == 3

    def test_missing_columns_name_those_that_are_there(self, tmp_path):
        path = file(tmp_path, "a.csv", "id,review,label\n1,a,b\n")
        assert refused(read_labelled, path) == (
            f"read: {path} has 3 columns 'id', 'review', 'label', but none named 'text'; "
            "name them with --columns, such as label=id, or by number, label=1, where the first "
            "line is a row"
        )
        other = file(tmp_path, "b.tsv", "kind\treview\nno\ta film\nyes\ta b\n")
        assert refused(read_labelled, other).startswith(
            f"read: {other} has 2 columns 'kind', 'review', but none named 'label' and 'text'; "
        )
        assert "none named 'kind'" in refused(
            read_labelled, path, {"label": "kind", "text": "review"}
        )
        path = file(tmp_path, "a.jsonl", lines({"text": "a", "kind": "b"}))
        assert refused(read_labelled, path) == (
            f"read: {path} line 1: no field 'label' but 'text', 'kind', it is needed; "
            "or pass over such rows with --on-bad skip"
        )

    @pytest.mark.parametrize(
        "name, row, detail, kind",
        [
            ("a.tsv", "no", "1 column, a row of 2 is needed", "another number of columns"),
            ("a.tsv", "no\ta\tb", "3 columns, a row of 2 is needed", "another number of columns"),
            ("a.tsv", "no\t ", "text is ' ', a text is needed", "an empty text"),
            ("a.tsv", " \ta", "label is ' ', a text is needed", "an empty label"),
            ("a.jsonl", "{", "no JSON (Expecting property name", "no JSON"),
            ("a.jsonl", "[1]", "[1] is no object, an object is needed", "no object"),
            ("a.jsonl", '{"text": 3, "label": "a"}', "text is 3, a text", "no text as text"),
            ("a.jsonl", '{"text": "a", "label": null}', "label is None", "an empty label"),
        ],
    )
    def test_a_bad_row_stops_or_is_counted(self, tmp_path, name, row, detail, kind):
        good = "yes\tc" if name == "a.tsv" else '{"text": "c", "label": "yes"}'
        path = file(tmp_path, name, f"{good}\n{row}\n{good}\n{row}\n")
        message = refused(read_labelled, path)
        assert message.startswith(f"read: {path} line 2: {detail}")
        assert message.endswith("; or pass over such rows with --on-bad skip")
        found = read_labelled(path, {}, "skip")
        assert [example.line for example in found.examples] == [1, 3]
        assert found.notices[-1] == f"skipped 2 rows of {path}: 2 with {kind} (first in line 2)"

    def test_what_cannot_be_read_at_all(self, tmp_path):
        assert "no example, at least 1 is needed; skipped 1 row" in refused(
            read_labelled, file(tmp_path, "a.tsv", "no\t \n"), on_bad="skip"
        )
        assert "has no rows, at least 1" in refused(read_labelled, file(tmp_path, "b.tsv", "\n"))
        assert "line 2: unexpected end of data, a whole CSV record" in refused(
            read_labelled, file(tmp_path, "c.csv", 'label,text\nno,"a\nb\n')
        )
        assert "is no .tsv, .csv or .jsonl file by its name" in refused(
            read_labelled, file(tmp_path, "d.txt", "a")
        )
        assert refused(read_labelled, file(tmp_path, "e.tsv", "a\tb"), on_bad="leave") == (
            "on-bad: 'leave', one of stop, skip is needed"
        )
        (tmp_path / "f.tsv").write_bytes(b"no\tcaf\xe9\n")
        assert "line 1, byte offset 6: 0xE9 is not utf-8" in refused(
            read_labelled, str(tmp_path / "f.tsv")
        )


class TestTaggedWords:
    def test_conll_and_json_lines_give_the_same_sentences(self, tmp_path):
        conll = "-DOCSTART- O\n\nNew NNP B-x\nYork NNP I-x\n\n\nyes UH O"
        tabs = "New\tB-x\nYork\tI-x\n \t \nyes\tO\n"
        rows = lines(
            {"tokens": ["New", "York"], "tags": ["B-x", "I-x"]}, {"tokens": ["yes"], "tags": ["O"]}
        )
        for name, content in [("a.conll", conll), ("b.txt", tabs), ("c.jsonl", rows)]:
            found = read_tagged(file(tmp_path, name, content), {})
            assert [(one.words, one.tags) for one in found.examples] == [
                (["New", "York"], ["B-x", "I-x"]),
                (["yes"], ["O"]),
            ]
        assert [one.line for one in read_tagged(str(tmp_path / "a.conll"), {}).examples] == [3, 7]

    @pytest.mark.parametrize(
        "row, detail, kind",
        [
            ("York", "1 column, a word and a tag is needed", "a word without a tag"),
            ("York\tX", "'X' is no tag, O, or B- or I- and a type is needed", "no tag"),
            ("\tO", "an empty word, a word and a tag is needed", "an empty word"),
        ],
    )
    def test_a_bad_line_stops_or_its_sentence_is_counted(self, tmp_path, row, detail, kind):
        path = file(tmp_path, "a.conll", f"a\tO\n\nNew\tB-x\n{row}\n{row}\n\nb\tO\n")
        assert refused(read_tagged, path).startswith(f"read: {path} line 4: {detail}")
        found = read_tagged(path, {}, "skip")
        assert [one.words for one in found.examples] == [["a"], ["b"]]
        assert found.notices == [f"skipped 1 row of {path}: 1 with {kind} (first in line 4)"]

    @pytest.mark.parametrize(
        "tokens, tags, detail",
        [
            (["a", "b"], ["O"], "2 tokens and 1 tags, as many of each is needed"),
            ("a", ["O"], "no tokens and 1 tags"),
            (["a"], ["B"], "'B' is no tag"),
            ([1], ["O"], "[1, 'O'] are no texts"),
        ],
    )
    def test_lists_that_do_not_match(self, tmp_path, tokens, tags, detail):
        path = file(tmp_path, "a.jsonl", lines({"tokens": tokens, "tags": tags}))
        assert detail in refused(read_tagged, path)


class TestQuestions:
    def test_the_forms_of_an_answer(self, tmp_path):
        base = {"question": "When?", "context": CONTEXT}
        several = {"text": ["1889", "In 1889"], "answer_start": [16, 22]}
        rows = lines(
            base | {"answer": "1889", "answer_start": 25},
            base | {"answer": "1889"},
            base | {"answers": several},
        )
        found = read_questions(file(tmp_path, "a.jsonl", rows), {}).examples
        assert [(one.answers, one.starts) for one in found] == [
            (("1889",), (25,)),
            (("1889",), (16,)),
            (("1889", "In 1889"), (16, 22)),
        ]
        table = f"question\tcontext\tanswer\tanswer_start\nWhen?\t{CONTEXT}\t1889\t25\n"
        assert read_questions(file(tmp_path, "a.tsv", table), {}).examples[0].starts == (25,)

    @pytest.mark.parametrize(
        "fields, detail",
        [
            ({"answer": "1890"}, "the answer '1890' is not in the context, an answer that stands"),
            ({"answer": "1889", "answer_start": 24}, "is not in the context at character 24"),
            ({"answer": "1889", "answer_start": -4}, "is not in the context at character -4"),
            ({"answer": "1889", "answer_start": "x"}, "is not in the context at character 'x'"),
            ({"answer": ""}, "answer is '', a text is needed"),
            ({}, "answer is None"),
            ({"answers": {"text": [], "answer_start": []}}, "no answer, an answer or answers is"),
            ({"answers": {"text": ["1889"], "answer_start": [16, 25]}}, "1 answers but 2 places"),
            ({"answer": "1889", "context": " "}, "context is ' ', a text is needed"),
        ],
    )
    def test_answers_that_are_not_in_their_context(self, tmp_path, fields, detail):
        row = {"question": "When?", "context": CONTEXT} | fields
        good = {"question": "When?", "context": CONTEXT, "answer": "1889"}
        path = file(tmp_path, "a.jsonl", lines(good, row))
        assert detail in refused(read_questions, path)
        assert f"{path} line 2: " in refused(read_questions, path)
        assert len(read_questions(path, {}, "skip").examples) == 1


def test_the_shared_data_is_read_whole(shared_data):
    polarity = read_labelled(str(shared_data / "cls" / "sentence-polarity.tsv"), {}).examples
    assert len(polarity) == 5800
    assert {example.label for example in polarity} == {"0", "1"}
    intents = read_labelled(str(shared_data / "cls" / "banking77.test.tsv"), {}).examples
    assert (len(intents), len({example.label for example in intents})) == (3080, 77)
    assert len(read_tagged(str(shared_data / "ner" / "wnut17.train.conll"), {}).examples) == 3394
    assert len(read_tagged(str(shared_data / "ner" / "wnut17.dev.conll"), {}).examples) == 1009
    questions = read_questions(str(shared_data / "qa" / "covidqa-windows.jsonl"), {}).examples
    assert len(questions) == 420
