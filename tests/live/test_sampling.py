"""The steps of sampling against transformers' logits processors, one by one and as generate runs
them."""

import itertools

import numpy as np
import pytest

from minillm.generation.sampling import Sampler, Seen
from minillm.generation.sampling.filters import MinP, TopK, TopP, Typical
from minillm.generation.sampling.penalties import RepetitionPenalty
from minillm.generation.sampling.steps import Temperature

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

STEPS = [
    (Temperature, transformers.TemperatureLogitsWarper, (0.3, 0.8, 2.5)),
    (TopK, transformers.TopKLogitsWarper, (1, 2, 40, 10**6)),
    (TopP, transformers.TopPLogitsWarper, (0.0, 1e-8, 0.1, 0.5, 0.9, 0.99, 0.999999)),
    (MinP, transformers.MinPLogitsWarper, (0.001, 0.05, 0.3, 1.0)),
    (Typical, transformers.TypicalLogitsWarper, (0.01, 0.2, 0.5, 0.9, 0.999)),
]


def random_logits(size, seed, excluded=0):
    """No two alike: of equals transformers keeps all or any, minillm the lowest ids."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(size) * rng.choice([0.1, 1, 5]) + rng.uniform(-5, 5)
    values[rng.choice(size, excluded, replace=False)] = -np.inf
    return values


def softmax(values):
    return torch.softmax(torch.tensor(values), -1).numpy()


@pytest.mark.parametrize("size, excluded", [(1, 0), (2, 1), (17, 5), (1000, 0), (50257, 300)])
@pytest.mark.parametrize("ours, theirs, values", STEPS)
def test_a_step(ours, theirs, values, size, excluded):
    for value, seed in itertools.product(values, range(4)):
        logits = random_logits(size, seed, excluded)
        right = theirs(value)(None, torch.tensor(logits)[None].clone())[0].numpy()
        got = ours(value)(logits)
        assert np.array_equal(np.isfinite(got), np.isfinite(right)), (value, seed)
        np.testing.assert_allclose(softmax(got), softmax(right), rtol=1e-12)


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 10.0])
def test_the_repetition_penalty_counts_the_prompt(penalty):
    for seed in range(5):
        logits, rng = random_logits(300, seed, excluded=20), np.random.default_rng(seed)
        prompt, generated = rng.integers(0, 300, 30), rng.integers(0, 300, 30)
        theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)
        text = torch.tensor(np.concatenate((prompt, generated)))[None]
        right = theirs(text, torch.tensor(logits)[None])[0].numpy()
        got = RepetitionPenalty(penalty)(logits, Seen(prompt, generated))
        np.testing.assert_allclose(got, right, rtol=1e-15)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "top_k": 30},
        {"temperature": 1.5, "top_k": 50, "top_p": 0.8, "repetition_penalty": 1.4},
        {"top_p": 0.9, "min_p": 0.02, "typical": 0.7, "repetition_penalty": 0.8},
        {"temperature": 0.5, "top_k": 60, "top_p": 0.95, "min_p": 0.01, "typical": 0.9},
    ],
)
def test_the_order_is_that_of_generate(options):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=200,
        n_embd=16,
        n_layer=1,
        n_head=2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.lm_head.weight *= 20  # logits that differ
    names = {"typical": "typical_p"}
    settings = {"top_k": 0, **{names.get(key, key): value for key, value in options.items()}}
    prompt = [3, 17, 17, 90]
    made = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, 4),
        do_sample=True,
        max_new_tokens=30,
        pad_token_id=0,
        eos_token_id=None,
        output_scores=True,
        output_logits=True,
        return_dict_in_generate=True,
        **settings,
    )
    ids = made.sequences[0, 4:].tolist()
    assert len(ids) == len(made.logits) == 30
    seen, sampler = Seen(prompt), Sampler(**options)
    for id, raw, processed in zip(ids, made.logits, made.scores):
        got = sampler.probabilities(raw[0].numpy(), seen)
        np.testing.assert_allclose(got, softmax(processed[0].numpy()), atol=1e-6)
        assert got[id] > 0
        seen.push(id)
    if "repetition_penalty" in options:
        assert 1 < len(set(ids)) < 30  # some came again
