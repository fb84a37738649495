"""Contrastive search against the formula, with everything computed anew at each step."""

import itertools

import numpy as np
import pytest

import small_gpt2
import small_llama
import small_t5
import small_transformer
from minillm import no_grad
from minillm.generation import Reader
from minillm.generation.contrastive import contrastive_search
from minillm.models import GPT2, GPT2Config

SOURCE = [1, 5, 12, 7, 3]


def random_gpt2(seed, **options):
    sizes = {"vocab_size": 13, "n_positions": 40, "n_embd": 12, "n_layer": 2, "n_head": 3}
    model, rng = GPT2(GPT2Config(**sizes | options)), np.random.default_rng(seed)
    with no_grad():
        for parameter in model.parameters():
            parameter.copy_(rng.normal(0, 0.7, parameter.shape))
    return model.eval()


MODELS = {
    "gpt2": (lambda: random_gpt2(0), [1, 5, 12], None),
    "other gpt2": (lambda: random_gpt2(1), [4], None),
    "llama": (small_llama.small, [1, 5, 12], None),
    "mistral": (lambda: small_llama.small("mistral"), [1, 5, 12], None),
    "t5": (small_t5.small, [], SOURCE),
    "transformer": (small_transformer.small, [4], SOURCE),
}


def outputs(model, text, source, pieces=None):
    """Logits and features (T, .) of a whole text, or of one read in pieces."""
    if pieces:
        reader, start = Reader(model), 0
        reading, features = reader.begin(), []
        for size in pieces:
            ids, start = text[start : start + size], start + size
            features += reader.read([(reading, ids)], every=True, features=True)
        features = np.concatenate(features)
        return reader.logits(features), features
    inputs = ([text],) if source is None else ([source], [text])
    with no_grad():
        inputs = [np.array(ids) for ids in inputs]
        return model(*inputs).numpy()[0], model.features(*inputs).numpy()[0]


def naive(model, prompt, count, alpha, top_k, source=None, vocab_size=None, by_one=False):
    """by_one: the prompt is read whole, what follows id by id."""
    text = prompt if source is None else [model.config.decoder_start_token_id, *prompt]
    length = len(text)
    for step in range(count):
        cut = [length, *[1] * step] if by_one else []
        logits, features = outputs(model, text, source, cut)
        logits = logits[-1, :vocab_size].astype(np.float64)
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = None
        for id in sorted(range(len(logits)), key=lambda id: -logits[id])[:top_k]:
            new = outputs(model, [*text, id], source, cut and [*cut, 1])[1][-1]
            cosines = [new @ old / np.linalg.norm(new) / np.linalg.norm(old) for old in features]
            value = (1 - alpha) * probabilities[id] - alpha * max(cosines)
            if best is None or value > best[0]:
                best = value, id
        text = [*text, best[1]]
    return text[length:]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("alpha, top_k", [(0.6, 4), (0.3, 2), (1.0, 5), (0.05, 13)])
def test_each_id_is_the_best_by_the_formula(name, alpha, top_k):
    make, prompt, source = MODELS[name]
    model = make()
    for use_cache in (True, False):
        ids = contrastive_search(
            Reader(model, use_cache=use_cache), prompt, alpha=alpha, top_k=top_k, source=source,
            max_tokens=12,
        )  # fmt: skip
        assert list(ids) == naive(model, prompt, 12, alpha, top_k, source)


def test_the_penalty_changes_the_text():
    model, texts = random_gpt2(0), {}
    for alpha in (0.0, 0.6):
        ids = contrastive_search(Reader(model), [1, 5], alpha=alpha, max_tokens=30)
        texts[alpha] = list(ids)
    assert texts[0.0] != texts[0.6]
    assert texts[0.0] == list(contrastive_search(Reader(model), [1, 5], top_k=1, max_tokens=30))
    assert texts[0.0] == naive(model, [1, 5], 30, 0.0, 1)


def test_logits_that_depend_on_the_pieces_are_read_one_by_one():
    """As plain decoding reads: the prompt, then id by id."""
    model = small_llama.small("dynamic")
    for alpha in (0.0, 0.3, 0.6):
        got = contrastive_search(Reader(model), [1, 5], alpha=alpha, max_tokens=23)
        assert list(got) == naive(model, [1, 5], 23, alpha, 4, by_one=True)


def test_it_ends_at_an_end_or_at_the_last_token():
    reader = Reader(random_gpt2(0))
    whole = list(contrastive_search(reader, [1, 5], max_tokens=30))
    end = next(id for id in whole if id != whole[0])
    got = list(contrastive_search(reader, [1, 5], max_tokens=30, ends={end, 99}))
    assert got == whole[: whole.index(end) + 1]
    assert list(contrastive_search(reader, [1, 5], max_tokens=0)) == []
    endless = contrastive_search(reader, [1, 5])
    assert list(itertools.islice(endless, 30)) == whole


def test_ids_from_vocab_size_on_are_never_chosen():
    model = random_gpt2(0)
    got = list(contrastive_search(Reader(model), [1], vocab_size=3, top_k=9, max_tokens=20))
    assert got == naive(model, [1], 20, 0.6, 9, vocab_size=3)
    assert max(got) < 3


def test_a_full_context_is_an_error():
    ids = contrastive_search(Reader(small_gpt2.small()), [1, 2])
    assert len(list(itertools.islice(ids, 7))) == 7
    with pytest.raises(ValueError, match="10 tokens, the model's context is 9"):
        next(ids)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"alpha": -0.1}, "alpha: -0.1, 0 <= alpha <= 1"),
        ({"alpha": float("nan")}, "alpha: nan, 0 <= alpha <= 1"),
        ({"alpha": 1.5}, "alpha: 1.5, 0 <= alpha <= 1"),
        ({"top_k": 0}, "top-k: 0, 1 or more is needed for contrastive search"),
        ({"max_tokens": -1}, "max-tokens: -1, 0 or more"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        contrastive_search(Reader(small_gpt2.small()), [1], **options)
