"""Random schemas with whole vocabularies: every text parses, validates and fits.

A hundred of them in a run of all tests; MINILLM_SCHEMAS=1000 takes about a minute.
"""

import os
import random

import numpy
import pytest

from minillm.tokenizers import BPETokenizer, load
from real_models import smollm2
from small_constraints import MERGED
from small_schemas import check_schemas

SCHEMAS = int(os.environ.get("MINILLM_SCHEMAS", "100"))

jsonschema = pytest.importorskip("jsonschema")
Validator = jsonschema.Draft202012Validator


def judge(schema):
    return Validator(schema, format_checker=Validator.FORMAT_CHECKER)


def test_many_schemas_with_a_small_vocabulary():
    rng, draws = random.Random(7), numpy.random.default_rng(7)
    assert check_schemas(judge, rng, draws, MERGED, SCHEMAS) == 4 * SCHEMAS


def test_schemas_with_the_vocabulary_of_gpt2(shared_data):
    with open(shared_data / "tokenizers" / "gpt2.vocab.bpe", encoding="utf-8") as lines:
        tokenizer = BPETokenizer.from_merges(lines)
    rng, draws = random.Random(8), numpy.random.default_rng(8)
    assert check_schemas(judge, rng, draws, tokenizer, SCHEMAS // 10, (0, 3)) == SCHEMAS // 10 * 2


def test_schemas_with_the_vocabulary_of_smollm2():
    rng, draws = random.Random(9), numpy.random.default_rng(9)
    assert (
        check_schemas(judge, rng, draws, load(smollm2()), SCHEMAS // 10, (0, 3))
        == SCHEMAS // 10 * 2
    )
