"""A thousand random schemas with whole vocabularies: every text parses, validates and fits."""

import random

import numpy
import pytest

from minillm.tokenizers import BPETokenizer, load
from real_models import smollm2
from small_constraints import MERGED
from small_schemas import check_schemas

jsonschema = pytest.importorskip("jsonschema")
Validator = jsonschema.Draft202012Validator


def judge(schema):
    return Validator(schema, format_checker=Validator.FORMAT_CHECKER)


def test_a_thousand_schemas_with_a_small_vocabulary():
    rng, draws = random.Random(7), numpy.random.default_rng(7)
    assert check_schemas(judge, rng, draws, MERGED, 1000) == 4000


def test_a_hundred_schemas_with_the_vocabulary_of_gpt2(shared_data):
    with open(shared_data / "tokenizers" / "gpt2.vocab.bpe", encoding="utf-8") as lines:
        tokenizer = BPETokenizer.from_merges(lines)
    rng, draws = random.Random(8), numpy.random.default_rng(8)
    assert check_schemas(judge, rng, draws, tokenizer, 100, (0, 3)) == 200


def test_a_hundred_schemas_with_the_vocabulary_of_smollm2():
    rng, draws = random.Random(9), numpy.random.default_rng(9)
    assert check_schemas(judge, rng, draws, load(smollm2()), 100, (0, 3)) == 200
