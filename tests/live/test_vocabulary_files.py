"""vocab.json with merges.txt, and vocab.txt, against transformers on the same files."""

import json
import random

import pytest

from minillm.tokenizers import load
from vectors import copy_of_bert, copy_of_gpt2, vectors

transformers = pytest.importorskip("transformers")

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>"]


def roberta(shared_data, folder):
    """GPT-2's merges with ids as RoBERTa has them: control tokens first, one last."""
    path = copy_of_gpt2(shared_data, folder) / "vocab.json"
    tokens = list(json.loads(path.read_text(encoding="utf-8")))[:-1]
    vocab = {token: id for id, token in enumerate([*ROBERTA, *tokens, "<mask>"])}
    path.write_text(json.dumps(vocab), encoding="utf-8")
    return folder


CASES = [
    (copy_of_gpt2, "GPT2Tokenizer", {}),
    (copy_of_gpt2, "GPT2Tokenizer", {"add_prefix_space": True}),
    (roberta, "RobertaTokenizer", {}),
    (roberta, "RobertaTokenizer", {"add_prefix_space": True}),
    (copy_of_bert, "BertTokenizer", {}),
    (copy_of_bert, "BertTokenizer", {"do_lower_case": False}),
    (copy_of_bert, "BertTokenizer", {"strip_accents": False}),
    (copy_of_bert, "BertTokenizer", {"do_lower_case": False, "strip_accents": True}),
    (copy_of_bert, "BertTokenizer", {"tokenize_chinese_chars": False}),
]


@pytest.mark.parametrize(("copy", "name", "options"), CASES)
def test_ids_equal(shared_data, tmp_path, copy, name, options):
    folder = copy(shared_data, tmp_path)
    config = json.dumps({"tokenizer_class": name, **options})
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8")
    theirs = getattr(transformers, name).from_pretrained(folder)
    texts = [*vectors(shared_data, "gpt-2")[0], *random_texts(200)]
    tokenizers = [load(folder, backend) for backend in ("python", "tokenizers")]
    plain = {"add_special_tokens": False, "split_special_tokens": True}
    for text in texts:
        right = theirs(text, **plain)["input_ids"], theirs(text, split_special_tokens=True)
        for ours in tokenizers:
            assert ours.encode(text) == right[0]
            assert ours.encode(text, add_special_tokens=True) == right[1]["input_ids"]
    assert tokenizers[0].vocab_size == len(theirs)
    for role, id in tokenizers[0].role_ids.items():
        assert getattr(theirs, f"{role}_token_id") == id
    assert tokenizers[0].encode_pair("hello", "world")[0] == theirs("hello", "world")["input_ids"]


def random_texts(count):
    chance = random.Random(5)
    alphabet = "aAbBeEzZ 019\n\t.,'-#<>[]éÉß\u0301İıﬁΑα中国あ한🦙\u200d\u00a0\ufeff\x00"
    return ["".join(chance.choices(alphabet, k=chance.randrange(30))) for _ in range(count)]
