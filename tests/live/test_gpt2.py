"""GPT-2 against transformers: random small models with every option, and all gradients of one."""

import json

import numpy as np
import pytest

from minillm import generation, no_grad
from minillm.models.folder import load_model, save_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CASES = [
    {},
    {"activation_function": "gelu"},
    {"activation_function": "relu", "n_inner": 10},
    {"activation_function": "silu", "n_layer": 3},
    {"activation_function": "tanh", "n_inner": 96},
    {"activation_function": "sigmoid", "n_head": 1},
    {"activation_function": "quick_gelu", "n_embd": 40, "n_head": 5},
    {"activation_function": "gelu_fast", "layer_norm_epsilon": 1e-3},
    {"activation_function": "gelu_pytorch_tanh", "n_layer": 1},
    {"tie_word_embeddings": False},
    {"tie_word_embeddings": False, "vocab_size": 3, "n_positions": 11},
    {"scale_attn_by_inverse_layer_idx": True, "n_layer": 4},
    {"scale_attn_weights": False},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    {"n_inner": 7, "tie_word_embeddings": False, "activation_function": "swish"},
]
SIZES = {"vocab_size": 61, "n_positions": 24, "n_embd": 24, "n_layer": 2, "n_head": 3}


def made(folder, options, seed=0):
    """A random transformers model in float64, saved to `folder` in float32."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(**SIZES | options, attn_implementation="eager")
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3)
    theirs.save_pretrained(folder)
    ids = torch.randint(0, config.vocab_size, (2, min(20, config.n_positions)))
    return theirs.double(), ids


def relative(got, right):
    return np.abs(got - right).max() / np.abs(right).max()


@pytest.mark.parametrize("options", CASES, ids=str)
def test_logits(tmp_path, options):
    theirs, ids = made(tmp_path, options)
    exact = 1e-9
    if "reorder_and_upcast_attn" in options:  # works in float32 only
        theirs, exact = theirs.float(), 1e-5
    with torch.no_grad():
        right = theirs(ids).logits.numpy()
    ours = load_model(tmp_path)
    with no_grad():
        single = ours(ids.numpy()).numpy()
        assert single.dtype == np.float32
        assert relative(single, right) <= 1e-4
        ours.astype("float64")
        assert relative(ours(ids.numpy()).numpy(), right) <= exact
        cache = generation.Cache(ours.config.n_layer)
        pieces = [ours(part, cache).numpy() for part in (ids.numpy()[:, :7], ids.numpy()[:, 7:])]
        assert relative(np.concatenate(pieces, 1), right) <= exact
    assert ours.parameter_count() == ours.config.parameter_count == theirs.num_parameters()


@pytest.mark.parametrize(
    "options",
    [
        {"tie_word_embeddings": False, "n_inner": 50, "scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "relu", "scale_attn_weights": False},
    ],
    ids=str,
)
def test_gradients_of_all_parameters(tmp_path, options):
    theirs, ids = made(tmp_path, options)
    logits = theirs(ids).logits[:, :-1].flatten(0, 1)  # its own loss rounds them to float32
    torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).backward()
    ours = load_model(tmp_path).astype("float64")
    loss = ours.loss(ids.numpy()[:, :-1], ids.numpy()[:, 1:])
    loss.backward()
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        right = parameter.grad.numpy()
        got = gradients.pop(name.removeprefix("transformer.")).grad.data
        got = got.T if name.endswith(transposed) else got
        # the bias of keys has no influence: both sides hold rounding errors of 0 there
        assert np.abs(got - right).max() <= 1e-9 * max(np.abs(right).max(), 0.1), name
    assert not gradients


def test_what_we_save_transformers_opens(tmp_path):
    for place, options in enumerate(CASES):
        made(tmp_path / f"{place}", options)
        ours = load_model(tmp_path / f"{place}")
        save_model(tmp_path / f"{place}-again", ours)
        again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / f"{place}-again").eval()
        ids = torch.arange(9)[None] % ours.config.vocab_size
        with torch.no_grad(), no_grad():
            right = again(ids).logits.numpy()
            assert relative(ours(ids.numpy()).numpy(), right) <= 1e-4


def test_what_transformers_leaves_out_of_config_json_has_its_defaults(tmp_path):
    _, ids = made(tmp_path, {"n_head": 12, "n_embd": 24})
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for name in ("activation_function", "layer_norm_epsilon", "scale_attn_weights", "n_inner"):
        content.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).double().eval()
    with torch.no_grad(), no_grad():
        right = again(ids).logits.numpy()
        got = load_model(tmp_path).astype("float64")(ids.numpy()).numpy()
    assert relative(got, right) <= 1e-9
