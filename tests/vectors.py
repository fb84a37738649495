"""The frozen token ids of llama.cpp's vocabularies that may lie beside the checkout."""

import json

from minillm.tokenizers import BPETokenizer


def vectors(shared_data, name):
    """Texts and the ids that the vocabulary `name` gives them, 46 of each."""
    folder = shared_data / "tokenizers" / "vectors"
    texts = (folder / f"{name}.inp").read_bytes().decode("utf-8")
    lines = (folder / f"{name}.out").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 46
    ids = [[int(id) for id in line.split()] for line in lines]
    return texts.split("\n__ggml_vocab_test__\n")[:46], ids


def copy_of_bert(shared_data, folder):
    """`folder`, which now holds the vocab.txt of bert-base-uncased."""
    data = (shared_data / "tokenizers" / "bert-uncased.vocab.txt").read_bytes()
    (folder / "vocab.txt").write_bytes(data)
    return folder


def copy_of_gpt2(shared_data, folder):
    """`folder`, which now holds GPT-2's merges.txt and the vocab.json that goes with it."""
    data = (shared_data / "tokenizers" / "gpt2.vocab.bpe").read_text(encoding="utf-8")
    plain = BPETokenizer.from_merges(data.split("\n"))
    vocab = {plain.id_to_token(id): id for id in range(plain.vocab_size)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text(data, encoding="utf-8", newline="")
    return folder
