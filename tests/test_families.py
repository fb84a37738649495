"""The family worked out in docs/families.md, taken from that page."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from minillm import no_grad
from minillm.generation.cache import Cache
from minillm.models import FAMILIES
from minillm.models.folder import load_model, save_model

PAGE = Path(__file__).resolve().parents[1] / "docs" / "families.md"
SIZES = {
    "vocab_size": 11,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 10,
    "max_position_embeddings": 16,
    "rotary_pct": 0.5,
}
IDS = np.array([[1, 5, 10, 0, 5, 7, 3, 3, 2], [2, 2, 9, 6, 4, 0, 6, 8, 1]])

# What transformers 5.24 gives for small() at [1, 8], parallel and not, in float64.
FROZEN = {
    True: """
        2.76486429641 -0.99465516573 2.83390285 0.149035525968 -0.501872047384 -0.698197205463
        0.872102579274 -3.32504101398 0.177938860739 -0.00459235667894 5.46154072063
    """,
    False: """
        1.9930235194 0.765417210358 3.16246197219 0.27700762809 -0.189219670152 -0.279541125207
        0.353560787243 -1.29954591836 -0.472785293452 -1.88314881607 3.53112595726
    """,
}


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    """The page's module, registered."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    path = tmp_path_factory.mktemp("family") / "gpt_neox.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("gpt_neox", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gpt_neox", module)
        spec.loader.exec_module(module)
        patch.setitem(FAMILIES, "gpt_neox", module.FAMILY)
        yield module


def small(neox, **options):
    model = neox.GPTNeoX(neox.GPTNeoXConfig(**SIZES | options))
    with no_grad():
        for place, parameter in enumerate(model.parameters(), 1):
            wave = np.sin(np.arange(parameter.size) ** 2 * 0.1 + place).reshape(parameter.shape)
            parameter.copy_(parameter.data.mean().round() + 0.5 * wave)
    return model.eval()


def logits(model, ids=IDS):
    with no_grad():
        return model(ids).numpy()


@pytest.mark.parametrize("parallel", FROZEN)
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-4)])
def test_it_gives_what_transformers_gave(neox, parallel, dtype, tolerance):
    model = small(neox, use_parallel_residual=parallel).astype(dtype)
    right = np.array(FROZEN[parallel].split(), float)
    np.testing.assert_allclose(logits(model)[1, 8], right, rtol=0, atol=tolerance)


def test_it_is_saved_and_opened_like_any_other(neox, tmp_path):
    model = small(neox)
    assert model.config.parameter_count == model.parameter_count()
    save_model(tmp_path / "model", model)
    again = load_model(tmp_path / "model")
    assert type(again) is neox.GPTNeoX and again.config == model.config
    assert np.array_equal(logits(again), logits(model))
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt_neox", "rope_scaling": 2}')
    with pytest.raises(ValueError, match="gpt_neox: rope_scaling=2 is not implemented"):
        load_model(tmp_path / "model")


def test_a_cache_changes_nothing(neox):
    model, cache = small(neox).astype("float64"), Cache(2)
    whole = logits(model)
    with no_grad():
        pieces = [model(IDS[:, start:end], cache) for start, end in ((0, 1), (1, 4), (4, 9))]
        assert np.allclose(np.concatenate([p.data for p in pieces], axis=1), whole, atol=1e-12)
        assert np.allclose(model.next_logits(IDS).data, whole[:, -1], atol=1e-12)


def test_it_learns(neox):
    from minillm.optim import AdamW

    model = small(neox).train()
    optimiser, losses = AdamW(model.parameters(), lr=0.01), []
    for _ in range(30):
        optimiser.zero_grad()
        loss = model.loss(IDS[:, :-1], IDS[:, 1:])
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
