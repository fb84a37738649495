"""The family of docs/families.md against transformers."""

import itertools

import numpy as np
import pytest

from minillm.models.folder import load_model, save_model
from test_families import logits, neox

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors.torch")  # before float32 means something else

__all__ = ["neox"]  # the fixture
CASES = list(itertools.product((True, False), (0.25, 0.5, 1.0), ("gelu", "gelu_new")))


@pytest.mark.parametrize("parallel, share, activation", CASES)
def test_it_equals_transformers(neox, tmp_path, monkeypatch, parallel, share, activation):
    """transformers computes angles in float32; here its names for float32 mean float64."""
    rng = np.random.default_rng([int(parallel), int(share * 100), len(activation)])
    heads = int(rng.integers(1, 4))
    torch.manual_seed(int(rng.integers(1 << 30)))
    config = transformers.GPTNeoXConfig(
        vocab_size=int(rng.integers(5, 40)),
        hidden_size=heads * 8,
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=heads,
        intermediate_size=int(rng.integers(3, 40)),
        max_position_embeddings=24,
        hidden_act=activation,
        use_parallel_residual=parallel,
        rotary_pct=share,
        rotary_emb_base=float(rng.choice([100, 10000])),
    )
    theirs = transformers.GPTNeoXForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.4)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    ids = rng.integers(0, config.vocab_size, (2, 24))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    assert error(logits(ours, ids), expected) < 1e-4
    save_model(tmp_path / "ours", ours)
    back = transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert np.array_equal(back(torch.tensor(ids)).logits.numpy(), expected)
        monkeypatch.setattr(torch, "float", torch.float64)
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        exact = transformers.GPTNeoXForCausalLM(config).double().eval()
        exact.load_state_dict(theirs.double().state_dict())
        expected = exact(torch.tensor(ids)).logits.numpy()
    assert error(logits(ours.astype("float64"), ids), expected) < 1e-9


def error(got, right):
    assert got.shape == right.shape
    return np.abs(got - right).max() / np.abs(right).max()
