"""GPT-2 against PyTorch, transformers and a published model."""

import base64
import itertools
import json

import numpy as np
import pytest

from minillm import Tensor, manual_seed, nn, no_grad, ops
from minillm.formats import hf
from minillm.generation import Cache
from minillm.models import FAMILIES, GPT2, GPT2Config
from minillm.models.folder import load_model, save_weights
from small_gpt2 import IDS, SIZES, TARGETS, logits, small

# What PyTorch 2.13 gives for small(): the loss and the norm of every gradient, in float64.
FROZEN_LOSS = 3.308554284164829
FROZEN_NORMS = (
    1.77616829774, 1.24543388978, 0.553955868555, 0.51997067354, 1.63828640346, 0.407355830029,
    1.09481500645, 0.312556867064, 0.190758542023, 0.247641144099, 0.790032105788, 0.259985467087,
    1.01046509677, 0.160333650559, 0.250484746997, 0.267002016256, 0.929954018241, 0.235080112322,
    0.726293716432, 0.163926505378, 0.191756251536, 0.240200501407, 0.730471920137, 0.22232991565,
    0.669141984188, 0.111278787214, 0.473463258159, 0.495308361686,
)  # fmt: skip

# What transformers 5.24 gives for small(**options) in float64: the norm of the logits of IDS, and
# the first five after the last id.
FROZEN_OPTIONS = [
    ({"tie_word_embeddings": False}, 19.336260044,
     [-2.022278484, -1.306505581, -1.83196588, 1.799248324, -0.09761351046]),
    ({"n_inner": 10}, 17.191100132,
     [3.755730074, -0.6316224294, -0.5426391055, 0.8390247702, 1.039189136]),
    ({"scale_attn_weights": False}, 20.3033234998,
     [2.912595611, 0.7127957019, 1.114233961, -1.206923505, 0.7426556942]),
    ({"scale_attn_by_inverse_layer_idx": True}, 20.5442758239,
     [2.732523534, 0.4704091343, 2.061288866, -1.889671558, 0.5316562568]),
    ({"activation_function": "gelu"}, 20.1773477172,
     [2.764766626, 0.5589846708, 1.748880627, -1.76785503, 0.4621096682]),
    ({"activation_function": "relu"}, 21.265922361852734,
     [2.560697619, 0.6420012832, 2.190702368, -2.027095019, 0.6375905169]),
    ({"activation_function": "silu"}, 19.10271542032754,
     [2.860450863, 0.6224359922, 1.375073391, -1.547095986, 0.3904784872]),
    ({"activation_function": "tanh"}, 16.55935389427676,
     [2.949721007, -0.03718090012, 0.1823235189, -0.5641982041, 0.9199548415]),
    ({"activation_function": "sigmoid"}, 22.111023038106243,
     [2.754078655, 0.7479641643, 2.256311997, -1.359194103, 1.533922064]),
    ({"activation_function": "quick_gelu"}, 20.167332714496958,
     [2.771781072, 0.5706805625, 1.749029889, -1.761628452, 0.4607802328]),
]  # fmt: skip


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-8), ("float32", 2e-5)])
@pytest.mark.parametrize("options, norm, last", FROZEN_OPTIONS, ids=lambda o: str(o)[:40])
def test_logits_equal_what_transformers_gave(options, norm, last, dtype, tolerance):
    model = small(**options).astype(dtype)
    got = logits(model)
    np.testing.assert_allclose(np.linalg.norm(got), norm, rtol=tolerance)
    np.testing.assert_allclose(got[1, -1, :5], last, rtol=tolerance, atol=tolerance)
    cache = Cache(model.config.n_layer)
    with no_grad():
        pieces = [model(part, cache).numpy() for part in (IDS[:, :3], IDS[:, 3:6], IDS[:, 6:])]
        np.testing.assert_allclose(np.concatenate(pieces, 1), got, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(model.next_logits(IDS).numpy(), got[:, -1], atol=tolerance)
    assert model.parameter_count() == model.config.parameter_count


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-7), ("float32", 1e-4)])
def test_loss_and_gradients_equal_what_pytorch_gave(dtype, tolerance):
    model = small().astype(dtype)
    loss = model.loss(IDS, TARGETS)
    loss.backward()
    norms = [np.linalg.norm(parameter.grad.data) for parameter in model.parameters()]
    np.testing.assert_allclose(loss.item(), FROZEN_LOSS, rtol=tolerance)
    np.testing.assert_allclose(norms, FROZEN_NORMS, rtol=tolerance)


def unfused_loss(model):
    """The same model from operations that do one thing each."""
    heads = model.config.n_head
    x = model.wte(IDS) + model.wpe(np.arange(IDS.shape[1]))
    for block in model.h:
        joint = ops.linear(block.ln_1(x), block.attn.c_attn.weight) + block.attn.c_attn.bias
        width = joint.shape[2] // 3
        q, k, v = (
            nn.split_heads(joint[..., start : start + width], heads)
            for start in (0, width, 2 * width)
        )
        mixed = nn.merge_heads(ops.scaled_dot_product_attention(q, k, v, causal=True))
        x = x + block.attn.c_proj(mixed)
        inner = ops.gelu(block.mlp.c_fc(block.ln_2(x)), approximate="tanh")
        x = x + block.mlp.c_proj(inner)
    logits = model.ln_f(x) @ model.wte.weight.T
    return ops.cross_entropy(logits, TARGETS)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-5)])
def test_fused_operations_change_neither_loss_nor_gradients(dtype, tolerance):
    fused, unfused = small().astype(dtype), small().astype(dtype)
    for _ in range(2):  # the second time onto the gradients of the first
        losses = fused.loss(IDS, TARGETS), unfused_loss(unfused)
        for loss in losses:
            loss.backward()
        np.testing.assert_allclose(losses[0].item(), losses[1].item(), rtol=tolerance)
        for (name, one), other in zip(fused.named_parameters(), unfused.parameters()):
            right = other.grad.data
            error = np.abs(one.grad.data - right).max()
            assert error <= tolerance * max(np.abs(right).max(), 0.1), name


def test_dropout_keeps_its_place_before_the_residual():
    """Dropout that drops nothing that is seen: 1 of 2 ** 40 elements."""
    plain, dropping = small().train(), small(dropout=2.0**-40).train()
    assert dropping.h[0].dropout.active and not plain.h[0].dropout.active
    losses = [model.loss(IDS, TARGETS).item() for model in (plain, dropping)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    assert not dropping.eval().h[0].dropout.active


def torch_loss(torch, weights, approximate):
    """GPT-2 once more, from PyTorch's parts."""
    f, (width, heads) = torch.nn.functional, (SIZES["n_embd"], SIZES["n_head"])

    def norm(x, name):
        return f.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def linear(x, name):
        return f.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    ids, targets = torch.tensor(IDS), torch.tensor(TARGETS)
    x = weights["wte.weight"][ids] + weights["wpe.weight"][: ids.shape[1]]
    for block in ("h.0", "h.1"):
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(width, dim=-1)
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv)
        y = f.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(y.transpose(1, 2).flatten(2), f"{block}.attn.c_proj")
        y = f.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"), approximate=approximate)
        x = x + linear(y, f"{block}.mlp.c_proj")
    x = f.linear(norm(x, "ln_f"), weights["wte.weight"])
    return f.cross_entropy(x.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_every_gradient_equal_pytorchs(activation, recompute):
    torch = pytest.importorskip("torch")
    model = small(activation_function=activation).astype("float64")
    model.recompute = recompute
    weights = {
        name: torch.tensor(array, requires_grad=True) for name, array in model.state_dict().items()
    }
    expected = torch_loss(torch, weights, "tanh" if activation == "gelu_new" else "none")
    expected.backward()
    loss = model.loss(IDS, TARGETS)
    loss.backward()
    assert abs(loss.item() / expected.item() - 1) < 1e-10
    gradients = dict(model.named_parameters())
    assert gradients.keys() == weights.keys()
    for name, weight in weights.items():
        right = weight.grad.numpy()
        error = np.abs(gradients[name].grad.data - right).max() / np.abs(right).max()
        # the bias of keys has no influence: both sides hold rounding errors of 0
        assert error < 1e-10 or np.abs(right).max() < 1e-10, name


@pytest.mark.parametrize("activation", ["gelu_new", "gelu"])
def test_transformers_opens_what_was_saved_and_the_reverse(tmp_path, activation):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = small(activation_function=activation)
    (tmp_path / "ours").mkdir()
    hf.write_json(tmp_path / "ours" / "config.json", model.config.to_hf())
    save_weights(tmp_path / "ours", model)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        np.testing.assert_allclose(
            theirs(torch.tensor(IDS)).logits.numpy(), logits(model), atol=2e-5
        )
        torch.manual_seed(1)
        config = transformers.GPT2Config(**SIZES, activation_function=activation)
        theirs = transformers.GPT2LMHeadModel(config).eval()
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3)
        theirs.save_pretrained(tmp_path / "theirs")
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(logits(load_model(tmp_path / "theirs")), expected, atol=2e-5)


@pytest.fixture(scope="module")
def published(shared_data):
    """minGPT's gpt-nano-sort and what it computed for three inputs, by its own code."""

    def arrays(name):
        path = shared_data / "models" / "gpt-nano-sort" / f"gpt-nano-sort-{name}.json"
        return {
            key: np.frombuffer(base64.b64decode(entry["data"]), "<f4").reshape(entry["shape"])
            for key, entry in json.loads(path.read_text(encoding="utf-8")).items()
            if key != "config"
        }

    weights, partials = arrays("model"), arrays("t0-partials")
    config = GPT2Config(
        vocab_size=3, n_positions=11, n_embd=48, n_layer=3, n_head=3, tie_word_embeddings=False
    )
    model = GPT2(config).eval()
    model.load_state_dict(FAMILIES["gpt2"].from_files(weights, config))
    return model, partials


class TestPublishedModel:
    """Its head is not tied, and its weights lie as Linear has them."""

    def test_every_stage_gives_the_published_numbers(self, published):
        model, partials = published
        ids = partials["idx"].astype(np.int64)
        with no_grad():
            x = model.wte(ids) + model.wpe(np.arange(11))
            self.close(x, partials["x"])
            block = model.h[0]
            self.close(block.ln_1(x), partials["ln1"])
            self.close(block.attn.c_attn(block.ln_1(x)), partials["qkv"])
            self.close(block.attn(block.ln_1(x), None), partials["yProj"])
            middle = Tensor(partials["attnResid"])
            self.close(block.mlp.c_fc(block.ln_2(middle)), partials["fc"])
            self.close(ops.gelu(Tensor(partials["fc"]), approximate="tanh"), partials["gelu"])
            self.close(block.mlp(block.ln_2(middle)), partials["mlp"])
            for place, block in enumerate(model.h):
                x = block(x)
                self.close(x, partials[f"block{place}"])
            self.close(model.features(ids), partials["ln_f"])
            self.close(model(ids), partials["lm_head"])
            self.close(ops.softmax(model(ids)), partials["probs"])

    def close(self, got, right):
        np.testing.assert_allclose(got.data, right, atol=5e-6)

    def test_it_sorts_every_input(self, published):
        model, _ = published
        inputs = np.array(list(itertools.product(range(3), repeat=6)))
        ids = inputs
        with no_grad():
            for _ in range(6):
                last = model.next_logits(ids)
                ids = np.concatenate([ids, last.data.argmax(axis=1)[:, None]], axis=1)
        assert np.array_equal(ids[:, 6:], np.sort(inputs, axis=1))


class TestModel:
    def test_loss_is_the_cross_entropy_of_the_logits(self):
        model = small()
        for reduction in ("mean", "sum", "none"):
            expected = ops.cross_entropy(model(IDS), TARGETS, reduction=reduction).data
            got = model.loss(IDS, TARGETS, reduction=reduction).data
            np.testing.assert_allclose(got, expected, rtol=2e-6, atol=2e-6)

    def test_next_logits_are_the_last_ones(self):
        model = small()
        np.testing.assert_allclose(model.next_logits(IDS).data, logits(model)[:, -1], atol=2e-6)

    def test_a_later_token_changes_nothing_before_it(self):
        model, other = small(), IDS.copy()
        other[:, 4] = 9
        before, after = logits(model), logits(model, other)
        np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
        assert np.abs(before[:, 4:] - after[:, 4:]).min() > 0

    def test_the_tied_weight_collects_the_gradient_of_both_uses(self):
        model = small()
        features = Tensor(model.features(IDS).data, requires_grad=True)
        weight = Tensor(model.wte.weight.data, requires_grad=True)
        ops.linear_cross_entropy(features, weight, TARGETS).backward()
        head = weight.grad.data
        model.features(IDS).backward(features.grad)
        embedding = model.wte.weight.grad.data.copy()
        model.zero_grad()
        model.loss(IDS, TARGETS).backward()
        np.testing.assert_allclose(model.wte.weight.grad.data, head + embedding, atol=1e-6)
        assert min(np.abs(head).max(), np.abs(embedding).max()) > 0.01

    def test_recomputation_gives_the_same_bits_with_dropout(self):
        gradients = []
        for recompute in (False, True):
            model = small(dropout=0.3).train()
            model.recompute = recompute
            manual_seed(5)
            model.loss(IDS, TARGETS).backward()
            gradients.append([parameter.grad.data for parameter in model.parameters()])
        assert all(np.array_equal(a, b) for a, b in zip(*gradients))

    def test_dropout_acts_in_training_only(self):
        model = small(dropout=0.3)
        assert np.array_equal(logits(model), logits(model))
        model.train()
        assert not np.array_equal(logits(model), logits(model))

    def test_initial_weights(self):
        config = GPT2Config(vocab_size=100, n_positions=50, n_embd=64, n_layer=8, n_head=4)
        model, again, other = GPT2(config, 1), GPT2(config, 1), GPT2(config, 2)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                assert (parameter.data == (1 if name.endswith("weight") else 0)).all(), name
            else:
                std = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
                assert abs(parameter.data.std() / std - 1) < 0.05, name
            assert np.array_equal(parameter.data, again.state_dict()[name])
        assert not np.array_equal(model.wte.weight.data, other.wte.weight.data)

    @pytest.mark.parametrize("sizes", [SIZES, SIZES | {"n_layer": 3, "n_embd": 24}])
    def test_parameters_are_counted(self, sizes):
        config = GPT2Config(**sizes)
        model = GPT2(config)
        assert config.parameter_count == model.parameter_count()
        assert model.parameter_count() == sum(a.size for a in model.state_dict().values())

    def test_gpt2_small_has_the_published_number_of_parameters(self):
        config = GPT2Config(vocab_size=50257, n_positions=1024, n_embd=768, n_layer=12, n_head=12)
        assert config.parameter_count == 124_439_808

    def test_positions_end_where_the_context_ends(self):
        model = small()
        assert logits(model, np.zeros((1, 9), int)).shape == (1, 9, 13)
        with pytest.raises(ValueError, match="gpt2: position 9 asked for, the model has 9"):
            logits(model, np.zeros((1, 10), int))

    def test_what_is_no_batch_of_ids_is_refused(self):
        for ids, shape in ((np.array([1, 2]), r"\(2,\)"), ([[1, 2]], r"\(1, 2\)")):
            with pytest.raises(ValueError, match=rf"gpt2: ids of shape {shape}, an array \(B, T\)"):
                logits(small(), ids)
        with pytest.raises(IndexError, match="id 13, 0 <= id < 13 is needed"):
            logits(small(), np.array([[13]]))
