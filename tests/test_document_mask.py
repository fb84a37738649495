"""Documents side by side in a window, each read as if it stood alone."""

from itertools import pairwise

import numpy as np
import pytest

from minillm.data import Prepared
from minillm.models.gpt2 import places_in
from minillm.tensor import no_grad
from minillm.training.language import LanguageModelling
from small_gpt2 import small
from small_runs import flags, minillm
from small_texts import BYTES, prepared, records, sentences

END = 0
WINDOWS = np.array([[3, 5, END, 7, 7, 2, END, 4, 1], [END, END, 6, 8, 5, 3, 2, END, 9]])
NEXT = np.array([[5, END, 7, 7, 2, END, 4, 1, 12], [END, 6, 8, 5, 3, 2, END, 9, 11]])


def alone(row, targets):
    """The stretches of a window that begin with an end token, or with the window."""
    cuts = [0, *[at for at in np.flatnonzero(row == END).tolist() if at], len(row)]
    return [(row[None, a:b], targets[None, a:b]) for a, b in pairwise(cuts)]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-11), ("float32", 3e-5)])
def test_loss_and_gradients_are_those_of_separate_documents(dtype, tolerance, recompute):
    joined, separate = small().astype(dtype), small().astype(dtype)
    joined.recompute = recompute
    documents = np.cumsum(WINDOWS == END, axis=1)
    loss = joined.loss(WINDOWS, NEXT, reduction="sum", documents=documents)
    loss.backward()
    total = 0.0
    for window, targets in zip(WINDOWS, NEXT):
        for ids, after in alone(window, targets):
            part = separate.loss(ids, after, reduction="sum")
            part.backward()
            total += part.item()
    assert loss.item() == pytest.approx(total, rel=tolerance)
    for (name, one), (_, other) in zip(joined.named_parameters(), separate.named_parameters()):
        scale = np.abs(other.grad.numpy()).max()
        assert np.abs(one.grad.numpy() - other.grad.numpy()).max() <= tolerance * scale, name
    unmasked = small().astype(dtype).loss(WINDOWS, NEXT, reduction="sum")
    assert abs(unmasked.item() - total) > 0.1  # the mask does something


def test_places_begin_anew_in_each_document():
    documents = np.array([[0, 0, 1, 1, 1, 2], [1, 2, 2, 2, 2, 2]])
    assert places_in(documents).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 1, 2, 3, 4]]


def test_training_and_validation_stay_inside_documents(tmp_path, monkeypatch, capsys):
    """What a masked model expects after an end token does not depend on what stands before."""
    monkeypatch.chdir(tmp_path)
    source = records(tmp_path / "a.jsonl", [sentences(i, 2) for i in range(40)])
    prepared(source, tmp_path / "data")
    options = flags(tokenizer=None, steps=8, threads=1, context=64)
    assert minillm("train", "data", "--out", "run", "--document-mask", *options) == 0
    assert minillm("train", "data", "--out", "cut", "--document-mask", "--stop-after", 3,
                   *options) == 0  # fmt: skip
    assert minillm("train", "--resume", "cut") == 0
    weights = (tmp_path / "run/model.safetensors").read_bytes()
    assert (tmp_path / "cut/model.safetensors").read_bytes() == weights
    assert minillm("train", "data", "--out", "plain", *options) == 0
    assert (tmp_path / "plain/model.safetensors").read_bytes() != weights
    data = Prepared.open(tmp_path / "data").dataset(BYTES)
    from minillm.models.folder import load_model

    model = load_model(tmp_path / "run")
    masked, plain = (
        LanguageModelling(BYTES, data, 64, batch=4, seed=0, document_mask=mask)
        for mask in (True, False)
    )
    batch = masked.batch(0, 4)
    total = 0.0
    with no_grad():
        for window, targets in zip(*batch):
            cuts = [0, *[a for a in np.flatnonzero(window == BYTES.eos_id).tolist() if a], 64]
            for a, b in pairwise(cuts):
                part = model.loss(window[None, a:b], targets[None, a:b], reduction="sum")
                total += part.item()
        assert masked.loss(model, batch).item() == pytest.approx(total, rel=1e-5)
        measured = [one.evaluate(model, None)["val_loss"] for one in (masked, plain)]
    assert measured[0] != measured[1]


def test_a_tokenizer_without_end_token_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text(sentences(1, 60), encoding="utf-8")
    assert minillm("train", "a.txt", "--out", "run", "--document-mask", *flags()) == 2
    err = capsys.readouterr().err
    assert "minillm: document-mask: the char tokenizer has no end token" in err
    assert not (tmp_path / "run").exists()
