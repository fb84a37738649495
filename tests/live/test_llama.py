"""The Llama family against transformers, whose own code runs here in the precision asked for."""

import numpy as np
import pytest

from minillm import no_grad
from minillm.generation import Cache
from minillm.models import FAMILIES, Llama, LlamaConfig
from minillm.models.folder import load_model, save_model
from small_llama import BANDS, CASES, FACTORS, IDS, SIZES, TARGETS, content, logits, small

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors.torch")  # before float32 means something else

PIECES = (5, 1, 1, 9, 8)


@pytest.fixture
def in_float64(monkeypatch):
    """transformers computes norms and angles in float32 even in a float64 model; here the names
    it uses for float32 mean float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(before)


def theirs_of(model, description, dtype, attention="eager"):
    """transformers' model for a content of config.json, with our weights under their names."""
    config = transformers.AutoConfig.for_model(**description)
    config._attn_implementation = attention
    theirs = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    arrays = FAMILIES[description["model_type"]].to_files(model.state_dict(), model.config)
    state = {name: torch.tensor(array).to(dtype) for name, array in arrays.items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert unexpected == []
    assert missing == ["lm_head.weight"] * model.config.tie_word_embeddings
    return theirs


def their_logits(theirs, ids=IDS):
    with torch.no_grad():
        return theirs(torch.tensor(ids)).logits.numpy()


def error(got, right):
    assert got.shape == right.shape
    return np.abs(got - right).max() / np.abs(right).max()


@pytest.mark.parametrize("case", CASES)
def test_logits_in_float64(case, in_float64):
    model = small(case).astype("float64")
    theirs = theirs_of(model, content(case), torch.float64)
    for ids in (IDS, IDS[:, :5]):  # beyond the original positions and within
        assert error(logits(model, ids), their_logits(theirs, ids)) <= 1e-9
        theirs = theirs_of(model, content(case), torch.float64)  # it remembers the longest text


@pytest.mark.parametrize("case", CASES)
def test_logits_in_float32(case):
    model = small(case)
    theirs = theirs_of(model, content(case), torch.float32, "sdpa")
    assert error(logits(model), their_logits(theirs)) <= 1e-4


def drawn(seed):
    """A random configuration: any kind, sizes, options and scaling."""
    rng = np.random.default_rng(seed)
    draw = lambda *values: values[rng.integers(len(values))]  # noqa: E731
    kind = draw("llama", "mistral", "qwen2", "qwen3")
    kv_heads, head_dim = draw(1, 2, 3), draw(4, 8)
    heads = kv_heads * draw(1, 2, 3)
    description = SIZES | {
        "model_type": kind,
        "num_hidden_layers": draw(1, 2, 3),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_size": heads * draw(2, 3, 4),
        "intermediate_size": draw(5, 24),
        "hidden_act": draw("silu", "gelu", "gelu_pytorch_tanh", "relu"),
        "rms_norm_eps": draw(1e-6, 1e-2),
        "tie_word_embeddings": draw(True, False),
        "rope_theta": draw(100.0, 10000.0),
        "rope_scaling": draw(
            None,
            {"type": "linear", "factor": draw(2.0, 3.0)},
            {"rope_type": "dynamic", "factor": draw(2.0, 3.0)},
            {"rope_type": "yarn", "factor": draw(2.0, 5.0), "truncate": draw(True, False)},
            {name: values[: head_dim // 2] for name, values in FACTORS.items()}
            | {"rope_type": "longrope", "original_max_position_embeddings": draw(16, 30)},
            {"rope_type": "llama3", "factor": 4.0, **BANDS}
            | {"original_max_position_embeddings": draw(16, 32)},
        ),
        "max_position_embeddings": draw(24, 40),
    }
    if kind == "mistral":
        description["sliding_window"] = draw(None, 1, 4, 30)
    elif kind != "llama":
        description |= {"use_sliding_window": draw(True, False), "sliding_window": draw(2, 9)}
        description["max_window_layers"] = draw(0, 1, 5)
    if kind in ("llama", "qwen3"):
        description["attention_bias"] = draw(True, False)
    if kind == "llama":
        description["mlp_bias"] = draw(True, False)
    return description


def drawn_model(description, seed):
    model, rng = Llama(LlamaConfig.from_hf(description)), np.random.default_rng(seed)
    with no_grad():
        for parameter in model.parameters():
            parameter.copy_(rng.normal(0.3, 0.5, parameter.shape).astype(np.float32))
    return model.eval()


@pytest.mark.parametrize("seed", range(40))
def test_random_configurations(seed, in_float64):
    description = drawn(seed)
    model = drawn_model(description, seed).astype("float64")
    theirs = theirs_of(model, description, torch.float64)
    assert error(logits(model), their_logits(theirs)) <= 1e-9
    assert model.config.parameter_count == theirs.num_parameters()


@pytest.mark.parametrize("case", ["biases", "tied", "dynamic", "mistral", "qwen2, window", "qwen3"])
def test_gradients_of_all_parameters(case, in_float64):
    model = small(case).astype("float64")
    theirs = theirs_of(model, content(case), torch.float64)
    out = theirs(torch.tensor(IDS)).logits.flatten(0, 1)
    torch.nn.functional.cross_entropy(out, torch.tensor(TARGETS).flatten()).backward()
    model.loss(IDS, TARGETS).backward()
    gradients = {name: p.grad.data for name, p in model.named_parameters()}
    gradients = FAMILIES["llama"].to_files(gradients, model.config)
    for name, parameter in theirs.named_parameters():
        assert error(gradients.pop(name), parameter.grad.numpy()) <= 1e-9, name
    assert not gradients


@pytest.mark.parametrize("case", CASES)
def test_a_text_in_pieces_gives_the_logits_that_it_gives_there(case, in_float64):
    """Also where the angles depend on the length, beyond the original positions."""
    model = small(case).astype("float64")
    theirs = theirs_of(model, content(case), torch.float64)
    cache, known, place = Cache(2), None, 0
    for length in PIECES:
        ids = IDS[:, place : place + length]
        with no_grad(), torch.no_grad():
            right = theirs(torch.tensor(ids), cache=known, use_cache=True)
            got = model(ids, cache).numpy()
        known, place = right.past_key_values, place + length
        assert error(got, right.logits.numpy()) <= 1e-9


@pytest.mark.parametrize("case", CASES)
def test_each_opens_what_the_other_saved(tmp_path, case):
    ours = small(case)
    right = logits(ours)
    save_model(tmp_path / "ours", ours)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert type(theirs).__name__ == ours.config.to_hf()["architectures"][0]
    assert error(their_logits(theirs), right) <= 1e-4
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_model(tmp_path / "theirs")
    assert error(logits(again), right) <= 1e-6
    assert again.config == ours.config


def test_angles_of_a_long_text_are_those_of_a_model_in_float32():
    """At position 4000 they are 1e-4 off the true ones, and all weights were trained with that."""
    options = {"max_position_embeddings": 4096, "num_hidden_layers": 1}
    ids = np.arange(4000)[None] % 17
    model = small("llama", **options)
    theirs = theirs_of(model, content("llama") | options, torch.float32, "sdpa")
    assert error(logits(model, ids)[:, -500:], their_logits(theirs, ids)[:, -500:]) <= 1e-5
