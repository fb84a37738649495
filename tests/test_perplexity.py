"""`minillm eval --perplexity`, against a plain loop over the model's logits in float64."""

import json
import math

import numpy as np
import pytest

import small_encoders
from minillm import no_grad, tokenizers
from minillm.generation.scoring import score
from minillm.models import folder
from minillm.tasks import perplexity, significance
from minillm.tasks.evaluation import Decoder
from minillm.tasks.perplexity import Perplexity
from minillm.tokenizers import ByteTokenizer, CharTokenizer
from small_gpt2 import small
from small_runs import flags, minillm

TOKENIZER = CharTokenizer.from_characters("abcdefghé ", ())
BEGIN, SIZE = 3, 13  # a token that begins texts, and the rows of the embedding


def decoder(**options):
    return Decoder(small(**options), TOKENIZER)


def text(length, seed=0):
    letters = "abcdefghé "
    return "".join(letters[i] for i in np.random.default_rng(seed).integers(0, 10, length))


def by_hand(model, ids, size, step, before=()):
    """-log p of each id that has one before it: of windows `size` long that move by `step`."""
    wide = model.astype("float64")
    found = {}
    begin, done, led = 0, 0 if before else 1, len(before)
    while True:
        end = min(len(ids), begin + size)
        row = [*before, *ids[begin:end]]
        with no_grad():
            logits = wide(np.array([row])).numpy()[0]
        for place in range(done, end):
            z = logits[place - begin + led - 1]
            found[place] = math.log(np.exp(z - z.max()).sum()) + z.max() - z[ids[place]]
        done = end
        if end == len(ids):
            return found
        begin = min(end + step, len(ids)) - size


class TestFigures:
    def test_they_are_those_of_a_plain_loop_with_a_stride(self):
        content = text(60)
        ids = TOKENIZER.encode(content)
        right = by_hand(small(), ids, 7, 3)
        assert sorted(right) == list(range(1, 60))
        found = Perplexity(7, 3).evaluate(decoder(), [content]).metrics
        assert found["perplexity"].value == pytest.approx(
            math.exp(sum(right.values()) / 59), rel=1e-5
        )
        size = len(content[1:].encode("utf-8"))
        assert size > 59
        bits = sum(right.values()) / math.log(2)
        assert found["bits_per_byte"].value == pytest.approx(bits / size, rel=1e-5)
        assert found["bits_per_character"].value == pytest.approx(bits / 59, rel=1e-5)

    def test_a_token_before_every_window(self):
        model, tokenizer = small(), CharTokenizer.from_characters("abcdefghé ", ())
        tokenizer.role_ids["bos"] = BEGIN
        ids = tokenizer.encode(text(40))
        right = by_hand(small(), ids, 6, 2, (BEGIN,))
        assert sorted(right) == list(range(40))
        measure = Perplexity(7, 2, "yes")
        found = measure.evaluate(Decoder(model, tokenizer), [text(40)]).metrics
        assert found["perplexity"].value == pytest.approx(
            math.exp(sum(right.values()) / 40), rel=1e-5
        )
        stated = measure.stated(Decoder(model, tokenizer))
        assert stated == {"context": 7, "stride": 2, "bos": tokenizer.id_to_token(BEGIN)}
        plain = Perplexity(7, 2, "no").evaluate(Decoder(model, tokenizer), [text(40)]).metrics
        assert plain["perplexity"].statistics[:, 1].sum() == 39

    def test_they_are_those_of_score(self):
        content = text(50)
        one = score(small(), TOKENIZER, content, context=8, stride=4)
        found = Perplexity(8, 4).evaluate(decoder(), [content]).metrics
        assert found["perplexity"].value == pytest.approx(one.perplexity, rel=1e-12)
        assert found["bits_per_byte"].value == pytest.approx(one.bits_per_byte, rel=1e-12)

    def test_unknown_words_have_their_share_of_the_bytes_and_are_counted(self):
        words = tokenizers.train("word", ["a b c"], special_tokens=("<|endoftext|>",))
        model = Decoder(small(vocab_size=words.vocab_size + 1), words)
        right = by_hand(model.model, words.encode("zz yy xx ww"), 9, 4)
        found = Perplexity().evaluate(model, ["zz yy xx ww"])
        bits = sum(right.values()) / math.log(2)
        assert found.metrics["bits_per_byte"].value == pytest.approx(bits / (11 * 3 / 4), rel=1e-5)
        told = "4 of 4 tokens stand for text that the tokenizer does not know: the figures flatter"
        assert found.notices[0] == told

    def test_texts_are_summed_by_tokens(self):
        texts = [text(n, seed=n) for n in (3, 9, 30)]
        lost = [by_hand(small(), TOKENIZER.encode(one), 9, 4) for one in texts]
        found = Perplexity().evaluate(decoder(), [*texts, "a"])
        total = sum(sum(one.values()) for one in lost)
        assert found.metrics["perplexity"].value == pytest.approx(
            math.exp(total / (2 + 8 + 29)), rel=1e-5
        )
        assert found.notices == [
            "left out 1 text without a token that counts",
            "4 units to draw from, too few for an interval",
        ]


class TestUnits:
    def test_stretches_of_a_long_text_are_the_same_whatever_the_windows(self):
        content = text(9000)
        kinds = [Perplexity(9, 8), Perplexity(5, 2)]
        first, second = (
            one.evaluate(decoder(), [content]).metrics["bits_per_byte"].statistics for one in kinds
        )
        size = len(content.encode("utf-8"))
        assert first.shape == (math.ceil(size / perplexity.STRETCH), 4)
        np.testing.assert_array_equal(first[:, 1:], second[:, 1:])
        assert abs(first[1, 2] - perplexity.STRETCH) <= 1
        assert not np.allclose(first[:, 0], second[:, 0])

    def test_documents_are_drawn_where_there_are_many(self):
        texts = [text(5 + n, seed=n) for n in range(perplexity.DOCUMENTS)]
        found = Perplexity().evaluate(decoder(), texts).metrics["perplexity"]
        assert [int(n) for n in found.statistics[:, 1]] == [len(one) - 1 for one in texts]

    def test_the_interval_covers_the_truth_as_often_as_it_says(self):
        """Documents whose losses have mean 2: of 200 samples about 190 intervals hold exp(2)."""
        generator, held = np.random.default_rng(5), 0
        for seed in range(200):
            tokens = generator.integers(20, 60, 80)
            nats = np.array([generator.gamma(4, 0.5, n).sum() for n in tokens])
            rows = np.stack([nats, tokens, tokens, tokens], axis=1).astype(float)
            one = significance.interval(perplexity.figures(rows)["perplexity"], 400, seed)
            held += one.low <= math.exp(2) <= one.high
        assert 180 <= held <= 198


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    top = tmp_path_factory.mktemp("perplexity")
    for name, options in (("a", {}), ("b", {"n_head": 2})):
        folder.save_model(top / name, small(**options), TOKENIZER)
    folder.save_model(top / "c", small(vocab_size=257), ByteTokenizer())
    (top / "long.txt").write_text(text(5000), encoding="utf-8")
    (top / "long.jsonl").write_text(json.dumps({"body": text(5000)}), encoding="utf-8")
    rows = [json.dumps({"body": text(20, seed=n)}) for n in range(25)]
    (top / "rows.jsonl").write_text("\n".join([*rows, "{}"]), encoding="utf-8")
    return top


def told(capsys, *words):
    assert minillm(*words) == 0
    return capsys.readouterr()


def refused(capsys, *words):
    assert minillm(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


class TestCommand:
    def test_several_domains_in_one_table(self, places, tmp_path, capsys):
        words = ["eval", places / "a", "--perplexity", places / "long.jsonl", places / "rows.jsonl"]
        words += ["--columns", "text=body", "--on-bad", "skip", "--stride", 4, "--resamples", 99]
        out = told(capsys, *words, "--json", tmp_path / "found.json")
        assert "skipped 1 row of" in out.err
        found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        assert (found["context"], found["stride"], found["bos"]) == (9, 4, None)
        first, second = found["sets"]
        assert (first["examples"], first["tokens"]) == (1, 4999)
        assert (second["examples"], second["tokens"], second["units"]) == (25, 25 * 19, 25)
        assert found["together"]["tokens"] == 4999 + 25 * 19
        content = (places / "long.txt").read_text(encoding="utf-8")
        right = Perplexity(None, 4).evaluate(decoder(), [content]).metrics
        for name, metric in right.items():
            assert first["metrics"][name] == significance.interval(metric, 99, 0)._asdict()
        lines = out.out.splitlines()
        assert lines[0].startswith("windows of 9 tokens that begin 4 apart, nothing before them")
        assert [line.split()[0] for line in lines[2:]] == [
            str(places / "long.jsonl"), str(places / "rows.jsonl"), "together"
        ]  # fmt: skip
        one = first["metrics"]["perplexity"]
        assert f"{one['value']:,.3f} ({one['low']:,.3f} to {one['high']:,.3f})" in lines[2]

    def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(
        self, places, tmp_path, capsys
    ):
        target = tmp_path / "none" / "found.json"
        for words in (["eval", "gone"], ["compare", "gone", "gone"]):
            given = [*words, "--perplexity", places / "long.txt", "--json", target]
            assert minillm(*given) == 2
            said = capsys.readouterr().err
            assert f"json: {target.parent} is no folder, one is needed" in said

    def test_the_better_model_has_the_lower_perplexity(self, places, capsys):
        words = ["--perplexity", places / "long.txt", "--resamples", 300, "--json"]
        found = json.loads(told(capsys, "compare", places / "a", places / "b", *words).out)
        rows = found["sets"][0]["metrics"]
        assert rows.keys() == {"perplexity", "bits_per_byte", "bits_per_character"}
        for row in rows.values():
            assert row["p"] < 0.05
            assert row["better"] == ("first" if row["first"] < row["second"] else "second")

    def test_a_model_that_does_not_know_the_text_is_not_better(self, places, tmp_path, capsys):
        known = "the cat sat on a mat . " * 40
        (tmp_path / "words.txt").write_text(known, encoding="utf-8")
        (tmp_path / "other.txt").write_text("zzz qqq www " * 90, encoding="utf-8")
        brief = flags(tokenizer="word", steps=2, eval_every=2, save_every=2, sample_tokens=0)
        assert minillm("train", tmp_path / "words.txt", "--out", tmp_path / "w", *brief) == 0
        words = ["--perplexity", tmp_path / "other.txt", "--resamples", 9, "--json"]
        done = told(capsys, "compare", places / "c", tmp_path / "w", *words)
        assert json.loads(done.out)["sets"][0]["metrics"] == {}
        assert "0 and 270 tokens stand for text that a tokenizer does not know" in done.err

    def test_models_with_other_tokens_are_compared_by_bytes(self, places, capsys):
        words = ["--perplexity", places / "long.txt", "--resamples", 9, "--json"]
        done = told(capsys, "compare", places / "a", places / "c", *words)
        rows = json.loads(done.out)["sets"][0]["metrics"]
        assert rows.keys() == {"bits_per_byte", "bits_per_character"}
        assert "tokens are counted, so that perplexities cannot be compared" in done.err
        content = (places / "long.txt").read_text(encoding="utf-8")
        right = score(small(vocab_size=257), ByteTokenizer(), content).bits_per_byte
        assert rows["bits_per_byte"]["second"] == pytest.approx(right, rel=1e-12)

    @pytest.mark.parametrize("words, line", [
        (["--perplexity", "F", "--task", "tag"], "eval: --perplexity and --task given, one of"),
        ([], "eval: nothing to measure, one of --perplexity, --task, --suite"),
        (["--perplexity", "F", "--data", "F"], "eval: --data goes with --task only"),
        (["--task", "tag"], "eval: --data is missing, files are needed"),
        (["--task", "tag", "--data", "F", "--stride", "3"], "eval: --stride goes with perplexity"),
        (["--perplexity", "F", "--max-length", "3"], "eval: --max-length goes with classify or"),
        (["--perplexity", "F", "--bos", "maybe"], "bos: 'maybe', one of auto, yes, no is needed"),
        (["--perplexity", "F", "--bos", "yes"], "bos: yes, but this tokenizer has no token that"),
        (["--perplexity", "F", "--stride", "9"], "eval: a stride of 9, 1 to 8 is needed"),
        (["--perplexity", "F", "--context", "10"], "eval: a context of 10, 2 to 9 (the model's)"),
        (["--perplexity", "F", "--columns", "label=x"], "columns: no field 'label', some of text"),
        (["--perplexity", "none.txt"], "read: none.txt: No such file or directory"),
        (["--perplexity", "F", "--json", "m.gguf"], "eval: json: 'm.gguf', a name that ends in .j"),
    ])  # fmt: skip
    def test_what_cannot_be_is_refused(self, places, words, line, capsys):
        words = [places / "long.txt" if word == "F" else word for word in words]
        said = refused(capsys, "eval", places / "a", *words)
        assert (
            said.removeprefix("minillm: ")
            .removeprefix("eval: ")
            .startswith(line.removeprefix("eval: "))
        )

    def test_an_encoder_is_refused_by_name(self, capsys):
        model = small_encoders.small("bert", "ForMaskedLM")
        with pytest.raises(ValueError, match="eval: the model is an encoder, a decoder is needed"):
            Perplexity().evaluate(Decoder(model, TOKENIZER), ["abc"])

    def test_damaged_weights_are_named(self, places, tmp_path, capsys):
        model = small()
        model.ln_f.weight.data[3] = np.nan
        folder.save_model(tmp_path / "bad", model, TOKENIZER)
        assert minillm("eval", tmp_path / "bad", "--perplexity", places / "long.txt") == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith(f"the weights of {tmp_path / 'bad'} are damaged")
