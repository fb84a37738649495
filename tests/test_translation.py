"""Translation by an encoder-decoder: pairs, what is written, how it is measured, baselines."""

import gzip
import json

import numpy as np
import pytest

from minillm import no_grad
from minillm.models.folder import load
from minillm.tasks.overlap import chrf
from minillm.tasks.translation import baselines, pairs
from minillm.tasks.translation.decoding import Translator, open_translator
from minillm.tasks.translation.evaluation import Translation
from minillm.tasks.translation.pairs import Pair
from small_runs import minillm
from small_tasks import folder as encoder
from small_translation import PAIRS, folder, model, tokenizer, written


def made(*rows):
    return [Pair(line, *row) for line, row in enumerate(rows, 1)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("translation") / "model")


def refused(capsys, *words):
    assert minillm(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


class TestPairs:
    def test_rows_are_read_by_name_order_and_number(self, tmp_path):
        right = made(("a", "b"), ("c d", "e"))
        named = written(tmp_path / "n.tsv", [("b", "a"), (" e", "c d ")], ("target", "source"))
        assert [one[1:] for one in pairs.read(str(named), {}).examples] == [r[1:] for r in right]
        bare = written(tmp_path / "b.tsv", [("a", "b"), ("c d", "e")], None)
        found, notices = pairs.read(str(bare), {})
        assert found == right
        assert notices == [f"{bare}: no names in the first line, read as source, target"]
        third = written(tmp_path / "t.tsv", [("b", "a", "1/2"), ("e", "c d", "x")], None)
        assert pairs.read(str(third), {"source": "2", "target": "1"}) == (right, [])
        (tmp_path / "p.jsonl.gz").write_bytes(
            gzip.compress(b'{"en": "a", "fr": "b"}\n\n{"en": "c d", "fr": "e"}\n')
        )
        found, _ = pairs.read(str(tmp_path / "p.jsonl.gz"), {"source": "en", "target": "fr"})
        assert found == [Pair(1, "a", "b"), Pair(3, "c d", "e")]

    def test_a_line_of_names_that_is_read_as_a_row_is_told(self, tmp_path):
        rows = [("a b", "c"), ("d e", "f")]
        path = written(tmp_path / "n.tsv", rows, ("english", "french"))
        found, notices = pairs.read(str(path), {"source": "1", "target": "2"})
        assert found == made(("english", "french"), *rows)
        told = f"{path}: columns by number, so that its first line 'english', 'french' is a row"
        assert notices == [told]
        with pytest.raises(ValueError, match=r"such as source=english, or by number, source=1, "):
            pairs.read(str(path), {})

    def test_a_column_named_by_a_number_is_that_column(self, tmp_path):
        path = written(tmp_path / "n.tsv", [("x", "a", "b")], ("0", "2", "1"))
        found, _ = pairs.read(str(path), {"source": "2", "target": "1"})
        assert found == [Pair(2, "a", "b")]

    def test_bad_rows_stop_or_are_counted(self, tmp_path):
        path = written(tmp_path / "p.tsv", [("a", "b"), ("", "c"), ("d", "  "), ("f", "g")])
        with pytest.raises(ValueError, match=r"p\.tsv line 3: source is '', a text is needed; or"):
            pairs.read(str(path), {})
        written(path, [("a", "b"), ("", "c"), ("d", "  "), ("e",), ("f", "g")])
        found, notices = pairs.read(str(path), {}, "skip")
        assert [pair.source for pair in found] == ["a", "f"]
        assert notices == [
            f"skipped 3 rows of {path}: 1 with another number of columns (first in line 5), 1 with "
            "an empty source (first in line 3), 1 with an empty target (first in line 4)"
        ]
        (tmp_path / "n.jsonl").write_text('{"source": 3, "target": "a"}\n', encoding="utf-8")
        with pytest.raises(ValueError, match=r"has no pair, .*; skipped 1 row .*no text as source"):
            pairs.read(str(tmp_path / "n.jsonl"), {}, "skip")

    def test_no_source_is_on_both_sides(self):
        rows = made(("A b", "1"), ("c", "2"), ("a  B", "3"), ("d", "4"), ("C", "5"), ("c", "6"))
        train, val, left_out = pairs.last(rows, 2)
        assert (train, val, left_out) == ([rows[0], rows[2], rows[3]], rows[4:], 1)
        many = made(*((f"s{k % 37}", str(k)) for k in range(200)))
        for seed in range(5):
            train, val, left_out = pairs.drawn(many, 0.2, seed)
            assert sorted(train + val) == many
            assert left_out == 0
            assert not {pair.source for pair in train} & {pair.source for pair in val}
            assert 33 <= len(val) <= 40
        assert pairs.drawn(many, 0.2, 1) == pairs.drawn(many, 0.2, 1) != pairs.drawn(many, 0.2, 2)
        with pytest.raises(ValueError, match="val-last: 6 of 6 pairs, at least 1 to learn from"):
            pairs.last(rows, 6)


class TestVocabulary:
    @pytest.mark.parametrize("kind", ["bpe", "unigram"])
    def test_both_sides_end_with_the_end_token(self, kind, tmp_path):
        from minillm import tokenizers
        from minillm.tasks.translation import vocabulary

        known = vocabulary.learn(kind, [f"{text}\n" for row in PAIRS for text in row], 400)
        known.save(tmp_path)
        for again in (known, tokenizers.load(tmp_path)):
            assert set(again.role_ids) >= {"pad", "eos"}
            for text in ("Où es-tu ?", "</s><pad>", "全"):
                ids = again.encode(text, add_special_tokens=True)
                assert ids == [*again.encode(text), again.role_ids["eos"]]
                assert again.role_ids["eos"] not in ids[:-1]
                assert again.decode(ids) == text


class TestBaselines:
    def test_the_translation_of_the_source_most_like_it(self):
        learnt = made(("I like red cats.", "1"), ("Where is it?", "2"), ("I LIKE  dogs.", "3"))
        asked = made(("I like dogs", "x"), ("where was it?", "y"), ("zzz", "z"))
        assert baselines.nearest(learnt, asked) == ["3", "2", "1"]

    def test_likeness_is_the_cosine_of_weighted_ngrams(self):
        """Computed here with dense vectors of all n-grams."""
        rows = [source for source, _ in PAIRS]
        counts = [[f" {row.lower()} "[k : k + n] for n in (1, 2, 3, 4)
                   for k in range(len(row) + 3 - n)] for row in rows]  # fmt: skip
        grams = sorted({gram for own in counts[:15] for gram in own})
        table = np.array([[own.count(gram) for gram in grams] for own in counts], float)
        table *= np.log1p(15 / (table[:15] > 0).sum(axis=0))
        unit = table / np.linalg.norm(table, axis=1, keepdims=True)
        best = (unit[15:] @ unit[:15].T).argmax(axis=1)
        everything = made(*PAIRS)
        found = baselines.nearest(everything[:15], everything[15:])
        assert found == [PAIRS[place][1] for place in best]

    def test_a_measured_source_teaches_nothing(self):
        rows = made(*PAIRS)
        found = Translation().baseline(rows, rows[:5])
        assert list(found) == ["copied_chrf", "copied_bleu", "nearest_chrf", "nearest_bleu"]
        references = [target for _, target in PAIRS[:5]]
        without = baselines.nearest(rows[5:], rows[:5])
        assert found["nearest_chrf"].value == chrf(references, without).value < 99
        copied = chrf(references, [source for source, _ in PAIRS[:5]])
        assert found["copied_chrf"].value == copied.value
        with pytest.raises(ValueError, match="baseline: 5 pairs, but the sources of all are"):
            Translation().baseline(rows[:5], rows[:5])


class TestWhatIsWritten:
    def test_each_text_is_what_it_would_be_alone_and_what_generate_writes(self, place, capsys):
        sources = [source for source, _ in PAIRS]
        translator = open_translator(place)
        told = []
        together = translator(sources, progress=told.append)
        assert sum(told) == len(sources)
        assert together == [translator([source])[0] for source in sources]
        minillm("generate", place, "--prompt", sources[3], "--temperature", 0, "--max-tokens", 9)
        assert together[3].text.startswith(capsys.readouterr().out.strip())

    def test_one_that_does_not_end_is_as_long_as_it_would_be_alone(self):
        known = tokenizer()
        endless = model(known).eval()
        with no_grad():
            for id in known.special_tokens.values():
                endless.head.weight[id] = 0.0  # some other token is always above it
        translator = Translator(endless, known)
        sources = ["Good night.", "Good night. Good."]
        lengths = [len(known.encode(source, add_special_tokens=True)) for source in sources]
        assert lengths[0] < lengths[1] <= 2 * lengths[0]  # they are written together
        together = translator(sources)
        assert [one.whole for one in together] == [False, False] and together[0].text
        assert together == [translator([source])[0] for source in sources]

    def test_the_command_prints_a_line_for_each_text(self, place, tmp_path, capsys):
        (tmp_path / "f").write_text("Thanks.\n", encoding="utf-8")
        words = ("task", "translate", place, "Who is here?", "--file", tmp_path / "f")
        assert minillm(*words, "--json", "--beams", 3) == 0
        out, err = capsys.readouterr()
        found = [json.loads(line) for line in out.splitlines()]
        right = open_translator(place)(["Who is here?", "Thanks."], beams=3)
        assert [one["text"] for one in found] == ["Who is here?", "Thanks."]
        assert [(one["translation"], one["whole"]) for one in found] == right
        cut = sum(not one.whole for one in right)
        told = f"minillm: note: translate: {cut} of 2 translations did not end by themselves\n"
        assert err.endswith(told if cut else "")
        assert minillm(*words) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2

    def test_what_is_refused(self, place, tmp_path, capsys):
        other = encoder(tmp_path / "bert", "classify")
        for words, line in {
            ("translate", other, "a"): f"translate: {other} is an encoder, an encoder-decoder is "
            "needed; make one with: minillm train PAIRS.tsv --objective translate",
            ("translate", place): "translate: no text given, at least 1 is needed",
            ("translate", place, " "): "translate: input 1 is blank, a text is needed",
            ("translate", place, "a", "--beams", 0): "beams: 0, 1 or more is needed",
            ("translate", place, "a", "--top", 2): "translate: --top goes with classify or "
            "recommend only",
            ("classify", other, "a", "--beams", 2): "classify: --beams goes with translate only",
        }.items():
            assert refused(capsys, "task", *words) == f"minillm: {line}"


class TestFigures:
    def test_eval_gives_chrf_and_bleu_beside_the_baselines(self, place, tmp_path, capsys):
        path = written(tmp_path / "p.tsv", names=None)
        words = ("--task", "translate", "--data", path, "--last", 6, "--resamples", 200)
        assert minillm("eval", place, *words, "--baseline", path, "--json") == 0
        [found] = json.loads(capsys.readouterr().out)["sets"]
        references = [target for _, target in PAIRS[-6:]]
        given = [one.text for one in open_translator(place)([s for s, _ in PAIRS[-6:]])]
        assert found["examples"] == 6
        assert found["metrics"]["chrf"]["value"] == chrf(references, given).value
        nearest = baselines.nearest(made(*PAIRS[:-6]), made(*PAIRS[-6:]))
        value = found["baseline"]["nearest_chrf"]["value"]
        assert value == chrf(references, nearest).value

    def test_compare_tells_two_models_apart(self, place, tmp_path, capsys):
        other = folder(tmp_path / "other", num_layers=2)
        path = written(tmp_path / "p.tsv")
        words = ("--task", "translate", "--data", path, "--resamples", 200)
        assert minillm("compare", place, other, *words) == 0
        out = capsys.readouterr().out
        assert "translate: 20 examples of" in out
        assert "  chrf           A " in out

    def test_what_is_refused(self, place, tmp_path, capsys):
        path = written(tmp_path / "p.tsv")
        words = ("eval", place, "--task", "translate", "--data", path)
        line = "minillm: eval: --max-length goes with classify or tag or qa or embed only"
        assert refused(capsys, *words, "--max-length", 9) == line
        line = "minillm: adapter: translate is of encoder-decoders, leave it out"
        assert refused(capsys, *words, "--adapter", "x") == line


def test_a_folder_is_opened_with_its_tokenizer(place):
    model, known = load(place)
    assert known.fingerprint == tokenizer().fingerprint
    assert model.config.eos_token_id == known.eos_id
