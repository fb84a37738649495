"""What comes next and how probable a text is, against the definition in float64."""

import math

import numpy as np
import pytest

import small_encoders
import small_t5
from minillm import generate, no_grad, tokenizers
from minillm.formats import hf
from minillm.generation.prediction import predict
from minillm.generation.prompts import first_ids, prompt_ids
from minillm.generation.scoring import score, spans
from minillm.tokenizers import CharTokenizer
from small_gpt2 import small

LETTERS = "abcdefghijkl"
TOKENIZER = CharTokenizer.from_characters(LETTERS, ())
TEXT = "abelkjiha"


@pytest.fixture(scope="module")
def led(tmp_path_factory):
    """The same letters, with <s> before every text and </s> behind it."""
    folder = tmp_path_factory.mktemp("led")
    marks = {"<s>": 12, "</s>": 13}
    special = [
        {"id": id, "content": token, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False} for token, id in marks.items()
    ]  # fmt: skip
    around = [{"SpecialToken": {"id": token, "type_id": 0}} for token in marks]
    hf.write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": special,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [around[0], {"Sequence": {"id": "A", "type_id": 0}}, around[1]],
                "pair": [],
                "special_tokens": {
                    token: {"id": token, "ids": [id], "tokens": [token]}
                    for token, id in marks.items()
                },
            },
            "decoder": {"type": "ByteLevel"},
            "model": {
                "type": "BPE",
                "vocab": {letter: id for id, letter in enumerate(LETTERS)} | marks,
                "merges": [],
            },
        },
    )
    hf.write_json(folder / "tokenizer_config.json", {"bos_token": "<s>"})
    return tokenizers.load(folder)


def log_softmax(model, ids):
    """After each of the ids, in float64."""
    with no_grad():
        logits = model.astype("float64")(np.array([ids])).numpy()[0]
    return logits, logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


class TestPredict:
    def test_the_most_probable_tokens_after_a_text(self):
        (found,) = predict(small(), TOKENIZER, TEXT[:4], top=3)
        logits, logs = log_softmax(small(), [0, 1, 4, 11])
        best = np.argsort(-logits[-1, :12])[:3]
        assert [candidate.id for candidate in found] == best.tolist()
        assert [candidate.token for candidate in found] == [LETTERS[id] for id in best]
        np.testing.assert_allclose([c.logit for c in found], logits[-1, best], rtol=1e-5)
        right = np.exp(logs[-1, best])
        np.testing.assert_allclose([c.probability for c in found], right, rtol=1e-5)

    def test_no_more_tokens_are_listed_than_there_are(self):
        """The embedding has 13 rows, the tokenizer 12 letters."""
        (found,) = predict(small(), TOKENIZER, "a", top=100)
        assert sorted(candidate.id for candidate in found) == list(range(12))
        assert sum(candidate.probability for candidate in found) < 1 - 1e-6

    def test_equal_logits_come_by_their_id(self):
        model = small()
        model.wte.weight.data[...] = 0
        (found,) = predict(model, TOKENIZER, "a", top=3)
        assert [candidate.id for candidate in found] == [0, 1, 2]
        assert found[0].probability == pytest.approx(1 / 13, rel=1e-12)

    def test_a_start_token_is_put_before_the_text_and_none_behind(self, led):
        assert prompt_ids(led, "ab") == ([12], [0, 1])
        model = small(vocab_size=14)
        (found,) = predict(model, led, "ab", top=14)
        _, logs = log_softmax(model, [12, 0, 1])
        for candidate in found:
            assert math.log(candidate.probability) == pytest.approx(
                logs[-1, candidate.id], abs=1e-5
            )
        assert {candidate.token for candidate in found} == {*LETTERS, "<s>", "</s>"}

    @pytest.mark.parametrize("text, count", [("", 0), ("a" * 10, 10)])
    def test_a_text_that_does_not_fit(self, text, count):
        with pytest.raises(
            ValueError, match=rf"predict: a text of {count} tokens, 1 to 9 \(the mo"
        ):
            predict(small(), TOKENIZER, text)
        predict(small(), TOKENIZER, "a" * 9)

    def test_an_empty_text_stays_empty_behind_a_start_token(self, led):
        with pytest.raises(ValueError, match="predict: a text of 0 tokens"):
            predict(small(vocab_size=14), led, "")

    def test_no_tokens_asked_for(self):
        with pytest.raises(ValueError, match="top: 0, 1 or more is needed"):
            predict(small(), TOKENIZER, "a", top=0)

    def test_weights_that_overflowed(self):
        model = small()
        model.wte.weight.data[3] = np.inf
        with (
            pytest.raises(ValueError, match="the logits hold NaN or infinity"),
            np.errstate(all="ignore"),
        ):
            predict(model, TOKENIZER, "abc")


class TestGenerate:
    def test_a_text_is_written_behind_the_start_token(self, led):
        assert first_ids(led, "ab") == [12, 0, 1]
        assert first_ids(led, "") == [12]
        assert first_ids(TOKENIZER, "") == []
        model, ids = small(vocab_size=14), [12, 0, 1]
        for _ in range(4):
            ids.append(int(log_softmax(model, ids)[0][-1].argmax()))
        assert max(ids[3:]) < 12
        assert generate(model, led, "ab", max_tokens=4, temperature=0) == led.decode(ids[3:])

    def test_it_ends_at_any_of_the_ids_that_end_texts(self):
        options = {"max_tokens": 5, "temperature": 2, "seed": 1}
        whole = generate(small(), TOKENIZER, "abel", **options)
        place = next(k for k in range(5) if whole[k] != whole[0])
        for ends in (LETTERS.index(whole[place]), (12, LETTERS.index(whole[place]))):
            model = small(eos_token_id=ends)
            assert generate(model, TOKENIZER, "abel", **options) == whole[:place]


class TestScore:
    def test_every_token_given_those_before_it(self):
        found = score(small(), TOKENIZER, TEXT)
        ids = TOKENIZER.encode(TEXT)
        _, logs = log_softmax(small(), ids)
        right = [logs[place - 1, ids[place]] for place in range(1, 9)]
        assert found.ids == ids and found.tokens == list(TEXT)
        assert found.log_probabilities[0] is None
        np.testing.assert_allclose(found.log_probabilities[1:], right, atol=1e-5)
        assert (found.scored, found.bytes, found.windows) == (8, 8, 1)
        assert found.total == pytest.approx(sum(right), abs=1e-5)
        assert found.perplexity == pytest.approx(np.exp(-np.mean(right)), rel=1e-5)
        assert found.bits_per_byte == pytest.approx(-np.sum(right) / np.log(2) / 8, rel=1e-5)

    def test_behind_a_start_token_the_first_counts_too(self, led):
        model = small(vocab_size=14)
        found = score(model, led, "abc")
        _, logs = log_softmax(model, [12, 0, 1, 2])
        right = [logs[place, place] for place in range(3)]
        np.testing.assert_allclose(found.log_probabilities, right, atol=1e-5)
        assert (found.scored, found.bytes) == (3, 3)

    def test_windows_overlap_by_half_and_score_every_token_once(self):
        assert list(spans(20, 9, False)) == [(0, 1, 9), (4, 9, 13), (8, 13, 17), (11, 17, 20)]
        assert list(spans(20, 8, True)) == [(0, 0, 8), (4, 8, 12), (8, 12, 16), (12, 16, 20)]
        assert list(spans(9, 9, False)) == [(0, 1, 9)]
        assert list(spans(20, 9, False, 8)) == [(0, 1, 9), (8, 9, 17), (11, 17, 20)]
        assert list(spans(12, 4, True, 4)) == [(0, 0, 4), (4, 4, 8), (8, 8, 12)]
        assert list(spans(4, 1, True)) == [(0, 0, 1), (1, 1, 2), (2, 2, 3), (3, 3, 4)]

    def test_a_long_text_is_scored_window_by_window(self):
        text = "abcdefghijklabcdefgh"
        ids = TOKENIZER.encode(text)
        found = score(small(), TOKENIZER, text)
        assert (found.windows, found.scored) == (4, 19)
        for begin, first, end in [(0, 1, 9), (4, 9, 13), (8, 13, 17), (11, 17, 20)]:
            _, logs = log_softmax(small(), ids[begin:end])
            right = [logs[place - begin - 1, ids[place]] for place in range(first, end)]
            np.testing.assert_allclose(found.log_probabilities[first:end], right, atol=1e-5)

    def test_windows_of_another_size_and_distance(self, led):
        text = "abcdefghijklabcdefgh"
        ids, told = TOKENIZER.encode(text), []
        found = score(small(), TOKENIZER, text, context=6, stride=5, progress=told.append)
        assert (found.windows, told) == (4, [5, 5, 5, 4])
        for begin, first, end in [(0, 1, 6), (5, 6, 11), (10, 11, 16), (14, 16, 20)]:
            _, logs = log_softmax(small(), ids[begin:end])
            right = [logs[place - begin - 1, ids[place]] for place in range(first, end)]
            np.testing.assert_allclose(found.log_probabilities[first:end], right, atol=1e-5)
        model = small(vocab_size=14)
        assert score(model, led, text, context=6, stride=5).windows == 4

    @pytest.mark.parametrize("options, line", [
        ({"context": 10}, "a context of 10, 2 to 9"),
        ({"context": 1}, "a context of 1, 2 to 9"),
        ({"stride": 9}, "a stride of 9, 1 to 8"),
        ({"context": 4, "stride": 4}, "a stride of 4, 1 to 3"),
        ({"stride": 0}, "a stride of 0, 1 to 8"),
    ])  # fmt: skip
    def test_windows_that_cannot_be(self, options, line):
        with pytest.raises(ValueError, match=f"score: {line}"):
            score(small(), TOKENIZER, TEXT, **options)

    def test_the_error_of_a_perplexity_is_that_of_a_mean(self, led):
        found = score(small(), TOKENIZER, TEXT)
        values = np.array(found.log_probabilities[1:])
        spread = values.std(ddof=1) / np.sqrt(8)
        assert found.perplexity_error == pytest.approx(found.perplexity * spread)
        assert score(small(vocab_size=14), led, "a").perplexity_error is None

    def test_long_texts_behind_a_start_token_have_it_in_every_window(self, led):
        model, text = small(vocab_size=14), "abcdefghijklabcdefgh"
        ids = led.encode(text)
        found = score(model, led, text)
        assert (found.windows, found.scored) == (4, 20)
        _, logs = log_softmax(model, [12, *ids[12:20]])
        right = [logs[place - 12, ids[place]] for place in range(16, 20)]
        np.testing.assert_allclose(found.log_probabilities[16:], right, atol=1e-5)

    def test_texts_too_short(self, led):
        with pytest.raises(ValueError, match=r"score: a text of 1 token .* least 2 are needed: th"):
            score(small(), TOKENIZER, "a")
        with pytest.raises(ValueError, match="score: a text of 0 tokens, at least 1 is needed"):
            score(small(vocab_size=14), led, "")
        assert score(small(vocab_size=14), led, "a").scored == 1
        with pytest.raises(ValueError, match="a context of 1, at least 2 are needed"):
            score(small(n_positions=1), TOKENIZER, "ab")

    def test_weights_that_overflowed(self):
        model = small()
        model.ln_f.weight.data[3] = np.nan
        with pytest.raises(ValueError, match="the loss is NaN or infinite"):
            score(model, TOKENIZER, "abc")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A WordPiece tokenizer of eleven tokens."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "is", "not", "."]
    special = [
        {"id": id, "content": token, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False} for id, token in enumerate(names[:5])
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("words")
    content = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: id for id, token in enumerate(names)},
        },
    }
    hf.write_json(folder / "tokenizer.json", content)
    hf.write_json(folder / "tokenizer_config.json", {"mask_token": "[MASK]"})
    return tokenizers.load(folder)


class TestOtherFamilies:
    def test_an_encoder_fills_the_masks(self, words):
        model = small_encoders.small("bert", "ForMaskedLM")
        ids = [2, 5, 8, 4, 10, 4, 3]
        with no_grad():
            logits = model(np.array([ids])).numpy()[0].astype(np.float64)
        places = predict(model, words, "red is [MASK]. [MASK]", top=2)
        for found, place in zip(places, (3, 5), strict=True):
            best = np.argsort(-logits[place])[:2]
            assert [candidate.id for candidate in found] == best.tolist()
            total = np.exp(logits[place]).sum()
            right = np.exp(logits[place, best]) / total
            np.testing.assert_allclose([c.probability for c in found], right, rtol=1e-5)

    def test_an_encoder_needs_a_mask_to_fill(self, words):
        model = small_encoders.small("bert", "ForMaskedLM")
        with pytest.raises(ValueError, match=r"no \[MASK\] in the text, it stands for the token"):
            predict(model, words, "red is blue")
        with pytest.raises(ValueError, match="a text of 10 tokens, 1 to 9"):
            predict(model, words, "red is not blue red is [MASK] .")

    @pytest.mark.parametrize("task", ["Model", "ForSequenceClassification"])
    def test_an_encoder_without_such_a_head_names_the_command_it_is_for(self, words, task):
        model = small_encoders.small("bert", task)
        with pytest.raises(ValueError, match=r"no head that predicts tokens; .* minillm embed\)"):
            predict(model, words, "red is [MASK]")
        with pytest.raises(ValueError, match="the model is an encoder, a decoder is needed"):
            score(model, words, "red is blue")

    def test_an_encoder_decoder_begins_its_answer(self):
        model = small_t5.small()
        (found,) = predict(model, TOKENIZER, "abc", top=3)
        with no_grad():
            logits = model(np.array([[0, 1, 2]]), np.array([[2]])).numpy()[0, 0]
        assert [candidate.id for candidate in found] == np.argsort(-logits[:12])[:3].tolist()
        with pytest.raises(ValueError, match="an encoder-decoder, a decoder is needed"):
            score(model, TOKENIZER, "abc")
