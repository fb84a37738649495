"""How fast models are, in turn, and what the scores of two of them say of each other."""

import numpy as np
import pytest

from minillm.generation import Reader
from minillm.generation.scoring import Score
from minillm.quant import Speed, compare, speeds
from minillm.tokenizers import CharTokenizer
from small_gpt2 import small

TOKENIZER = CharTokenizer.from_characters("abcdefghijkl", ())
TEXT = "abcdefghijklabcdefgh"


def scored(values, ids=(1, 2, 3, 4)):
    return Score(list(ids), [""] * 4, [None, *values], 4, 1)


class Clock:
    """Moves on by two seconds whenever a model computes; `order` says which one did."""

    def __init__(self, monkeypatch, models):
        self.now, self.order = 0.0, []
        original = Reader.read

        def read(reader, batch, **options):
            self.now += 2.0
            self.order.append((models.index(reader.model), len(batch[0][1])))
            return original(reader, batch, **options)

        monkeypatch.setattr(Reader, "read", read)

    def __call__(self):
        return self.now


def test_models_take_turns(monkeypatch):
    models, told = [small(n_positions=64), small(n_positions=64)], []
    clock = Clock(monkeypatch, models)
    found = speeds(models, TOKENIZER, TEXT * 3, clock=clock, progress=told.append)
    assert found == [Speed(60 / 2, 1 / 2)] * 2
    read, prompts, tokens = clock.order[:6], clock.order[6:8], clock.order[8:]
    assert read == [(0, 60), (1, 60)] * 3
    assert prompts == [(0, 32), (1, 32)]
    assert tokens == [*[(0, 1)] * 8, *[(1, 1)] * 8] * 4  # half of the context is written
    assert told == [60] * 6 + [1] * 64


def test_a_speed_is_told_where_there_was_time_to_measure_it():
    assert speeds([small()], TOKENIZER, TEXT, clock=lambda: 0.0) == [Speed(None, None)]


def test_a_text_shorter_than_the_prompt_of_the_timing_is_taken():
    assert len(speeds([small()], TOKENIZER, "a")) == 1


def test_a_comparison_pairs_the_tokens():
    before, after = [-1.0, -4.0, -9.0], [-1.1, -4.4, -9.4]
    ratio, error = compare(scored(before), scored(after))
    assert ratio == pytest.approx(scored(after).perplexity / scored(before).perplexity)
    lost = np.array([0.1, 0.4, 0.4])
    assert error == pytest.approx(ratio * lost.std(ddof=1) / np.sqrt(3))
    assert error < scored(after).perplexity_error / 20


def test_scores_of_other_tokens_are_not_compared():
    with pytest.raises(ValueError, match="compare: scores of different tokens"):
        compare(scored([-1.0, -2.0, -3.0]), scored([-1.0, -2.0, -3.0], (1, 2, 3, 5)))
