"""The frozen token ids of llama.cpp's vocabularies that may lie beside the checkout."""


def vectors(shared_data, name):
    """Texts and the ids that the vocabulary `name` gives them, 46 of each."""
    folder = shared_data / "tokenizers" / "vectors"
    texts = (folder / f"{name}.inp").read_bytes().decode("utf-8")
    lines = (folder / f"{name}.out").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 46
    ids = [[int(id) for id in line.split()] for line in lines]
    return texts.split("\n__ggml_vocab_test__\n")[:46], ids
