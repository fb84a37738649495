"""Tasks on encoders: rows and what stands where in them, spans, predictions, heads."""

import itertools

import numpy as np
import pytest

from minillm import no_grad, tokenizers
from minillm.models.folder import load_model
from minillm.tasks import answering, heads
from minillm.tasks.encoding import Encoding, Row
from minillm.tasks.examples import Labelled, Question, Tagged
from minillm.tasks.kinds import TASKS
from minillm.tasks.tagging import spans_of, tags_of
from small_tasks import LABELS, WORDS, folder

CONTEXT = "The Eiffel tower, was (it)  built in 1889. \nPariss a.b"
CLASSIFY, TAG, QA = (TASKS[name] for name in ("classify", "tag", "qa"))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    top = tmp_path_factory.mktemp("tasks")
    return {task: folder(top / str(task), task) for task in (None, *TASKS)}


def encoding(places, length=None):
    model = load_model(places[None])
    return Encoding(tokenizers.load(places[None]), model.config, length)


def ids(*words):
    return [WORDS.index(word) for word in words]


def joined(parts):
    return [id for part in parts for id in part]


class TestEncoding:
    def test_spans_are_the_text_and_their_ids_those_of_the_text(self, places):
        made = encoding(places)
        spans = made.spans(CONTEXT)
        assert joined(span.ids for span in spans) == made.tokenizer.encode(CONTEXT)
        assert "".join(CONTEXT[a:b] for a, b, _ in spans) == "".join(CONTEXT.split())
        assert [CONTEXT[a:b] for a, b, _ in spans][2:7] == ["tower", ",", "was", "(", "it"]
        assert [span.ids for span in spans if CONTEXT[span.start : span.end] == "Pariss"] == [
            ids("paris", "##s")
        ]

    def test_words_that_take_their_space_with_them(self):
        made = Encoding(tokenizers.train("bpe", ["a b ab a b, a b. a b"] * 9, vocab_size=264),
                        load_config())  # fmt: skip
        assert made.space == " "
        text = "a b, ab a. b"
        assert joined(made.words(["a", "b", "ab"])) == made.tokenizer.encode("a b ab")
        spans = made.spans(text)
        assert joined(span.ids for span in spans) == made.tokenizer.encode(text)
        assert "".join(text[a:b] for a, b, _ in spans) == text.replace(" ", "")

    def test_real_texts(self, shared_data, tmp_path):
        words = (shared_data / "tokenizers" / "bert-uncased.vocab.txt").read_bytes()
        (tmp_path / "vocab.txt").write_bytes(words)
        tokenizer = tokenizers.load(tmp_path)
        made = Encoding(tokenizer, load_config())
        path = shared_data / "qa" / "covidqa-windows.jsonl"
        for example in QA.read(str(path), {}).examples[:100]:
            spans = made.spans(example.context)
            assert joined(span.ids for span in spans) == tokenizer.encode(example.context)

    def test_a_long_text_is_cut_at_its_end(self, places):
        made = encoding(places, 6)
        row, cut = made.text("a b c d e f", 3)
        assert (row.ids, cut, row.example) == (ids("[CLS]", "a", "b", "c", "d", "[SEP]"), 2, 3)
        rows, notices = CLASSIFY.rows(made, ["a b", "a b c d e f", "a b c d e"])
        assert [len(row.ids) for row in rows] == [4, 6, 6]
        assert notices == ["2 of 3 texts cut to 6 tokens"]
        with pytest.raises(ValueError, match=r"max-length: 3, 4 to 24 .the model's. is needed"):
            encoding(places, 3)

    def test_padding_changes_nothing(self, places):
        made = encoding(places)
        rows = [made.text(text, 0)[0] for text in ("a", "b c d e f g h", "a b", "c d e")]
        for task in TASKS:
            model = load_model(places[task])
            together = made.outputs(model, rows)
            for row, out in zip(rows, together, strict=True):
                with no_grad():
                    alone = model(np.array([row.ids])).numpy()[0]
                np.testing.assert_allclose(out, alone, atol=2e-6)


def load_config():
    from minillm.models import FAMILIES

    return FAMILIES["bert"].config()


class TestTagging:
    def test_the_first_token_of_a_word_has_its_tag(self, places):
        example = Tagged(1, ["Pariss", "ab", "the"], ["B-place", "I-place", "O"])
        [row], notices = TAG.rows(encoding(places), [example.words])
        assert row.ids == ids("[CLS]", "paris", "##s", "a", "##b", "the", "[SEP]")
        targets = TAG.targets(row, example, LABELS["tag"])
        assert targets.tolist() == [-100, 1, -100, 2, -100, 0, -100]
        assert notices == []

    def test_long_sentences_become_rows_without_losing_a_word(self, places):
        words = ["Pariss", "a", "ab", "", "b", "c", "d", "e"]
        rows, _ = TAG.rows(encoding(places, 6), [["a"], words])
        assert [row.example for row in rows] == [0, 1, 1, 1]
        assert max(len(row.ids) for row in rows) == 6
        seen = [word for row in rows[1:] for word in row.places if word is not None]
        assert seen == [0, 1, 2, 4, 5, 6, 7]  # the empty word has no token
        logits = [np.eye(5)[[2] * len(row.ids)] for row in rows]
        predictions = TAG.decode(rows, logits, LABELS["tag"], 2)
        assert tags_of(predictions[1], 8) == ["I-place"] * 3 + ["O"] + ["I-place"] * 4
        assert tags_of(predictions[0], 1) == ["I-place"]
        _, notices = TAG.rows(encoding(places, 4), [["zzzz"]])
        assert notices == []
        _, notices = TAG.rows(encoding(places, 4), [["abba"]])
        assert notices == ["1 word cut to 2 tokens"]

    def test_words_of_a_plain_text(self):
        text = "Is (it) in Paris_1, don't?"
        assert [text[a:b] for a, b in spans_of(text)] == (
            "Is ( it ) in Paris _ 1 , don ' t ?".split()
        )


class TestAnswering:
    def windows(self, places, length, question="who built it ?"):
        return list(answering.windows(encoding(places, length), question, CONTEXT, 7))

    def test_windows_cover_the_text_and_overlap(self, places):
        made = encoding(places)
        whole = made.tokenizer.encode(CONTEXT)
        [row] = answering.windows(encoding(places, 24), "a", CONTEXT, 0)
        assert row.ids == ids("[CLS]", "a", "[SEP]") + whole + ids("[SEP]")
        assert row.segments == [0] * 3 + [1] * (len(whole) + 1)
        rows = self.windows(places, 14)
        assert all(len(row.ids) <= 14 and row.example == 7 for row in rows)
        begins = [row.ids[6:-1] for row in rows]
        assert all(row.ids[:6] == ids("[CLS]", "who", "built", "it", "?", "[SEP]") for row in rows)
        for place, part in enumerate(begins):
            assert part == whole[place * 3 : place * 3 + 7]
        assert (len(begins) - 1) * 3 + len(begins[-1]) == len(whole)
        assert len(begins[-2]) == 7  # no window more than needed
        with pytest.raises(
            ValueError, match="qa: 4 tokens of the question leave 1 of 8 for a text"
        ):
            self.windows(places, 8)
        with pytest.raises(ValueError, match="for a text of 0, at least 2 for a text of at least"):
            list(answering.windows(made, "a", " \n", 0))

    @pytest.mark.parametrize(
        "answer", ["1889", "(it)  built", "The Eiffel", "a.b", " was ", "ariss"]
    )
    def test_targets_are_where_the_answer_is(self, places, answer):
        example = Question(1, "who ?", CONTEXT, (answer,), (CONTEXT.index(answer),))
        found = 0
        for row in self.windows(places, 14):
            first, last = QA.targets(row, example, ("first", "last"))
            if not last:
                assert first == 0
                continue
            text = CONTEXT[row.places[first][0] : row.places[last][1]]
            assert text == ("Pariss" if answer == "ariss" else answer.strip())
            found += 1
        assert 1 <= found < len(self.windows(places, 14))

    def test_an_answer_that_a_window_holds_in_part_is_not_in_it(self, places):
        example = Question(1, "who ?", CONTEXT, (CONTEXT,), (0,))
        rows = self.windows(places, 14)
        assert all(QA.targets(row, example, ()).tolist() == [0, 0] for row in rows)

    def test_logits_that_are_no_numbers_give_a_span_of_the_text(self):
        row = Row([0, 1, 2], [0] * 3, 0, [None, (4, 5), None])
        score, start, end, _ = answering.best_span(row, np.full((3, 2), np.nan))
        assert np.isnan(score) and (start, end) == (4, 5)

    def test_the_best_span_is_that_of_all(self, monkeypatch):
        monkeypatch.setattr(answering, "LONGEST", 3)
        rng = np.random.default_rng(0)
        rows, outputs, every = [], [], []
        for window in range(2):
            places = [None, None, *((10 * window + k, 10 * window + k + 1) for k in range(6)), None]
            logits = rng.normal(size=(9, 2)) * 3
            logits[[0, 1, 8]] += 50  # of what is no text
            rows.append(Row([1] * 9, [0] * 9, 0, places))
            outputs.append(logits)
            every += [
                (logits[a, 0] + logits[b, 1], places[a][0], places[b][1])
                for a, b in itertools.product(range(2, 8), repeat=2)
                if 0 <= b - a < 3
            ]
        score, start, end = max(every)
        [(begin, stop, chance)] = QA.decode(rows, outputs, (), 1)
        assert (begin, stop) == (start, end)
        assert chance == pytest.approx(np.exp(score) / np.exp([one[0] for one in every]).sum())


class TestMetrics:
    def test_those_of_a_task_take_its_predictions(self, places):
        texts = [Labelled(1, "a b", "yes"), Labelled(2, "c", "no")]
        found, _ = heads.load(CLASSIFY, places["classify"]).predict([one.text for one in texts])
        assert all(sum(one.probabilities.values()) == pytest.approx(1, abs=1e-6) for one in found)
        assert all(one.probabilities[one.label] == max(one.probabilities.values()) for one in found)
        right = sum(one.label == text.label for one, text in zip(found, texts, strict=True)) / 2
        assert CLASSIFY.metrics(texts, found)["accuracy"].value == right
        sentence = Tagged(1, ["a", "b", "c"], ["B-place", "I-place", "O"])
        perfect = TAG.metrics([sentence], [{0: "B-place", 1: "I-place", 2: "O"}])
        assert [metric.value for metric in perfect.values()] == [1, 1, 1, 1]
        partly = TAG.metrics([sentence], [{0: "B-place"}])
        assert (partly["f1"].value, partly["word_accuracy"].value) == (0, pytest.approx(2 / 3))
        question = Question(1, "q", CONTEXT, ("1889", "in 1889"), (CONTEXT.index("1889"), 0))
        start = CONTEXT.index("in 1889")
        [f1, exact] = QA.metrics([question], [(start, start + 7, 1.0)]).values()
        assert (f1.value, exact.value) == (1, 1)


class TestLabels:
    def test_nothing_to_learn_is_refused(self):
        with pytest.raises(ValueError, match="classify: all 2 examples have the label 'a', at lea"):
            CLASSIFY.labels([Labelled(1, "x", "a"), Labelled(2, "y", "a")])
        with pytest.raises(ValueError, match="tag: all words of 1 sentence have the tag O"):
            TAG.labels([Tagged(1, ["x"], ["O"])])
        assert CLASSIFY.labels([Labelled(1, "x", "b"), Labelled(2, "y", "a")]) == ("a", "b")
        assert TAG.labels([Tagged(1, ["x", "y"], ["O", "B-x"])]) == ("O", "B-x")

    def test_labels_that_are_not_known_are_named(self):
        examples = [Labelled(3, "x", "a"), Labelled(4, "y", "z"), Labelled(9, "y", "z")]
        with pytest.raises(ValueError) as refusal:
            CLASSIFY.known(examples, ("a", "b"), "f.tsv")
        assert str(refusal.value) == (
            "read: f.tsv has 2 examples with labels that the model does not know: 'z' (first in "
            "line 4), labels seen in training are needed; or pass over them with --on-bad skip"
        )
        kept, notices = CLASSIFY.known(examples, ("a", "b"), "f.tsv", "skip")
        assert kept == examples[:1]
        assert notices == [
            "f.tsv: passed over 2 examples with labels that the model does not know: 'z'"
        ]
        assert CLASSIFY.known(examples, ("a", "z"), "f.tsv") == (examples, [])
        with pytest.raises(ValueError, match=r"labels seen in training are needed$"):
            CLASSIFY.known(examples[1:], ("a", "b"), "f.tsv", "skip")
        with pytest.raises(ValueError, match=r"'B-y' .first in line 2."):
            TAG.known([Tagged(2, ["x"], ["B-y"])], ("O", "B-x"), "f.conll")


class TestHeads:
    @pytest.mark.parametrize("task", TASKS)
    def test_a_new_head_on_the_same_body(self, places, task):
        base = load_model(places[None])
        model = heads.with_new_head(TASKS[task], places[None], LABELS[task], seed=3)
        again = heads.with_new_head(TASKS[task], places[None], LABELS[task], seed=3)
        state, body = model.state_dict(), base.state_dict()
        kept = set(body) if task == "classify" else set(body) - {"pooler.weight", "pooler.bias"}
        assert all(np.array_equal(state[name], body[name]) for name in kept)
        assert set(state) - kept == {"classifier.weight", "classifier.bias"}
        assert all(np.array_equal(array, again.state_dict()[n]) for n, array in state.items())
        assert model.config.labels == LABELS[task]
        assert model.config.architecture == "Bert" + TASKS[task].head
        assert np.abs(state["classifier.weight"]).max() > 0

    def test_a_base_without_a_pooler_gets_a_drawn_one(self, tmp_path):
        place = folder(tmp_path / "base", add_pooling_layer=False)
        model = heads.with_new_head(CLASSIFY, place, LABELS["classify"], seed=0)
        assert 0 < model.pooler.weight.data.std() < 0.05

    def test_what_is_no_model_for_the_task(self, places):
        with pytest.raises(ValueError) as refusal:
            heads.load(QA, places["tag"])
        assert str(refusal.value) == (
            f"qa: {places['tag']} is a BertForTokenClassification, a BertForQuestionAnswering is "
            f"needed; make one with: minillm finetune {places['tag']} DATA --task qa"
        )

    def test_a_decoder_is_no_encoder(self, tmp_path):
        from minillm.models.folder import save_model
        from small_gpt2 import small as small_gpt2

        save_model(tmp_path, small_gpt2())
        with pytest.raises(
            ValueError, match=r"classify: .* is a decoder, an encoder is needed, su"
        ):
            heads.load(CLASSIFY, tmp_path)


def test_transformers_is_told_of_segments_where_there_are_any(tmp_path, places):
    from minillm.formats import hf

    def told(tokenizer, name):
        tokenizer.save(tmp_path / name)
        return hf.read_json(tmp_path / name / "tokenizer_config.json").get("model_input_names")

    names = ["input_ids", "token_type_ids", "attention_mask"]
    assert told(tokenizers.load(places["qa"]), "bert") == names
    assert told(tokenizers.train("bpe", ["a b"], vocab_size=258), "gpt2") is None
